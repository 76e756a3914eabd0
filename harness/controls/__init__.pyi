from .matched import balance as balance
from .matched import matched_sets as matched_sets
from .matched import matching_values as matching_values
from .random import Controls as Controls
from .random import draw_controls as draw_controls
from .random import pools as pools
from .random import possible_controls as possible_controls
from .random import random_controls as random_controls

__all__ = [
    "Controls",
    "balance",
    "draw_controls",
    "matched_sets",
    "matching_values",
    "pools",
    "possible_controls",
    "random_controls",
]
