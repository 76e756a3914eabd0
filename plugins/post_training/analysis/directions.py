"""Directions in the residual stream that tell two classes of texts apart: truthfulness, refusal (Du et al. 2025).

    v_l = mean of x_l over texts labelled true - mean of x_l over texts labelled false        (difference of means)

x_l is the residual stream after layer l at a text's last token, or its mean over the text's tokens. A text is taken to
be of the class true where x . v / |v| exceeds the midpoint between the two classes' means (Marks & Tegmark 2023; for
refusal Arditi et al. 2024). Directions are computed from the split "train" and tested on the split "test". Which
layer's is taken is asked of the split "train", too (:mod:`.layer_choice`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.plugin import Frame, HarnessError, counted

if TYPE_CHECKING:
    from harness.plugin import Model
    from harness.statistics import Interval

    from .labelled_texts import LabelledText

Position = Literal["last", "mean"]


@dataclass(frozen=True, eq=False)
class Readings:
    """The residual stream of a model at labelled texts.

    Attributes:
        model: its name.
        residual: float32 [n_layers, n_texts, d_model], after each layer.
        label, train: bool [n_texts]. group: int [n_texts], number of the text's group.
    """

    model: str
    residual: np.ndarray
    label: np.ndarray
    train: np.ndarray
    group: np.ndarray

    @property
    def n_layers(self) -> int:
        return len(self.residual)

    @property
    def d_model(self) -> int:
        return int(self.residual.shape[2])


def read(model: Model, texts: Sequence[LabelledText], position: Position = "last", batch_size: int = 64) -> Readings:
    """One pass of the untouched model over the texts (:func:`residual_stream`)."""
    return Readings(
        model.name,
        residual_stream(model, [row.text for row in texts], position, batch_size),
        np.array([row.label for row in texts]),
        np.array([row.split == "train" for row in texts]),
        np.unique([row.group for row in texts], return_inverse=True)[1],
    )


def residual_stream(
    model: Model, texts: Sequence[str], position: Position = "last", batch_size: int = 64
) -> np.ndarray:
    """The residual stream after every layer, float32 [n_layers, n_texts, d_model]; one pass of the untouched model.

    Args:
        position: "last": each text's last token; "mean": the mean over its tokens, without the model's prefix.

    Raises:
        HarnessError: a text has no tokens, or is too long; the residual stream is not finite.
    """
    import torch

    from harness.engine import batches

    tokens, anatomy = model.encode(texts), model.anatomy
    residual = np.zeros((anatomy.n_layers, len(texts), anatomy.d_model), np.float32)
    layers = range(anatomy.n_layers)
    for rows in batches(tokens, batch_size):
        batch = model.pad([tokens[row] for row in rows])
        weight = (batch.attention_mask * (batch.position_ids >= len(model.prefix))).float()
        with torch.no_grad(), model.capture_residuals(layers) as seen:
            model.forward(batch)
        for layer in layers:
            x = seen[layer].float()
            if position == "mean":
                w = weight.to(x.device)
                x = torch.where(w[..., None] > 0, x, 0.0).sum(1) / w.sum(1, keepdim=True)
            else:
                x = x[:, -1]
            residual[layer, rows] = x.cpu().numpy()
    if not np.isfinite(residual).all():
        raise HarnessError(
            f"the residual stream of {model.name} at the labelled texts is not finite (NaN or infinity)."
        )
    return residual


@dataclass(frozen=True, eq=False)
class Probe:
    """A direction, and where along it the classes part.

    Attributes:
        vector: float64 [d_model], difference of the class means, true minus false.
        threshold: midpoint of the class means along the unit vector.
    """

    layer: int
    vector: np.ndarray
    threshold: float

    @property
    def norm(self) -> float:
        """Distance of the class means."""
        return float(np.linalg.norm(self.vector))

    def project(self, x: np.ndarray) -> np.ndarray:
        """x . v / |v| - threshold of residuals [n, d_model]: positive is taken to be true."""
        along: np.ndarray = x @ (self.vector / self.norm) - self.threshold
        return along


def contrasts(readings: Readings, layer: int, labels: np.ndarray, within: bool = False) -> np.ndarray:
    """Differences of means over the training texts under each of some labellings.

    Args:
        labels: bool [n, n_texts], of which those of the training texts are looked at.
        within: of texts that are shifted so that both true classes have one mean: where the classes lie far apart, any
            other labelling finds mostly the direction between them.

    Returns:
        float64 [n, d_model].
    """
    x, true = readings.residual[layer, readings.train].astype(np.float64), labels[:, readings.train]
    if within:
        own = readings.label[readings.train]
        x -= np.where(own[:, None], x[own].mean(0), x[~own].mean(0))
    weights = true / true.sum(1, keepdims=True) - ~true / (~true).sum(1, keepdims=True)
    found: np.ndarray = weights @ x
    return found


def difference_of_means(readings: Readings, layer: int) -> Probe:
    """The direction after a layer, from the texts of the split "train".

    Raises:
        HarnessError: the class means are equal: there is no direction.
    """
    vector = contrasts(readings, layer, readings.label[None])[0]
    norm = float(np.linalg.norm(vector))
    if not norm > 0:
        raise HarnessError(
            f"after layer {layer} of {readings.model} the texts labelled true and false have the same mean at this "
            "position: there is no direction (position=mean may have one)."
        )
    x = readings.residual[layer, readings.train].astype(np.float64) @ (vector / norm)
    label = readings.label[readings.train]
    return Probe(layer, vector, float((x[label].mean() + x[~label].mean()) / 2))


def labellings(readings: Readings, n: int, seed: int) -> np.ndarray:
    """``n`` distinct random labellings of the training texts, bool [n, n_texts]; fewer where there are not so many.

    As many texts are labelled true as are. Neither the true labels nor their opposites are among them, and no two that
    are each other's opposites, which would give one direction and its reverse.
    """
    rng, train = np.random.default_rng(seed), np.flatnonzero(readings.train)
    own = readings.label[train]
    seen = {own.tobytes(), (~own).tobytes()}
    found = np.repeat(readings.label[None], n, axis=0)
    k = 0
    for _ in range(10 * n):
        if k == n:
            break
        drawn = rng.permutation(own)
        if drawn.tobytes() not in seen:
            seen |= {drawn.tobytes(), (~drawn).tobytes()}
            found[k, train] = drawn
            k += 1
    return found[:k]


@dataclass(frozen=True)
class Separation:
    """How well a direction tells the texts of the split "test" apart.

    Attributes:
        auroc: share of pairs of a true and a false text in which the true one lies further along (ties count half).
        accuracy: share of texts on the right side of the threshold. interval: of it, groups of texts resampled
            together; None with fewer than two groups.
        d_prime: distance of the class means along the direction in pooled standard deviations; 0 where there is none.
        n: texts.
    """

    auroc: float
    accuracy: float
    interval: Interval | None
    d_prime: float
    n: int


def separation(readings: Readings, probe: Probe, seed: int = 0, resamples: int = 2000) -> Separation:
    """Test a direction, of this model or of another one of equal width."""
    from harness.plugin import Measure
    from harness.statistics import interval_of

    held = ~readings.train
    along, label = probe.project(readings.residual[probe.layer][held].astype(np.float64)), readings.label[held]
    right = np.repeat(((along > 0) == label)[None], 2, axis=0)  # a measure has two conditions at least
    measure = Measure("accuracy", "accuracy", "share", right, np.ones_like(right))
    spread = np.sqrt((along[label].var() + along[~label].var()) / 2)
    return Separation(
        auroc=float(areas(along[:, None], label[None])[0, 0]),
        accuracy=float(right[0].mean()),
        interval=interval_of(measure, 0, readings.group[held], seed, resamples),
        d_prime=float((along[label].mean() - along[~label].mean()) / spread) if spread > 0 else 0.0,
        n=len(label),
    )


def areas(along: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Areas under the ROC curve [k, m] of values [n, m] for labels bool [k, n]: Mann-Whitney's U over the number of
    pairs."""
    from scipy.stats import rankdata

    n, m = (x.sum(1, keepdims=True) for x in (labels, ~labels))
    found: np.ndarray = (labels @ rankdata(along, axis=0) - n * (n + 1) / 2) / (n * m)
    return found


