"""The attribution of one sentence's next token, of any target: what ``harness attribute`` shows.

``reading``: the sentence, once through the model; ``names``: targets and units by the names that people give them;
``levels``: layers, heads, neurons, attention neurons, source positions; ``lens``: what the residual stream says on the
way; ``query``: what activates the value neurons; ``paths``: what earlier writes bring through one head;
``attribution``: all of it as data frames; ``console`` and ``page``: for people.
"""
