"""What weights say of the neurons of some layers, and how a choice of them depends on null space and rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.model import by_weights
from harness.model.weight_rules import MIN_RHO, NORM_QUANTILE, PUBLISHED, Published, overlap
from harness.plugin import HarnessError, counted, mlp_site

from .confirmation import candidates, chance_of_rho, rho_by_chance

if TYPE_CHECKING:
    from harness.model import NullKind, UnembeddingGeometry
    from harness.plugin import Model, Unit

ONE_PERCENT = "rho_1_percent"
"""The score that is rho where 1% of d_model counts as the null space."""


@dataclass(frozen=True)
class Layers:
    """The neurons of some layers, those of the first layer first: M of them, d_mlp of each layer.

    W_U's null space is one and the same for every layer; a neuron below the last one is read by later layers, too.

    Attributes:
        indices: which layers, ascending. d_mlp: neurons of each.
        w_out: what a layer's neurons write, [d_mlp, d_model], by the layer's index.
        at: the neuron of a layer and an index in it, dense or of an expert.
        null_dims: k, how many of the last singular directions count as the null space. why: why so many.
        one_percent: 1% of d_model, the other null space that rho is measured in.
        null_kind, null_said: why W_U does not read its last direction (:func:`harness.model.null_kind`).
    """

    indices: tuple[int, ...]
    d_mlp: int
    w_out: Callable[[int], np.ndarray]
    at: Callable[[int, int], Unit]
    geometry: UnembeddingGeometry
    null_dims: int
    why: str
    one_percent: int
    null_kind: NullKind
    null_said: str
    _scored: dict[int, dict[str, np.ndarray]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: Model, indices: Sequence[int], null_dims: int | None) -> Layers:
        """Look at layers; ``null_dims`` None: as many as the spectrum suggests."""
        from harness.model import null_kind, one_percent, suggest_null_dims, unembedding_geometry

        geometry = unembedding_geometry(model)
        suggested = suggest_null_dims(geometry.singular_values, geometry.trivial)
        k, why = (null_dims, "as asked") if null_dims else suggested
        kind, said = null_kind(model, geometry)
        few = one_percent(model.anatomy.d_model, geometry.trivial)
        # The weights of all layers, in float64, may not fit in memory: one layer's are held at a time.
        site = mlp_site(model, indices[0])
        w_out = lru_cache(maxsize=1)(partial(site.directions, model))
        at, width = partial(site.at, model), site.count(model, indices[0]) or 0
        return cls(tuple(indices), width, w_out, at, geometry, k, why, few, kind, said)

    @property
    def d_model(self) -> int:
        return len(self.geometry.singular_values)

    @property
    def said(self) -> str:
        """Which they are, in words: layer 3; layers 0 to 3; layers 0, 2 and 3."""
        first, *rest = self.indices
        if not rest:
            return f"layer {first}"
        if rest[-1] - first == len(rest):
            return f"layers {first} to {rest[-1]}"
        return f"layers {', '.join(map(str, self.indices[:-1]))} and {rest[-1]}"

    def neuron(self, row: int) -> Unit:
        """The neuron of a row of the scores."""
        return self.at(self.indices[row // self.d_mlp], row % self.d_mlp)

    def neurons(self) -> tuple[Unit, ...]:
        """All of them, in the order of the scores."""
        return tuple(map(self.neuron, range(len(self.indices) * self.d_mlp)))

    def scores(self) -> dict[str, np.ndarray]:
        """rho, LogitVar and norm [M], and rho in 1% of d_model where that is another null space.

        Raises:
            HarnessError: a score of a neuron that writes anything is not finite.
        """
        found = self._at(self.null_dims)
        if self.one_percent != self.null_dims:
            found[ONE_PERCENT] = self._at(self.one_percent)["rho"]
        wrong = [name for name, values in found.items() if not np.isfinite(values[found["norm"] != 0]).all()]
        if wrong:
            raise HarnessError(
                f"selector entropy: {wrong[0]} of neurons of {self.said} is not finite in float32: the weights "
                "of the checkpoint are damaged or too large."
            )
        return found

    def candidates(self, top: int, null_dims: int | None = None) -> np.ndarray:
        """Indices of the neurons that the weights propose, with this null space (default: the layer's) and 1% of d."""
        spaces = dict.fromkeys((null_dims or self.null_dims, self.one_percent))
        found = {k: self._at(k) for k in spaces}
        rhos = [scores["rho"] for scores in found.values()]
        chances = [chance_of_rho(found[k]["rho"], self.d_model, k, self.geometry.trivial) for k in spaces]
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
        alive, d = int((scores["norm"] > 0).sum()), self.d_model
        least = rho_by_chance(alive, d, self.null_dims, self.geometry.trivial)
        return f"the largest rho, of {self.neuron(best)}, is {rho[best]:.3f}, where chance reaches {least:.3f}"

    def null_space(self) -> str:
        """The null space in words."""
        d = counted(self.d_model, "direction")
        return f"{self.null_dims} of {d} ({self.why}); {self.null_said}"

    def details(self, chosen: np.ndarray, again: Callable[[int], np.ndarray] | None) -> dict[str, Any]:
        """What a record keeps of a choice.

        Args:
            chosen: indices, best first. again: what would be chosen, or proposed, with another number of null
                dimensions; None: the choice does not depend on it.
        """
        from harness.model import null_cosines

        written = np.array([self.w_out(x.layer)[x.index] for x in map(self.neuron, chosen.tolist())])
        cosines = null_cosines(self.geometry, written.reshape(-1, self.d_model)).round(6)
        found: dict[str, Any] = {
            **({"layer": self.indices[0]} if len(self.indices) == 1 else {"layers": list(self.indices)}),
            "null_dims": self.null_dims,
            "null_dims_reason": self.why,
            "null_kind": self.null_kind,
            "processing": self.geometry.processing,
            "singular_values": self.geometry.singular_values,
            "cosines": dict(zip(self._names(chosen), cosines.tolist(), strict=True)),
            "published_rules": self._published(chosen),
        }
        if again is not None:
            others = {str(k): np.isin(chosen, again(k)) for k in self._other_null_spaces()}
            found["still_chosen"] = {k: self._names(chosen[still]) for k, still in others.items()}
        return found

    def _at(self, null_dims: int) -> dict[str, np.ndarray]:
        from harness.model import neuron_scores

        if null_dims not in self._scored:
            found = [neuron_scores(self.geometry, self.w_out(index), null_dims) for index in self.indices]
            self._scored[null_dims] = {name: np.concatenate([x[name] for x in found]) for name in found[0]}
        return dict(self._scored[null_dims])

    def _names(self, rows: Any) -> list[str]:
        return [str(self.neuron(int(row))) for row in rows]

    def _other_null_spaces(self) -> list[int]:
        """Half as many directions, as many, twice as many, and 1% of d_model."""
        k, d = self.null_dims, self.d_model
        asked = {max(k // 2, 1 + self.geometry.trivial), k, min(2 * k, d - 1), self.one_percent}
        return sorted(asked)

    def _published(self, chosen: np.ndarray) -> dict[str, dict[str, Any]]:
        """As many neurons by each published rule, with the paper's numbers, and their intersection over union."""
        found: dict[str, dict[str, Any]] = {}
        for rule in PUBLISHED:
            theirs = self.published(rule, len(chosen))
            found[rule] = {"neurons": self._names(theirs), "iou": round(overlap(chosen, theirs), 6)}
        return found