def chance_of(readings: Readings, probe: Probe, auroc: float, n: int, seed: int) -> float:
    """p of a direction's area: how often it is as large under shuffled held-out labels, (b + 1) / (n + 1).

    The direction, and the layer it is of, must not have been chosen by the held-out texts.
    """
    held = ~readings.train
    along = probe.project(readings.residual[probe.layer, held].astype(np.float64))[:, None]
    labels = np.random.default_rng(seed).permuted(np.repeat(readings.label[held][None], n, axis=0), axis=1)
    return float((np.sum(areas(along, labels)[:, 0] >= auroc) + 1) / (n + 1))


def separations(readings: Readings, probes: Sequence[Probe], seed: int = 0) -> Frame:
    """How well each direction tells the held-out texts apart: a table, one row a direction."""
    found = [separation(readings, probe, seed) for probe in probes]
    return Frame(
        "separation",
        f"How well each layer's direction tells {counted(found[0].n, 'held-out text')} apart",
        {"layer": [probe.layer for probe in probes], "norm": [probe.norm for probe in probes], **_columns(found)},
    )


def _columns(found: Sequence[Separation]) -> dict[str, list[float]]:
    return {
        "auroc": [x.auroc for x in found],
        "accuracy": [x.accuracy for x in found],
        "accuracy_low": [np.nan if x.interval is None else x.interval.low for x in found],
        "accuracy_high": [np.nan if x.interval is None else x.interval.high for x in found],
        "d_prime": [x.d_prime for x in found],
    }


