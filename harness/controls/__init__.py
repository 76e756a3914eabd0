"""Control sets: other units that get the same treatment.

In: a selection and a seed. Out: :class:`harness.controls.random.Controls`. ``random`` draws sets uniformly, and says
from what; ``matched`` draws sets that resemble the selection in norm or activation, and measures how well that worked.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
