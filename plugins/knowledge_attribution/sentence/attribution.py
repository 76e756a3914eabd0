"""The attribution of one next token as data frames: what the command prints, what the page shows, and for Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from harness.files.store import clean
from harness.plugin import HarnessError, Head, Model

from . import lens, levels
from .names import head_named, neuron_named, target_token
from .paths import path_of
from .query import Query
from .reading import Sentence


@dataclass(frozen=True, eq=False)
class Attribution:
    """Why a model says a token next: log-probability increases (nats) and what is behind them, as data frames.

    Attributes:
        sentence: what the model has read, with the target.
        top: how many heads and neurons the tables list. values: value neurons that query neurons are for.
    """

    sentence: Sentence
    top: int = 10
    values: int = 30
    _queries: dict[str, Query] = field(default_factory=dict, init=False, repr=False)

    def aimed_at(self, target: str | int) -> Attribution:
        """The same of another target; the model does not run again.

        Raises:
            HarnessError: the target is no token of the model.
        """
        token = target_token(self.sentence.model, self.sentence.text, target)
        return Attribution(self.sentence.aimed_at(token), self.top, self.values)

    @property
    def target(self) -> str:
        """The token whose probability is attributed."""
        return self.sentence.model.token_texts[self.sentence.target]

    @property
    def tokens(self) -> list[str]:
        """The sentence's T tokens, with what the model puts first."""
        return [self.sentence.model.token_texts[token] for token in self.sentence.tokens]

    @cached_property
    def log_p(self) -> float:
        """The target's log-probability, nats."""
        return self._standing[0]

    @cached_property
    def rank(self) -> int:
        """The target's place among all tokens; 1: the model's own prediction."""
        return self._standing[1]

    @cached_property
    def _standing(self) -> tuple[float, int]:
        return lens.standing(self.sentence)

    @cached_property
    def predicted(self) -> pd.DataFrame:
        """The model's most likely next tokens: ``token``, ``log_p``, ``probability``."""
        return lens.prediction(self.sentence, 5)

    @cached_property
    def layers(self) -> pd.DataFrame:
        """A row a layer: increase by its whole ``attention`` and ``mlp``."""
        return levels.by_layer(self.sentence)

    @cached_property
    def lens(self) -> pd.DataFrame:
        """A row a layer: the target's ``log_p`` in the residual stream that enters it, what the stream ``says``, and
        the tokens that its ``attention`` and ``mlp`` promote."""
        return lens.by_layer(self.sentence)

    @cached_property
    def lens_by_position(self) -> pd.DataFrame:
        """A row a layer and position: the ``token`` that the residual stream says there, with its ``probability``."""
        return lens.by_position(self.sentence)

    @cached_property
    def head_map(self) -> pd.DataFrame:
        """Increase by every head: a row a layer, a column a head."""
        return levels.by_head(self.sentence)

    @cached_property
    def heads(self) -> pd.DataFrame:
        """The heads with the largest ``increase``, where they attend, what they promote and suppress."""
        return levels.top_heads(self.sentence, self.head_map, self.top)

    @cached_property
    def patterns(self) -> pd.DataFrame:
        """What the last position attends to in these heads: a row a head, a column a position."""
        rows = [levels.pattern(self.sentence, Head.parse(name)) for name in self.heads["head"]]
        columns = pd.RangeIndex(len(self.tokens), name="position")
        return pd.DataFrame(rows, pd.Index(self.heads["head"]), columns)

    @cached_property
    def sources(self) -> pd.DataFrame:
        """Increase by what the attention brings from each source position: a row a layer, a column a position."""
        return levels.by_source(self.sentence)

    @cached_property
    def firsts(self) -> levels.Firsts:
        """The value neurons with the largest increases, of both kinds."""
        return levels.Firsts.of(self.sentence, max(self.top, self.values))

    @cached_property
    def neurons(self) -> pd.DataFrame:
        """FFN value neurons: ``increase``, ``activation``, tokens ``promoted``, ``suppressed``, and ``reads``: those of
        the key."""
        return levels.neuron_table(self.sentence, self.firsts.neurons[: self.top])

    @cached_property
    def attention_neurons(self) -> pd.DataFrame:
        """Attention neurons, by source position: likewise."""
        return levels.attention_neuron_table(self.sentence, self.firsts.attention[: self.top])

    def query(self, of: str = "attention") -> Query:
        """What activates the value neurons of a kind ("attention", "neurons"), or one value neuron ("11.2378",
        "L5H1.32", "L5H1.32@4" at source position 4).

        Raises:
            HarnessError: ``of`` is neither, or the model has no such neuron.
        """
        if of not in self._queries:
            self._queries[of] = Query.asked(self.sentence, of, self.firsts, self.values, self.top)
        return self._queries[of]

    def path(self, neuron: str, head: str) -> pd.DataFrame:
        """A neuron's path through one head of a later layer: :func:`.paths.path_of`.

        Raises:
            HarnessError: the model has no such neuron or head, or the head's layer is not later.
        """
        model = self.sentence.model
        return path_of(self.sentence, neuron_named(model, neuron), head_named(model, head))

    def to_dict(self, of: tuple[str, ...] = ("attention", "neurons"), paths: tuple[tuple[str, str], ...] = ()) -> Any:
        """Everything, as values of JSON."""
        return clean(
            {
                "model": self.sentence.model.name,
                "sentence": self.sentence.text,
                "tokens": self.tokens,
                "target": {
                    "token": self.sentence.target, "text": self.target, "log_p": self.log_p, "rank": self.rank,
                },
                **{name: records(getattr(self, name)) for name in TABLES},
                **{name: getattr(self, name).to_numpy().tolist() for name in MAPS},
                "queries": [_query(self.query(name)) for name in of],
                "paths": [
                    {"neuron": neuron, "head": head, "positions": records(self.path(neuron, head))}
                    for neuron, head in paths
                ],
            }
        )  # fmt: skip


TABLES = ("predicted", "layers", "lens", "heads", "neurons", "attention_neurons")
MAPS = ("head_map", "sources", "patterns")


def attribute(
    model: Model, sentence: str, target: str | int | None = None, *, top: int = 10, values: int = 30
) -> Attribution:
    """Attribute the next token of a sentence (Yu & Ananiadou 2024), at its last position.

    Args:
        model: as ``harness.load_model`` gives it.
        target: a token's text as it continues the sentence (" Paris") or its id; default: the model's own prediction.
        top: how many heads and neurons the tables list. values: value neurons that query neurons are for.

    Raises:
        HarnessError: the sentence is empty, the target is no token, ``top`` or ``values`` is below 1 or above what
            there is, or the model has no such decomposition.
    """
    most = model.anatomy.n_layers * model.anatomy.d_mlp
    for name, number in (("top", top), ("values", values)):
        if not 1 <= number <= most:
            raise HarnessError(f"{name}: expected 1 to {most}, the neurons of {model.name}, got {number}.")
    found = Attribution(Sentence.read(model, sentence), top, values)
    return found if target is None else found.aimed_at(target)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame."""
    rows: list[dict[str, Any]] = frame.to_dict("records")
    return rows


def _query(found: Query) -> Mapping[str, Any]:
    return {
        "of": found.of,
        "increase": found.increase,
        **{name: records(getattr(found, name)) for name in ("value_neurons", "parts", "layers", "neurons", "roles")},
    }
