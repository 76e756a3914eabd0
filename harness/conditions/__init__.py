"""What is done to a model: units, selections of them, and edits.

``units``: what is selected and edited (:class:`Neuron`, :class:`Head`, :class:`Direction`, and kinds of plugins), and
where it lives (:class:`Site`). A condition is "these units, edited like this" (``conditions``: :class:`Selection`,
:class:`Condition`, edits that hold units). ``neuron_edits`` are functions of one number, a unit's activation,
``head_edits`` and ``residual_edits`` edit elsewhere, ``placed`` edits act at positions of their own, ``frozen`` is what
a condition keeps of the untouched model, ``noise`` makes seeded edits that are pure functions, and ``positions`` says
at which tokens edits act. No model is run here.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
