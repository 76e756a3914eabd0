"""Truthfulness, refusal and knowledge location in two models: the same directions and places, and do they transfer?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plugin import Frame, counted
from harness.report.formatting import number, p_value
from harness.statistics import adjust, derive_seed

from ..analysis.directions import contrasts, cosines, difference_of_means, labellings, read, transfer
from ..analysis.layer_choice import cross_validated
from ..analysis.requests import PLAIN, asked, request_template
from .section import Section, columns

if TYPE_CHECKING:
    from harness.data import Fact
    from harness.plugin import SelectionContext

    from ..analysis.directions import Readings
    from ..analysis.labelled_texts import LabelledText

MODELS = ("base", "tuned")

LABELLINGS = 999
"""Random labellings that a cosine is compared with."""

SHUFFLED = "median |cosine| of shuffled"

CHOSEN_BY = "AUROC of training texts, tuned"
"""In cross-validation: what the layer that is told of is chosen by."""


# -- where the classes lie apart ---------------------------------------------------------------------------------------


def named_of(name: str, data: str) -> tuple[str, str]:
    """A property's name among sections and files, and in words, where several data sets are labelled with it."""
    return (f"{name}_{data}", f"{name} in {data}") if data else (name, name)


def direction_section(
    name: str,
    texts: Sequence[LabelledText],
    contexts: Sequence[SelectionContext],
    seed: int,
    chat: bool = False,
    data: str = "",
) -> Section:
    """The direction of one property after every layer of both models: cosine, and transfer both ways.

    Args:
        name: of the property, ``truthfulness`` or ``refusal``. texts: labelled with it.
        chat: texts go through each model's chat template. data: the data set that they are, one of several.

    Raises:
        HarnessError: the models differ in shape.
    """
    from ..figures.models import directions_figure

    name, words = named_of(name, data)
    templates = [request_template(context.model) if chat else PLAIN for context in contexts]
    base, tuned = (
        read(context.model, asked(texts, template), batch_size=context.engine.batch_size)
        for context, template in zip(contexts, templates, strict=True)
    )
    table = transfer(base, tuned, range(base.n_layers), derive_seed(seed, "transfer", name))
    alike = cosine_rows(base, tuned, seed)
    cells = [dict(zip(table.columns, row, strict=True)) for row in zip(*table.columns.values(), strict=True)]
    areas = cross_validated(tuned, tuned)
    best = int(areas.argmax())
    for row, area in zip(alike, areas.tolist(), strict=True):
        row[CHOSEN_BY] = area
    at_best = {(row["trained_on"], row["tested_on"]): row for row in cells if row["layer"] == best}
    at = alike[best]
    return Section(
        name,
        f"The direction of {words}, {counted(len(texts), 'labelled text')}",
        (
            f"After layer {best}, the best of the tuned model in cross-validation on the training texts, the two "
            f"models' directions of {words} have cosine {at['cosine']:.3f} (under shuffled labels "
            f"{number(at[SHUFFLED])}, p = {p_value(at['p Holm'])}, Holm over the layers).",
            "Held-out texts on the right side, with 95% intervals over groups (half would be guessing): "
            + "; ".join(f"{a}'s direction in {b} {_accuracy(row)}" for (a, b), row in at_best.items())
            + ".",
        ),
        {"layer": best, "n_texts": len(texts), "cosines": alike, "transfer": cells},
        (
            Frame(f"{name}_cosine", f"cosine between the models' directions of {words}", columns(alike)),
            Frame(f"{name}_transfer", table.title, table.columns),
        ),
        (directions_figure(name, words, cells, alike),),
    )


def _accuracy(row: Mapping[str, Any]) -> str:
    interval = f" ({row['accuracy_low']:.0%} to {row['accuracy_high']:.0%})"
    return f"{row['accuracy']:.0%}{interval if np.isfinite(row['accuracy_low']) else ''}"


def cosine_rows(base: Readings, tuned: Readings, seed: int) -> list[dict[str, Any]]:
    """One row a layer: the cosine of the two directions, beside the tuned model's under shuffled labels.

    p = (b + 1) / (m + 1), b the labellings under which the absolute cosine with the base model's direction is as large;
    Holm's over the layers.
    """
    labels = labellings(tuned, LABELLINGS, derive_seed(seed, "labellings"))
    rows: list[dict[str, Any]] = []
    for layer, cosine in enumerate(cosines(base, tuned)):
        own, other = difference_of_means(base, layer), contrasts(tuned, layer, labels)
        random = np.abs(other @ own.vector) / (np.linalg.norm(other, axis=1) * own.norm)
        p = (int((random >= abs(cosine)).sum()) + 1) / (len(random) + 1)
        rows.append({"layer": layer, "cosine": float(cosine), SHUFFLED: float(np.median(random)), "p": p})
    for row, adjusted in zip(rows, adjust([row["p"] for row in rows]), strict=True):
        row["p Holm"] = adjusted
    return rows


# -- where knowledge is ------------------------------------------------------------------------------------------------


def patching_section(contexts: Sequence[SelectionContext], facts: Sequence[Fact], pairs: int, seed: int) -> Section:
    """Where patching the residual stream recovers a fact, in both models, and how alike the two maps are.

    Raises:
        HarnessError: the models know no facts in common that can be paired, or their tokenisers or shapes differ.
    """
    from ..analysis.pairs import ROLES, fact_pairs
    from ..analysis.patching import correlation, localise
    from ..figures.patching import patching_map

    models = [context.model for context in contexts]
    chosen = fact_pairs(models, facts, pairs, derive_seed(seed, "pairs"))
    maps = []
    for model, context, which in zip(models, contexts, MODELS, strict=True):
        steps = len(chosen) * model.anatomy.n_layers
        with context.stage(f"patching {counted(len(chosen), 'pair')} of facts in the {which} model", steps) as advance:
            maps.append(localise(model, chosen, contexts[0].engine.batch_size, advance))
    found = correlation(maps[0], maps[1], derive_seed(seed, "patching"))
    interval = None if found.interval is None else (found.interval.low, found.interval.high)
    r = "-" if found.r is None else f"{found.r:.3f}"
    between = "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
    rows = [
        {"layer": layer, "token": role, "base": float(maps[0].map[layer, i]), "tuned": float(maps[1].map[layer, i])}
        for layer in range(len(maps[0].map))
        for i, role in enumerate(ROLES)
        if np.isfinite(maps[0].map[layer, i])
    ]
    return Section(
        "patching",
        f"Where knowledge is: activation patching of {counted(len(chosen), 'pair')} of facts",
        (
            f"The maps of recovery by layer and token have correlation {r}{between} over "
            f"{counted(found.n_pairs, 'pair')} that "
            "both models answer.",
        ),
        {"r": found.r, "interval": interval, "n_pairs": found.n_pairs, "map": rows},
        (Frame("patching", "share of the clean answer that patching one place recovers", columns(rows)),),
        tuple(patching_map(x, f"patching_{name}") for x, name in zip(maps, MODELS, strict=True)),
    )
