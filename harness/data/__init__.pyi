from .fact_table import FactTable as FactTable
from .facts import Fact as Fact
from .facts import Relation as Relation
from .facts import read_facts as read_facts
from .facts import render as render
from .limits import limited as limited
from .limits import taken as taken
from .named_tables import FactSource as FactSource
from .token_counts import load_unigrams as load_unigrams
from .token_counts import unigrams as unigrams
from .token_sequences import Sequence as Sequence
from .token_sequences import sequences as sequences

__all__ = [
    "Fact",
    "FactSource",
    "FactTable",
    "Relation",
    "Sequence",
    "limited",
    "load_unigrams",
    "read_facts",
    "render",
    "sequences",
    "taken",
    "unigrams",
]
