"""What the weights of a layer say of its neurons, and how a choice of some of them depends on null space and rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plugin import HarnessError, counted

from .confirmation import candidates, chance_of_rho, rho_by_chance
from .weight_rules import MIN_RHO, NORM_QUANTILE, PUBLISHED, Published, by_weights, overlap

if TYPE_CHECKING:
    from harness.model import NullKind, UnembeddingGeometry
    from harness.plugin import Model

ONE_PERCENT = "rho_1_percent"
"""The score that is rho where 1% of d_model counts as the null space."""


@dataclass(frozen=True)
class Layer:
    """A layer's neurons before the unembedding.

    Attributes:
        index: which layer. w_out: [d_mlp, d_model], what its neurons write.
        null_dims: k, how many of the last singular directions count as the null space. why: why so many.
        one_percent: 1% of d_model, the other null space that rho is measured in.
        null_kind, null_said: why W_U does not read its last direction (:func:`harness.model.null_kind`).
    """

    index: int
    w_out: np.ndarray
    geometry: UnembeddingGeometry
    null_dims: int
    why: str
    one_percent: int
    null_kind: NullKind
    null_said: str

    @classmethod
    def of(cls, model: Model, index: int, null_dims: int | None) -> Layer:
        """Look at a layer; ``null_dims`` None: as many as the spectrum suggests."""
        from harness.model import null_kind, one_percent, suggest_null_dims, unembedding_geometry, write_directions

        geometry = unembedding_geometry(model)
        suggested = suggest_null_dims(geometry.singular_values, geometry.trivial)
        k, why = (null_dims, "as asked") if null_dims else suggested
        kind, said = null_kind(model, geometry)
        few = one_percent(model.anatomy.d_model, geometry.trivial)
        return cls(index, write_directions(model, index), geometry, k, why, few, kind, said)

    def scores(self) -> dict[str, np.ndarray]:
        """rho, LogitVar and norm [d_mlp], and rho in 1% of d_model where that is another null space.

        Raises:
            HarnessError: a score of a neuron that writes anything is not finite.
        """
        found = self._at(self.null_dims)
        if self.one_percent != self.null_dims:
            found[ONE_PERCENT] = self._at(self.one_percent)["rho"]
        wrong = [name for name, values in found.items() if not np.isfinite(values[found["norm"] != 0]).all()]
        if wrong:
            raise HarnessError(
                f"selector entropy: {wrong[0]} of neurons of layer {self.index} is not finite in float32: the weights "
                "of the checkpoint are damaged or too large."
            )
        return found

    def candidates(self, top: int, null_dims: int | None = None) -> np.ndarray:
        """Indices of the neurons that the weights propose, with this null space (default: the layer's) and 1% of d."""
        spaces = dict.fromkeys((null_dims or self.null_dims, self.one_percent))
        found = {k: self._at(k) for k in spaces}
        rhos = [scores["rho"] for scores in found.values()]
        chances = [chance_of_rho(found[k]["rho"], self.w_out.shape[1], k, self.geometry.trivial) for k in spaces]
        first = next(iter(found.values()))
        return candidates(rhos, chances, first["logit_var"], first["norm"], top)

    def published(
        self, rule: Published, top: int, min_rho: float = MIN_RHO, norm_quantile: float = NORM_QUANTILE,
        null_dims: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Indices of the up to ``top`` neurons that a published rule chooses, by default with the paper's numbers."""
        return by_weights(rule, self._at(null_dims or self.null_dims), top, min_rho, norm_quantile)[0][:top]

    def nearest(self, scores: Mapping[str, np.ndarray]) -> str:
        """The neuron with the largest rho, and what rho random directions would have, in words."""
        rho = scores["rho"]
        best = int(np.nanargmax(rho))
        alive, d = int((scores["norm"] > 0).sum()), self.w_out.shape[1]
        least = rho_by_chance(alive, d, self.null_dims, self.geometry.trivial)
        return f"the largest rho, of {self.index}.{best}, is {rho[best]:.3f}, where chance reaches {least:.3f}"

    def null_space(self) -> str:
        """The null space in words."""
        d = counted(self.w_out.shape[1], "direction")
        return f"{self.null_dims} of {d} ({self.why}); {self.null_said}"

    def details(self, chosen: np.ndarray, again: Callable[[int], np.ndarray] | None) -> dict[str, Any]:
        """What a record keeps of a choice.

        Args:
            chosen: indices, best first. again: what would be chosen, or proposed, with another number of null
                dimensions; None: the choice does not depend on it.
        """
        from harness.model import null_cosines

        cosines = null_cosines(self.geometry, self.w_out[chosen]).round(6)
        found: dict[str, Any] = {
            "layer": self.index,
            "null_dims": self.null_dims,
            "null_dims_reason": self.why,
            "null_kind": self.null_kind,
            "processing": self.geometry.processing,
            "singular_values": self.geometry.singular_values,
            "cosines": dict(zip(self._names(chosen), cosines.tolist(), strict=True)),
            "published_rules": self._published(chosen),
        }
        if again is not None:
            kept = {str(k): self._names([i for i in chosen if i in again(k)]) for k in self._other_null_spaces()}
            found["still_chosen"] = kept
        return found

    def _at(self, null_dims: int) -> dict[str, np.ndarray]:
        from harness.model import neuron_scores

        return neuron_scores(self.geometry, self.w_out, null_dims)

    def _names(self, indices: Any) -> list[str]:
        return [f"{self.index}.{i}" for i in indices]

    def _other_null_spaces(self) -> list[int]:
        """Half as many directions, as many, twice as many, and 1% of d_model."""
        k, d = self.null_dims, self.w_out.shape[1]
        asked = {max(k // 2, 1 + self.geometry.trivial), k, min(2 * k, d - 1), self.one_percent}
        return sorted(asked)

    def _published(self, chosen: np.ndarray) -> dict[str, dict[str, Any]]:
        """As many neurons by each published rule, with the paper's numbers, and their intersection over union."""
        found: dict[str, dict[str, Any]] = {}
        for rule in PUBLISHED:
            theirs = self.published(rule, len(chosen))
            found[rule] = {"neurons": self._names(theirs), "iou": round(overlap(chosen, theirs), 6)}
        return found
