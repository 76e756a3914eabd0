"""What selectors and tasks compute on a model: heads' scores, effects on a text, direct feature attribution."""
