"""Effects of single edits on loss, entropy and ranks at every position, total and direct (Stolfo et al. 2024).

``sweep`` is the call. ``logit_changes`` adds up what changes of each probability, ``moment_expansion`` is its fast
bound for single neurons, and ``by_definition`` is the float64 definition for the pairs that float32 cannot hold.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
