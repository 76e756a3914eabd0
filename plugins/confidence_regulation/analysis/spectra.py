"""The unembeddings of two models, and how their last layers' neurons write to them (Stolfo et al. 2024, appendix E)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plugin import Frame, HarnessError

from .confirmation import chance_of_rho, rho_by_chance

if TYPE_CHECKING:
    from harness.plugin import Model

HONEST = (
    "Two models differ in everything that was done differently; what made a difference (dropout, data, size, the seed) "
    "these numbers cannot say. The paper's pair differs in dropout alone."
)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What the weights of one model say of its null space.

    Attributes:
        name: of the model. d_vocab: tokens that it has logits for. layer: its last.
        singular_values: [d_model - trivial], of the processed unembedding, descending; what a LayerNorm makes null in
            every model is left out. trivial: how many directions that are (0 or 1).
        null_dims, why: size of the null space that the spectrum suggests, and why. few: 1% of d_model.
        rho: [d_mlp], share of the output weights' norm in the last ``few`` directions. own_rho: [d_mlp], in the last
            ``null_dims``. norm: [d_mlp]. NaN and 0 of a neuron that writes nothing.
    """

    name: str
    d_vocab: int
    layer: int
    singular_values: np.ndarray
    trivial: int
    null_dims: int
    why: str
    few: int
    rho: np.ndarray
    own_rho: np.ndarray
    norm: np.ndarray

    @classmethod
    def of(cls, model: Model) -> Spectrum:
        """Of a model.

        Raises:
            HarnessError: all its singular values, or all output weights of its last layer, are 0.
        """
        from harness.model import neuron_scores, one_percent, suggest_null_dims, unembedding_geometry, write_directions

        geometry, layer = unembedding_geometry(model), model.anatomy.n_layers - 1
        few = one_percent(model.anatomy.d_model, geometry.trivial)
        w_out = write_directions(model, layer)
        scores = neuron_scores(geometry, w_out, few)
        values = geometry.singular_values[: len(geometry.singular_values) - geometry.trivial]
        if not np.median(values) > 0 or not (scores["norm"] > 0).any():
            raise HarnessError(f"spectra: {model.name} has an unembedding or a last layer that is 0 everywhere.")
        k, why = suggest_null_dims(geometry.singular_values, geometry.trivial)
        own = neuron_scores(geometry, w_out, k)["rho"]
        return cls(
            model.name, model.anatomy.d_vocab, layer, values, geometry.trivial, k, why, few, scores["rho"], own,
            scores["norm"],
        )  # fmt: skip

    @property
    def d_model(self) -> int:
        """Directions of the residual stream."""
        return len(self.singular_values) + self.trivial

    @property
    def relative(self) -> np.ndarray:
        """Singular values over their median [d_model - trivial]: of models of any size on one scale."""
        found: np.ndarray = self.singular_values / np.median(self.singular_values)
        return found

    def last(self, share: float) -> float:
        """Mean of the last so many of the relative singular values, one at least."""
        n = max(1, round(share * len(self.singular_values)))
        return float(self.relative[-n:].mean())

    def beyond_chance(self) -> int:
        """Neurons whose rho is one that random directions reach in 1 of 20 layers (:func:`rho_by_chance`)."""
        alive = self.norm > 0
        least = rho_by_chance(int(alive.sum()), self.d_model, self.few, self.trivial)
        return int((self.rho[alive] >= least).sum())

    def summary(self) -> dict[str, Any]:
        """One value for each row of the table."""
        alive = self.norm > 0
        rho, norm = self.rho[alive], self.norm[alive]
        best = int(np.nanargmax(self.rho))
        p = float(chance_of_rho(self.rho[best : best + 1], self.d_model, self.few, self.trivial)[0])
        return {
            "width of the residual stream": self.d_model,
            "tokens": self.d_vocab,
            "neurons of the last layer": len(self.norm),
            "smallest singular value / median": float(self.relative[-1]),
            "last 1% of singular values / median": self.last(0.01),
            "last 10% of singular values / median": self.last(0.1),
            "null directions by the spectrum": self.null_dims,
            "largest rho in these": float(self.own_rho[alive].max()),
            "null directions for all below (1%)": self.few,
            "largest rho": float(rho.max()),
            "its neuron": f"{self.layer}.{best}",
            "its p among random directions (Bonferroni)": min(1.0, p * int(alive.sum())),
            "median rho": float(np.median(rho)),
            "rho of a random direction (root mean square)": float(
                np.sqrt((self.few - self.trivial) / (self.d_model - self.trivial))
            ),
            "neurons with rho beyond chance": self.beyond_chance(),
            "median norm of output weights": float(np.median(norm)),
            "largest norm / median": float(norm.max() / np.median(norm)),
        }


def table(spectra: Sequence[Spectrum]) -> Frame:
    """A column for each model."""
    columns = {f"{'ab'[i]}: {x.name}": x.summary() for i, x in enumerate(spectra)}
    rows = [*next(iter(columns.values()))]
    values = {name: [*column.values()] for name, column in columns.items()}
    return Frame("spectra", "Unembedding and last layer of two models", {"what": rows, **values})
