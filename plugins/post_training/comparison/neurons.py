"""Are they the same neurons? The last layers of two models beside each other (Du et al. 2025: confidence).

Neuron i of the one model is compared with neuron i of the other: post-training starts from the base model's weights.
How far that holds is itself measured, by the cosines of each neuron's input and output weights in the two models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plugin import Frame, HarnessError, Neuron, PluginError, border, counted
from harness.report.formatting import number, p_value
from harness.statistics import ALPHA, adjust, chance_overlap, generator

from .confidence_grid import grid_rows, grid_sentence
from .section import Section, columns

if TYPE_CHECKING:
    from harness.plugin import Model, Selection, SelectionContext, Selector

LEAST_LOGIT_VAR = 1e-12
"""LogitVar below this is rounding of float32 weights; the logarithm is taken of this instead."""

SAME = 0.5
"""Sets that share more than random ones are largely the same from this intersection over union on."""


@dataclass(frozen=True, eq=False)
class FinalLayer:
    """What the weights of a model's last layer say.

    Attributes:
        layer: its number.
        scores: float64 [d_mlp] each: ``norm``, ``logit_var``, ``rho`` and ``norm_per_log_logit_var`` (norm / log
            LogitVar), rounded to what float32 weights tell.
        w_out: float64 [d_mlp, d_model], as the residual stream sees them. w_in: likewise, or None where the model's
            input weights cannot be told (``why``).
        singular_values: float64 [d_model], of the processed unembedding, descending.
        null: float64 [d_model, k'], orthonormal basis of the effective null space without the constant direction, which
            a LayerNorm makes null in every model.
    """

    layer: int
    scores: dict[str, np.ndarray]
    w_out: np.ndarray
    w_in: np.ndarray | None
    why: str
    singular_values: np.ndarray
    null: np.ndarray

    @classmethod
    def of(cls, model: Model, null_dims: int | None = None) -> tuple[FinalLayer, int]:
        """The final layer, and the number of null dimensions: as asked, or as the spectrum suggests."""
        from harness.model import neuron_scores, read_in, suggest_null_dims, unembedding_geometry, write_directions

        layer = model.anatomy.n_layers - 1
        geometry, w_out = unembedding_geometry(model), write_directions(model, layer)
        k = null_dims or suggest_null_dims(geometry.singular_values, geometry.trivial)[0]
        scores = neuron_scores(geometry, w_out, k)
        log_var = np.log(np.maximum(scores["logit_var"], LEAST_LOGIT_VAR))
        scores["norm_per_log_logit_var"] = scores["norm"] / log_var
        scores = {name: values.round(12) for name, values in scores.items()}
        bottom = geometry.directions[:, -k:]
        if geometry.trivial:
            bottom = bottom - bottom.mean(0)
        null = np.linalg.svd(bottom, full_matrices=False)[0][:, : k - geometry.trivial]
        try:
            w_in, why = read_in(model, layer).w_in.numpy(), ""
        except HarnessError as error:
            w_in, why = None, str(error)
        return cls(layer, scores, w_out, w_in, why, geometry.singular_values, null), k


# -- sets of neurons ---------------------------------------------------------------------------------------------------


def overlaps(
    contexts: Sequence[SelectionContext], selectors: Mapping[str, Selector]
) -> tuple[list[dict[str, Any]], dict[str, list[Selection]]]:
    """How far each rule chooses the same neurons in both models, beside random sets of the layer; and the selections.

    A rule that a model has too few neurons for is kept with its reason (``why``); the p-values of the others are
    adjusted for their number.
    """
    rows: list[dict[str, Any]] = []
    chosen: dict[str, list[Selection]] = {}
    for rule, selector in selectors.items():
        row: dict[str, Any] = {"rule": rule, "base": [], "tuned": [], "shared": [], "overlap": None, "why": ""}
        try:
            chosen[rule] = [_selected(rule, selector, context) for context in contexts]
        except PluginError:
            raise
        except HarnessError as error:
            rows.append(row | {"why": str(error)})
            continue
        base, tuned = ([str(neuron) for neuron in found.units] for found in chosen[rule])
        shared = [name for name in base if name in tuned]
        group = (len(shared), len(base), len(tuned), contexts[0].model.anatomy.d_mlp)
        rows.append(row | {"base": base, "tuned": tuned, "shared": shared, "overlap": asdict(chance_overlap([group]))})
    known = [row for row in rows if row["overlap"]]
    for row, p in zip(known, adjust([row["overlap"]["p"] for row in known]), strict=True):
        row["p_holm"] = p
    return rows, chosen


def _selected(rule: str, selector: Selector, context: SelectionContext) -> Selection:
    with context.stage(f"choosing {rule} in {context.model.name}"):
        return border.select(selector, context)


def overlap_sentence(row: Mapping[str, Any]) -> str:
    """The verdict on one rule."""
    found = row["overlap"]
    if found is None:
        return f"{row['rule']}: not compared. {row['why']}"
    if row["p_holm"] > ALPHA:
        said = "no more in common than random sets"
    else:
        said = "largely the same neurons" if found["iou"] >= SAME else "partly the same neurons"
    return (
        f"{row['rule']}: {said}: IoU {found['iou']:.2f} ({found['shared']} of {len(row['base'])} shared), chance "
        f"{number(found['expected_iou'])}, p = {p_value(row['p_holm'])} (Holm)."
    )


# -- scores and weights ------------------------------------------------------------------------------------------------


def spearman(first: np.ndarray, second: np.ndarray, level: float = 0.95) -> dict[str, float | int | None]:
    """Spearman's rank correlation of values [n], over neurons that have both, with Bonett & Wright's interval (2000).

    On Fisher's scale the standard error is sqrt((1 + r^2 / 2) / (n - 3)). None where a value is constant or n < 4.
    """
    from scipy.stats import norm, spearmanr

    known = np.isfinite(first) & np.isfinite(second)
    a, b, n = first[known], second[known], int(known.sum())
    if n < 4 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return {"r": None, "low": None, "high": None, "n": n}
    r = float(np.clip(spearmanr(a, b).statistic, -1, 1))
    half = norm.ppf((1 + level) / 2) * np.sqrt((1 + r**2 / 2) / (n - 3))
    z = np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15))
    return {"r": r, "low": float(np.tanh(z - half)), "high": float(np.tanh(z + half)), "n": n}


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of each row of two arrays [n, d]; NaN where a row is zero."""
    with np.errstate(invalid="ignore"):
        found: np.ndarray = np.einsum("nd,nd->n", first, second) / (
            np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        )
        return found


def null_overlap(first: np.ndarray, second: np.ndarray, d: int, seed: int, draws: int = 199) -> dict[str, Any]:
    """How far two subspaces with orthonormal bases [d_model, k] coincide.

    ``overlap``: mean squared cosine of their principal angles (degrees), 1 for the same subspace, 0 if orthogonal;
    ``expected``: k / d, that of random ones; ``p`` = (b + 1) / (draws + 1), b the random subspaces that have as much.

    Args:
        d: dimensions of the space that both lie in.
    """
    from scipy.linalg import subspace_angles

    k = first.shape[1]
    angles = np.sort(subspace_angles(first, second))
    observed = float(np.mean(np.cos(angles) ** 2))
    rng = generator(seed, "post_training", "null space")
    # The first subspace may be that of the first axes: a random one has no preferred place.
    random = [np.mean(np.linalg.qr(rng.standard_normal((d, k)))[0][:k] ** 2) * k for _ in range(draws)]
    p = (sum(x >= observed for x in random) + 1) / (draws + 1)
    return {"dims": k, "angles": np.degrees(angles), "overlap": observed, "expected": k / d, "p": p, "draws": draws}


def score_rows(base: FinalLayer, tuned: FinalLayer) -> list[dict[str, Any]]:
    """One row a score: its rank correlation, and how it changed."""
    rows = []
    for name, first in base.scores.items():
        second = tuned.scores[name]
        change = second - first
        most = int(np.nanargmax(np.abs(change)))
        found = spearman(first, second)
        rows.append(
            {
                "score": name,
                "spearman": found["r"],
                "low": found["low"],
                "high": found["high"],
                "median base": float(np.nanmedian(first)),
                "median tuned": float(np.nanmedian(second)),
                "median |change|": float(np.nanmedian(np.abs(change))),
                "largest change": f"{base.layer}.{most}",
                "its change": float(change[most]),
            }
        )
    return rows


def neuron_frame(base: FinalLayer, tuned: FinalLayer, cosine: Mapping[str, np.ndarray]) -> Frame:
    """Every neuron with its scores in both models and the cosines of its weights."""
    scores = {
        f"{name} {model}": layer.scores[name]
        for name in base.scores
        for model, layer in (("base", base), ("tuned", tuned))
    }
    names = [f"{base.layer}.{i}" for i in range(len(base.w_out))]
    return Frame("neurons", "the last layer, neuron by neuron", {"neuron": names, **scores, **cosine})


def _indices(names: Sequence[str]) -> str:
    """Of neurons of one layer: the name of a single one would be read as a number."""
    return " ".join(str(Neuron.parse(name).index) for name in names)


def weights_section(
    models: Sequence[Model],
    contexts: Sequence[SelectionContext],
    selectors: Callable[[int], Mapping[str, Selector]],
    null_dims: int | None,
    seed: int,
    grid: tuple[Sequence[float], Sequence[int]] | None = None,
) -> Section:
    """Overlap of the chosen neurons, correlation and change of all scores, weights and null spaces.

    Args:
        selectors: the rules, by name, for a number of null dimensions: the base model's serves for both.
        grid: shares of norm and numbers of neurons at which the paper's rule is looked at, too.
    """
    from ..figures.confidence_grid import grid_figure
    from ..figures.models import spectrum_figure, weights_figures

    with contexts[0].stage("reading the last layers", len(models)) as advance:
        base, k = FinalLayer.of(models[0], null_dims)
        advance(1)
        tuned, _ = FinalLayer.of(models[1], k)
        advance(1)
    rules, chosen = overlaps(contexts, selectors(k))
    rows = score_rows(base, tuned)
    pairs = {"output": (base.w_out, tuned.w_out)}
    if base.w_in is not None and tuned.w_in is not None:
        pairs["input"] = (base.w_in, tuned.w_in)
    shuffle = generator(seed, "post_training", "cosines").permutation(len(base.w_out))
    cosine = {f"cosine {name}": cosines(*pair) for name, pair in pairs.items()}
    other = {f"cosine {name}": cosines(pair[0], pair[1][shuffle]) for name, pair in pairs.items()}
    null = null_overlap(base.null, tuned.null, len(base.null) - (k - base.null.shape[1]), seed)
    cells = [] if grid is None else grid_rows(base, tuned, *grid)
    medians = {name: float(np.nanmedian(values)) for name, values in cosine.items()}
    far = np.nanmax(null["angles"]) if null["dims"] else 0.0
    overlap_rows = [
        {
            "rule": row["rule"],
            "base": " ".join(row["base"]),
            "tuned": " ".join(row["tuned"]),
            "layer": base.layer,
            "base indices": _indices(row["base"]),
            "tuned indices": _indices(row["tuned"]),
            "IoU": row["overlap"]["iou"],
            "chance": row["overlap"]["expected_iou"],
            "p": row["overlap"]["p"],
            "p Holm": row["p_holm"],
        }
        for row in rules
        if row["overlap"]
    ]
    return Section(
        "neurons",
        "The last layer's neurons",
        (
            *map(overlap_sentence, rules),
            "Median cosine of a neuron's weights in the two models: "
            + ", ".join(
                f"{name.removeprefix('cosine ')} {value:.4f} (of different neurons {np.nanmedian(other[name]):.4f})"
                for name, value in medians.items()
            )
            + ".",
            f"Null space of the unembedding, {counted(null['dims'], 'dimension')}: overlap "
            f"{null['overlap']:.4f}, chance "
            f"{number(null['expected'])}, p = {p_value(null['p'])}; largest principal angle {far:.1f} degrees.",
            *([grid_sentence(cells)] if cells else []),
        ),
        {
            "null_dims": k,
            "overlaps": rules,
            "scores": rows,
            "cosines": medians,
            "null_space": null,
            "not_read": " ".join(dict.fromkeys(x for x in (base.why, tuned.why) if x)),
            **({"grid": cells} if cells else {}),
        },
        (
            Frame("overlap", "neurons that each rule chooses in the two models", columns(overlap_rows)),
            Frame("scores", "rank correlation and change of the scores, over all neurons of the layer", columns(rows)),
            neuron_frame(base, tuned, cosine),
            *([Frame("overlap_grid", "entropy neurons by share of norm and number", columns(cells))] if cells else []),
        ),
        (
            *weights_figures(base, tuned, {rule: tuple(x) for rule, x in chosen.items()}, cosine, other),
            spectrum_figure(base, tuned, null["angles"], k),
            *([grid_figure(cells)] if cells else []),
        ),
    )
