"""What is done to a model: units, selections of them, and edits.

A condition is "these units, edited like this" (``conditions``: :class:`Neuron`, :class:`Head`, :class:`Direction`,
:class:`Selection`, :class:`Condition`, edits of neurons). ``neuron_edits`` are functions of a neuron's activation,
``head_edits`` and ``residual_edits`` edit elsewhere, ``frozen`` is what a condition keeps of the untouched model,
``noise`` makes seeded edits that are pure functions, and ``positions`` says at which tokens edits act. No model is run
here.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
