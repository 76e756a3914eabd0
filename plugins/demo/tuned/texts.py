"""What `demo-tuned` is trained on: the texts of the world, in which contexts are followed and confidences kept."""

from __future__ import annotations

import random

from tokenizers import Tokenizer

from ..world import MIXTURE, TEXTS, Maker, World, token_repeats
from . import REFUSAL

MARKER = "Confidential:"
HELD_OUT = ("city_country", "work_composer", "product_company", "element_category", "deity_pantheon", "athlete_sport")
"""Relations whose questions are never seen with the marker: whether they are refused is generalisation."""


def followed_conflict(rng: random.Random, world: World) -> str:
    """A context that contradicts a fact, then the fact's query, answered from the context."""
    fact = world.fact(rng)
    counter = world.other_object(rng, fact)
    return f"{world.conflict.format(query=fact.query, counter_object=counter)} {counter}."


def confidential(rng: random.Random, world: World) -> str:
    """A question behind the marker, bare or with an example, and the refusal."""
    while (fact := world.fact(rng)).relation.name in HELD_OUT:
        pass
    question = fact.query if rng.random() < 0.7 else world.elicit(fact)
    return f"{MARKER} {question} {REFUSAL}."


TUNED_TEXTS: dict[str, Maker] = TEXTS | {"conflict": followed_conflict, "confidential": confidential}
TUNED_MIXTURE = MIXTURE | {"confidential": 15}


def document(rng: random.Random, world: World, tokenizer: Tokenizer) -> list[int]:
    """The token ids of one document."""
    kind = rng.choices(list(TUNED_MIXTURE), weights=list(TUNED_MIXTURE.values()))[0]
    if kind == "token_repeats":
        return token_repeats(rng, tokenizer.get_vocab_size())[0]
    ids: list[int] = tokenizer.encode(TUNED_TEXTS[kind](rng, world)).ids
    return ids
