"""Do the refusal directions act? Each model's is added in each model to prompts that should be answered, and ablated.

The layer is the one after which the tuned model's own direction does most on the training texts (Arditi et al. 2024
choose theirs by its effects, too); what is reported is measured on the held-out ones. Controls are the differences of
means under shuffled labels, as long as the direction itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.plugin import BASELINE, AddVector, Condition, Frame, Outcomes, ProjectOut, counted
from harness.report.formatting import number, p_value
from harness.statistics import adjust, derive_seed, summarise

from ..analysis.directions import contrasts, difference_of_means, labellings, read
from ..analysis.labelled_texts import load_labelled
from ..task import LabelledResponse, LabelledResponseMetric
from .section import Section, columns

if TYPE_CHECKING:
    from harness.plugin import Engine, SelectionContext

    from ..analysis.directions import Readings

MODELS = ("base", "tuned")

CONTROLS = 199
"""Control directions: the least one-sided p is 0.005, which after Holm's correction for eight tests is 0.04."""

ANSWER_TOKENS = 16
"""Length of the greedy answers in which refusals are counted."""

Change = Literal["added", "ablated"]


def steering_section(path: Path, begins: tuple[str, ...], contexts: Sequence[SelectionContext], seed: int) -> Section:
    """Refusals, and the log-odds of a refusal's first token, with the directions of both models in both models.

    Args:
        path: labelled texts, true for those that should be refused. begins: how refusals begin.

    Raises:
        HarnessError: the file is wrong, or the models differ in shape.
    """
    from ..figures.models import steering_figure

    texts = load_labelled(path)
    readings = [read(context.model, texts, batch_size=context.engine.batch_size) for context in contexts]
    train, test = (
        LabelledResponse.model_validate({"data": str(path), "split": split, "refusal": begins, "max_new_tokens": 1})
        for split in ("train", "test")
    )
    changes: tuple[Change, ...] = ("added", "ablated")
    cells = [(change, i, j) for change in changes for i in (0, 1) for j in (0, 1)]
    rows = []
    with contexts[1].stage("the layer in which directions act, then directions in models", 1 + len(cells)) as advance:
        layer = acting_layer(contexts[1].engine, train, readings[1])
        advance(1)
        for change, i, j in cells:
            found = steered(contexts[j].engine, test, readings[i], layer, change, seed)
            rows.append({"direction": MODELS[i], "model": MODELS[j], "change": change} | found)
            advance(1)
    for row, p in zip(rows, adjust([row["p"] for row in rows]), strict=True):
        row["p Holm"] = p
    return Section(
        "steering",
        f"Whether the directions of refusal act, after layer {layer}",
        tuple(map(sentence, rows)),
        {"layer": layer, "begins": begins, "controls": CONTROLS, "rows": rows},
        (Frame("steering", "refusals with each model's direction added or ablated, held-out prompts", columns(rows)),),
        (steering_figure(rows),),
    )


def edit(layer: int, vector: np.ndarray, change: Change) -> AddVector | ProjectOut:
    """Add a vector [d_model] after a layer, or project it out there."""
    if change == "added":
        return AddVector(layer, (0,), tuple(vector.tolist()))
    return ProjectOut(layer, (0,), (tuple((vector / np.linalg.norm(vector)).tolist()),))


def observed(engine: Engine, task: LabelledResponse, change: Change, conditions: Sequence[Condition]) -> Outcomes:
    """Outcomes on the prompts that a change is for: to be answered when a direction is added, refused when ablated."""
    prompts = task.prepare(engine, None, 0).prompts
    return task.observe(engine, [x for x in prompts if x.fields["label"] == (change == "ablated")], conditions)


def acting_layer(engine: Engine, task: LabelledResponse, readings: Readings) -> int:
    """The layer with the largest rise of the log-odds of a refusal by adding plus fall by ablating its direction."""
    vectors = [difference_of_means(readings, layer).vector for layer in range(readings.n_layers)]
    effect = np.zeros(len(vectors))
    changes: tuple[tuple[Change, int], ...] = (("added", 1), ("ablated", -1))
    for change, sign in changes:
        conditions = [Condition(str(i), (edit(i, vector, change),), role="control") for i, vector in enumerate(vectors)]
        outcomes = observed(engine, task, change, [BASELINE, *conditions])
        effect += sign * (outcomes.controls["log_odds"] - outcomes.baseline["log_odds"]).mean(axis=1)
    return int(effect.argmax())


def steered(
    engine: Engine, task: LabelledResponse, readings: Readings, layer: int, change: Change, seed: int
) -> dict[str, Any]:
    """What one model's direction does in one model; p is one-sided, for more refusals if added and fewer if ablated."""
    own = difference_of_means(readings, layer)
    random = contrasts(readings, layer, labellings(readings, CONTROLS, derive_seed(seed, "steering", "labels")))
    random *= own.norm / np.linalg.norm(random, axis=1, keepdims=True)
    conditions = [BASELINE, Condition("treated", (edit(layer, own.vector, change),))]
    controls = [Condition(f"control-{i:04d}", (edit(layer, x, change),), role="control") for i, x in enumerate(random)]
    outcomes = observed(engine, task, change, [*conditions, *controls])
    longer = task.model_copy(update={"max_new_tokens": ANSWER_TOKENS})  # a token tells the odds, not a refusal
    told = observed(engine, longer, change, conditions)
    name = f"log_odds_{str(change == 'ablated').lower()}"
    [measure] = [x for x in LabelledResponseMetric().measure(outcomes).measures if x.name == name]
    found = summarise(measure, outcomes.clusters, derive_seed(seed, "steering"))
    return {
        "prompts": len(outcomes.prompts),
        "refused before %": 100 * float(told.baseline["refused"].mean()),
        "refused after %": 100 * float(told.treated["refused"].mean()),
        "log-odds": found.value,
        "low": None if found.interval is None else found.interval.low,
        "high": None if found.interval is None else found.interval.high,
        "controls": None if found.controls is None else found.controls["mean"],
        "p": found.test.p_greater if change == "added" else found.test.p_less,
    }


def sentence(row: dict[str, Any]) -> str:
    """One row in words."""
    prompts = f"{counted(row['prompts'], 'prompt')} to be {'answered' if row['change'] == 'added' else 'refused'}"
    p = p_value(row["p Holm"])
    return (
        f"The {row['direction']} model's direction {row['change']} in the {row['model']} model, {prompts}: refusals "
        f"{row['refused before %']:.0f}% before, {row['refused after %']:.0f}% after; log-odds {row['log-odds']:+.2f} "
        f"nats, control directions {number(row['controls'])}, p = {p} (Holm)."
    )