# -- two models --------------------------------------------------------------------------------------------------------


def cosines(base: Readings, tuned: Readings) -> np.ndarray:
    """Cosine between the two models' directions after every layer [n_layers].

    Raises:
        HarnessError: the models differ in width or number of layers.
    """
    _check_alike(base, tuned)
    pairs = [[difference_of_means(x, layer) for x in (base, tuned)] for layer in range(base.n_layers)]
    return np.array([float(a.vector @ b.vector) / (a.norm * b.norm) for a, b in pairs])


def transfer(base: Readings, tuned: Readings, layers: Sequence[int], seed: int = 0) -> Frame:
    """Directions (and thresholds) of each model tested on each: rows of layer, trained on, tested on.

    Both readings are of the same texts.

    Raises:
        HarnessError: the models differ in width or number of layers.
    """
    _check_alike(base, tuned)
    named = (("base", base), ("tuned", tuned))
    cells = [
        (layer, a, b, separation(tested, difference_of_means(trained, layer), seed))
        for layer in layers
        for a, trained in named
        for b, tested in named
    ]
    return Frame(
        "transfer",
        f"Directions of {base.model} (base) and {tuned.model} (tuned), tested on the held-out texts in both",
        {
            "layer": [layer for layer, *_ in cells],
            "trained_on": [a for _, a, _, _ in cells],
            "tested_on": [b for _, _, b, _ in cells],
            **_columns([found for *_, found in cells]),
        },
    )


def _check_alike(base: Readings, tuned: Readings) -> None:
    if (base.n_layers, base.d_model) != (tuned.n_layers, tuned.d_model):
        raise HarnessError(
            f"directions go from one model to another of equal shape, but {base.model} has "
            f"{counted(base.n_layers, 'layer')} of "
            f"width {base.d_model} and {tuned.model} {tuned.n_layers} of width {tuned.d_model}."
        )
