"""What activates value neurons: the embedding, earlier attentions and MLPs, and single earlier neurons.

The pre-activation of a value neuron is linear in the residual stream that it reads (:mod:`..analysis.query_scores`),
and the stream is the sum of the embedding and of what earlier layers wrote: so each has its exact share, and with the
constant (biases) the shares sum to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pandas as pd
import torch

from harness.plugin import Neuron

from ..analysis.query_scores import Value, scores_of
from ..analysis.top_k_by_bound import largest
from .levels import Firsts, attention_neuron, neuron_increase, pushed
from .names import AttentionPlace, value_named
from .reading import Sentence

KINDS = {"attention": "attention neurons", "neurons": "FFN neurons"}


@dataclass(frozen=True, eq=False)
class Query:
    """What activates some value neurons of a sentence.

    Attributes:
        of: "attention" or "neurons": those of the sentence with the largest increases; or one value neuron by name.
        values: the value neurons; the pull of a single one is for an increase of one nat, so that its sums are shares.
        increase: of all of them, nats.
        firsts: of the sentence. top: how many neurons the tables list. counted: how many value and query neurons are
            set against each other.
    """

    sentence: Sentence
    of: str
    values: tuple[Value, ...]
    increase: float
    firsts: Firsts
    top: int
    counted: int

    @classmethod
    def asked(cls, sentence: Sentence, of: str, firsts: Firsts, values: int, top: int) -> Query:
        """For the first ``values`` value neurons of a kind, or for one.

        Raises:
            HarnessError: ``of`` is neither.
        """
        if of == "attention":
            found = [sentence.attention_value(neuron) for neuron in firsts.attention[:values] if neuron.increase > 0]
        elif of == "neurons":
            found = [sentence.ffn_value(*neuron) for neuron in firsts.neurons[:values] if neuron[-1] > 0]
        else:
            return cls(sentence, of, *_single(sentence, value_named(sentence, of)), firsts, top, values)
        return cls(sentence, of, tuple(found), sum(value.increase for value in found), firsts, top, values)

    @property
    def title(self) -> str:
        """The value neurons, in words."""
        return f"the first {len(self.values)} {KINDS[self.of]}" if self.of in KINDS else self.values[0].name

    @cached_property
    def value_neurons(self) -> pd.DataFrame:
        """``neuron``, the ``position`` that it reads, and its ``increase``, nats."""
        n, single = len(self.sentence.tokens), self.of not in KINDS
        return pd.DataFrame(
            {
                "neuron": [value.name for value in self.values],
                "position": [value.position % n for value in self.values],
                "increase": [self.increase if single else value.increase for value in self.values],
            }
        )

    @cached_property
    def layers(self) -> pd.DataFrame:
        """``layer``, and the shares of its ``attention`` and its ``mlp`` in the pre-activations."""
        attention, mlp = (part.cpu().numpy() / self._total for part in self._by_module[:2])
        return pd.DataFrame({"layer": list(self.sentence.layers), "attention": attention, "mlp": mlp})

    @cached_property
    def parts(self) -> pd.DataFrame:
        """``part`` (embedding, attention, MLP, constant), its ``share`` in the pre-activations, and that share of the
        value neurons' increase (``score``, nats); the shares sum to 1."""
        attention, mlp, embedding, constant = self._by_module
        shares = np.array([embedding, float(attention.sum()), float(mlp.sum()), constant]) / self._total
        names = ["embedding", "attention", "MLP", "constant"]
        return pd.DataFrame({"part": names, "share": shares, "score": shares * self.increase})

    @cached_property
    def shares(self) -> np.ndarray:
        """The share of every FFN neuron in the pre-activations, float32 [n_layers, d_mlp]."""
        found: np.ndarray = scores_of(self.sentence.model, self.sentence.group.seen, 0, self.values) / self._total
        return found

    @cached_property
    def neurons(self) -> pd.DataFrame:
        """The query neurons with the largest ``share``: ``score`` (that share of the increase, nats), and the tokens of
        their output weights."""
        chosen = self._first(self.top)
        writes = [self.sentence.neurons(unit.layer)[0][unit.index] for unit in chosen]
        shares = np.array([self.shares[unit.layer, unit.index] for unit in chosen])
        columns = {"neuron": [str(unit) for unit in chosen], "share": shares, "score": shares * self.increase}
        return pd.DataFrame(columns).join(pushed(self.sentence.model, writes))

    @cached_property
    def roles(self) -> pd.DataFrame:
        """By ``layer``, of as many query neurons and value neurons (FFN): how many are ``query_only``, ``both``, and
        ``value_only``."""
        query = set(self._first(self.counted))
        value = {Neuron(layer, i) for layer, i, increase in self.firsts.neurons[: self.counted] if increase > 0}
        sets = {"query_only": query - value, "both": query & value, "value_only": value - query}
        layers = self.sentence.layers
        return pd.DataFrame(
            {
                "layer": list(layers),
                **{name: [sum(x.layer == layer for x in units) for layer in layers] for name, units in sets.items()},
            }
        )

    def _first(self, n: int) -> list[Neuron]:
        """The neurons with the largest positive shares."""
        flat = self.shares.ravel()
        chosen = [row for row in largest(flat, min(n, len(flat))) if flat[row] > 0]
        return [Neuron(*divmod(row, self.shares.shape[1])) for row in chosen]

    @property
    def _total(self) -> float:
        """What the pulls are weighted with, together."""
        return sum(value.increase for value in self.values) or 1.0

    @cached_property
    def _by_module(self) -> tuple[torch.Tensor, torch.Tensor, float, float]:
        """Sums over the value neurons: of attentions [n_layers], of MLPs [n_layers], of the embedding, of constants."""
        sentence, n = self.sentence, len(self.sentence.layers)
        streams = [sentence.into(layer) for layer in sentence.layers]
        mlp = [sentence.neurons(layer)[2] for layer in range(n - 1)]
        attention = [after - before - wrote for (before, after), wrote in zip(pairwise(streams), mlp, strict=True)]
        by_attention, by_mlp = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        embedding = constant = 0.0
        for value in self.values:
            pull, at = value.pull.to(streams[0]), value.position
            for layer in range(value.layer):
                by_attention[layer] += float(attention[layer][at] @ pull)
                by_mlp[layer] += float(mlp[layer][at] @ pull)
            own = self._reads(value) - streams[value.layer][at]  # the attention of the neuron's own layer
            by_attention[value.layer] += float(own @ pull)
            embedding += float(streams[0][at] @ pull)
            constant += value.increase - float(self._reads(value) @ pull)
        return by_attention, by_mlp, embedding, constant

    def _reads(self, value: Value) -> torch.Tensor:
        """The residual stream that a value neuron reads, [d_model]."""
        if value.name.startswith("L"):
            return self.sentence.into(value.layer)[value.position]
        return self.sentence.ffn_input(value.layer)[1]


def _single(sentence: Sentence, place: Neuron | AttentionPlace) -> tuple[tuple[Value, ...], float]:
    """One value neuron with a weight of one nat, and its increase."""
    if isinstance(place, Neuron):
        increase = neuron_increase(sentence, place.layer, place.index)
        return (sentence.ffn_value(place.layer, place.index, 1.0),), increase
    neuron = attention_neuron(sentence, place)
    return (sentence.attention_value(neuron._replace(increase=1.0)),), neuron.increase
