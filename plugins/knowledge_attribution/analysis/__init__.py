"""How much likelier a component makes a token, for neurons, heads, and positions of heads; and who activates it."""
