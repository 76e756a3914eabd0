"""Statistics of activations over a corpus, of neurons or whatever else has one number, gathered in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64

from harness.conditions.units import HEADS, NEURONS, Site, Unit
from harness.errors import HarnessError, suggest

if TYPE_CHECKING:
    import torch

    from harness.model.model import Model
    from harness.progress import Advance

NAMES = ("mean", "std", "minimum", "maximum", "median", "mode")
"""The statistics of a unit's activation that can be asked for."""

SAMPLE_BYTES = 512 * 2**20
"""Memory for the sample that medians and modes are taken from; the sample is the whole corpus while it fits."""


@dataclass(frozen=True)
class ActivationStatistics:
    """Statistics of all units of a site, in some layers, over the real (never the padding) positions of a corpus.

    ``mean``, ``std`` (n - 1 in the denominator), ``minimum`` and ``maximum`` cover every position and are accumulated
    in float64, because in float16 a variance overflows as soon as a sum of squares passes 65504. Median and mode come
    from ``sample``: every position while that fits in memory, else a uniform random sample of positions.

    Attributes:
        n: number of positions.
        mean, std, minimum, maximum: layer -> float64 [n_units]; of neurons d_mlp.
        sample: layer -> float32 [n_sample, n_units].
    """

    n: int
    mean: dict[int, Float64[np.ndarray, " n_units"]]
    std: dict[int, Float64[np.ndarray, " n_units"]]
    minimum: dict[int, Float64[np.ndarray, " n_units"]]
    maximum: dict[int, Float64[np.ndarray, " n_units"]]
    sample: dict[int, Float32[np.ndarray, "n_sample n_units"]]
    _known: dict[tuple[str, Unit], float] = field(default_factory=dict, repr=False, compare=False)
    """Medians and modes that were asked for before: control sets share units, and a mode takes a sort."""

    def value(self, name: str, units: Sequence[Unit]) -> list[float]:
        """One statistic (``mean``, ``std``, ``minimum``, ``maximum``, ``median``, ``mode``) of each unit.

        Raises:
            HarnessError: there is no statistic of that name; a value is not finite, or there are none of the unit's
                layer: names the unit.
        """
        if name not in NAMES:
            raise HarnessError(f'there is no statistic "{name}": there are {", ".join(NAMES)}.{suggest(name, NAMES)}')
        for unit in units:
            if unit.layer not in self.mean:
                known = ", ".join(map(str, self.mean))
                raise HarnessError(f"{unit.word} {unit}: there are statistics of layer {known} only.")
        values = [self._one(name, unit) for unit in units]
        for unit, value in zip(units, values, strict=True):
            if not np.isfinite(value):
                raise HarnessError(f"the {name} of {unit.word} {unit}'s activations is {value}, which is not finite.")
        return values

    def _one(self, name: str, unit: Unit) -> float:
        if name not in ("median", "mode"):
            return float(getattr(self, name)[unit.layer][unit.index])
        if (name, unit) not in self._known:
            values = self.sample[unit.layer][:, unit.index].astype(np.float64)
            self._known[name, unit] = float(np.median(values)) if name == "median" else half_sample_mode(values)
        return self._known[name, unit]


@dataclass(frozen=True)
class HeadStatistics:
    """Mean outputs of all heads of some layers over the real positions of a corpus; or of units of another site whose
    activation is more than one number.

    Attributes:
        n: number of positions.
        mean: layer -> float64 [n_heads, d_head].
    """

    n: int
    mean: dict[int, Float64[np.ndarray, "n_heads d_head"]]


def half_sample_mode(values: np.ndarray) -> float:
    """Mode of a continuous sample [n]: halve it again and again to its densest half (Bickel & Fruehwirth 2006).

    Needs no bin width, and returns the repeated value where one value holds at least half of the sample (as 0
    after a ReLU).
    """
    x = np.sort(values)
    while len(x) > 3:
        half = (len(x) + 1) // 2
        widths = x[half - 1 :] - x[: len(x) - half + 1]
        start = int(np.argmin(widths))
        x = x[start : start + half]
    if len(x) == 3:
        left, right = x[1] - x[0], x[2] - x[1]
        x = x[1:2] if left == right else (x[:2] if left < right else x[1:])
    return float(x.mean())


class _Moments:
    """Chan's parallel update of count, mean and sum of squared deviations, per unit, in float64."""

    def __init__(self, n_units: int) -> None:
        self.n = 0
        self.mean = np.zeros(n_units)
        self.m2 = np.zeros(n_units)
        self.minimum = np.full(n_units, np.inf)
        self.maximum = np.full(n_units, -np.inf)

    def add(self, x: torch.Tensor) -> None:
        """Take in activations [positions, n_units]."""
        x = x.double()
        n, mean = len(x), x.mean(0)
        m2 = (x - mean).square().sum(0).cpu().numpy()
        shift = mean.cpu().numpy() - self.mean
        total = self.n + n
        self.mean += shift * (n / total)
        self.m2 += m2 + shift**2 * (self.n * n / total)
        self.minimum = np.minimum(self.minimum, x.amin(0).cpu().numpy())
        self.maximum = np.maximum(self.maximum, x.amax(0).cpu().numpy())
        self.n = total


