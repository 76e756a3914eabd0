"""Components that belong to no paper, registered as a plugin's are.

``components``: hub models, texts, neurons at random. ``named_units``: neurons, heads and others that the user names.
``interventions``: neurons, or other units of one number, held at a constant (mean, median, mode, zero ...), scaled,
exchanged, made noisy; ``activation_figures`` shows these constants.
``within``: an intervention where activations lie in a range.
``circuits``: several interventions in one condition, each on a selection of its own.
``python_docs``: texts for a model that has none of its own, without the network.
``temperature``: the metric that takes from each change what a change of temperature makes of it;
``calibration``: whether the confidence is right, before and after;
``carry``: how much of the entropy can be read from activations.
``in_process``: the executor where none is named.
``text_loss``: plain text under every condition.
"""
