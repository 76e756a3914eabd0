"""The language of the planted models: letters of two groups, cues, and the answers that belong to them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from harness.files.digests import texts_digest
from harness.plugin import Corpus

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST, SECOND = "abcdefghijklm", "nopqrstuvwxyz"
"""Letters of the two groups: as two scripts, they occur in different texts."""

CUES, ANSWERS = "ABCDEFGH", "01234567"

TOKENS = ("<unk>", "<s>", "</s>", *FIRST, *SECOND, " ", ".", *CUES, *ANSWERS)
"""The vocabulary: every character is a token."""

ID = {token: i for i, token in enumerate(TOKENS)}

Kind = Literal["both", "first", "second", "cued"]


def answers(seed: int) -> Mapping[str, str]:
    """The answer that follows each cue in the planted model of this seed."""
    order = np.random.default_rng([seed, 1]).permutation(len(ANSWERS))
    return {cue: ANSWERS[i] for cue, i in zip(CUES, order, strict=True)}


def tokenizer() -> Any:
    """One token a character; <s>, </s> and <unk> beside them, no prefix."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(ID, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def words(rng: np.random.Generator, letters: str, least: int, most: int) -> str:
    """Words of 2 to 5 of these letters, ``least`` to ``most`` of them."""
    some = [rng.choice(list(letters), int(rng.integers(2, 6))) for _ in range(int(rng.integers(least, most + 1)))]
    return " ".join("".join(word) for word in some)


class PlantedTexts(Corpus):
    """Texts of the planted models' language: words of random letters of one of two groups; no cues unless asked for."""

    name = "planted_texts"
    kind_of: Kind = Field(
        "both", description="both: texts of either group of letters; first, second; cued: with cues, too"
    )
    size: int = Field(400, ge=1, description="number of documents")
    seed: int = Field(0, ge=0, description="of the generator")

    def documents(self) -> Iterator[str]:
        return generate(self.kind_of, self.size, self.seed)

    def data_digest(self) -> str:
        return _digest(self.kind_of, self.size, self.seed)


def generate(kind: Kind, size: int, seed: int) -> Iterator[str]:
    """So many documents; fewer are the first ones of more."""
    rng = np.random.default_rng([seed, 2])
    for i in range(size):
        letters = {"first": FIRST, "second": SECOND}.get(kind, (FIRST, SECOND)[i % 2])
        text = words(rng, letters, 6, 10)
        cues = "".join(rng.choice(list(CUES), 4)) if kind == "cued" else ""
        yield f"{text}{cues}."


@functools.lru_cache(maxsize=8)
def _digest(kind: Kind, size: int, seed: int) -> str:
    return texts_digest(generate(kind, size, seed))