class _Reservoir:
    """The rows with the smallest keys of a stream, in the stream's order; thinned out when a quarter too many."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.keys: list[np.ndarray] = []
        self.rows: list[dict[int, np.ndarray]] = []

    def add(self, keys: np.ndarray, rows: dict[int, np.ndarray]) -> None:
        """Take in ``rows`` [n, n_units] of every layer, with their ``keys`` [n]."""
        self.keys.append(keys)
        self.rows.append(rows)
        if sum(map(len, self.keys)) > 1.25 * self.capacity:
            self.sample()

    def sample(self) -> dict[int, np.ndarray]:
        """The kept rows [<= capacity, n_units] of every layer."""
        keys, starts = np.concatenate(self.keys), np.cumsum([0, *map(len, self.keys)])
        keep = np.sort(np.argsort(keys, kind="stable")[: self.capacity])
        kept = {layer: np.empty((len(keep), x.shape[1]), x.dtype) for layer, x in self.rows[0].items()}
        parts = self.rows[::-1]
        self.keys, self.rows = [keys[keep]], [kept]
        place = np.searchsorted(keep, starts)
        for start, begin, end in zip(starts, place, place[1:], strict=False):
            part = parts.pop()  # let go as soon as it is read: never are there two of the whole
            for layer, x in part.items():
                kept[layer][begin:end] = x[keep[begin:end] - start]
        return kept


Spans = Sequence[tuple[int, int]]
"""The part (start, stop) of each prompt's tokens that counts; longer prompts than ``stop`` are cut off there."""


def activation_statistics(
    model: Model,
    prompts: Sequence[Sequence[int]],
    layers: Sequence[int],
    batch_size: int,
    seed: int,
    spans: Spans | None = None,
    progress: Advance = lambda n: None,
    site: Site = NEURONS,
) -> ActivationStatistics:
    """One pass of the untouched model over ``prompts`` (token ids), for all units of ``layers`` at a site where the
    activation of one is one number.

    The sample keeps the positions with the smallest of independent uniform keys, which is a uniform sample without
    replacement of a stream whose length need not be known. ``progress`` is told of len(prompts) steps in all.

    Raises:
        HarnessError: an activation is not finite.
    """
    sizes = {layer: site.count(model, layer) or 0 for layer in layers}
    capacity = max(1000, SAMPLE_BYTES // (4 * sum(sizes.values())))
    moments = {layer: _Moments(n) for layer, n in sizes.items()}
    rng = np.random.default_rng(seed)
    reservoir = _Reservoir(capacity)
    passes = _passes(model, prompts, layers, batch_size, spans, site)
    for done, found in enumerate(passes):
        for layer, x in found.items():
            moments[layer].add(x)
        rows = {layer: x.cpu().numpy() for layer, x in found.items()}
        reservoir.add(rng.random(len(rows[layers[0]])), rows)
        progress(len(prompts[done * batch_size : (done + 1) * batch_size]))
    return ActivationStatistics(
        n=moments[layers[0]].n,
        mean={layer: m.mean for layer, m in moments.items()},
        std={layer: np.sqrt(m.m2 / max(1, m.n - 1)) for layer, m in moments.items()},
        minimum={layer: m.minimum for layer, m in moments.items()},
        maximum={layer: m.maximum for layer, m in moments.items()},
        sample=reservoir.sample(),
    )


def head_statistics(
    model: Model,
    prompts: Sequence[Sequence[int]],
    layers: Sequence[int],
    batch_size: int,
    spans: Spans | None = None,
    site: Site = HEADS,
) -> HeadStatistics:
    """Mean outputs of the heads of ``layers``, or of units of another site whose activation is more than one number, in
    the untouched model over ``prompts`` (token ids).

    Raises:
        HarnessError: an output is not finite.
    """
    n, total = 0, dict.fromkeys(layers, np.zeros(()))
    for found in _passes(model, prompts, layers, batch_size, spans, site):
        n += len(found[layers[0]])
        for layer, x in found.items():
            total[layer] = total[layer] + x.double().sum(0).cpu().numpy()
    return HeadStatistics(n, {layer: x / max(n, 1) for layer, x in total.items()})


def _passes(
    model: Model,
    prompts: Sequence[Sequence[int]],
    layers: Sequence[int],
    batch_size: int,
    spans: Spans | None,
    site: Site,
) -> Iterator[dict[int, torch.Tensor]]:
    """The activations of a site at the positions that count, layer -> float32 [positions, ...], a batch at a time."""
    import torch

    for start in range(0, len(prompts), batch_size):
        rows = range(start, min(start + batch_size, len(prompts)))
        parts = [(0, len(prompts[i])) if spans is None else spans[i] for i in rows]
        batch = model.pad([list(prompts[i])[:stop] for i, (_, stop) in zip(rows, parts, strict=True)])
        wanted = batch.attention_mask.bool()
        for row, (first, stop) in enumerate(parts):
            wanted[row, : wanted.shape[1] - min(stop, len(prompts[start + row])) + first] = False
        with torch.no_grad(), site.capture(model, layers) as captured, model.without_logits():
            model.forward(batch)
        found = {layer: x[wanted.to(x.device)].float() for layer, x in captured.items()}
        for layer, x in found.items():
            if not torch.isfinite(x).all():
                raise HarnessError(
                    f"activations of {site.name} of layer {layer} are not finite (NaN or infinity in the model)."
                )
        yield found
