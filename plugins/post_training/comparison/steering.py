"""Do the refusal directions act? Each model's is added in each model to prompts that should be answered, and ablated.

The layer is the one after which the tuned model's own direction does most on the training texts (Arditi et al. 2024
choose theirs by its effects, too); what is reported is measured on the held-out ones. Controls are the differences of
means under shuffled labels, as long as the direction itself.

As in Du et al. requests may go through each model's chat template, directions may be ablated after all layers, and the
factor of what is added may be searched, on the training requests alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from harness.plugin import BASELINE, AddVector, Condition, Frame, Outcomes, ProjectOut, Source, counted
from harness.report.formatting import number, p_value
from harness.statistics import adjust, derive_seed, summarise

from ..analysis.directions import contrasts, difference_of_means, labellings, read
from ..analysis.labelled_texts import LabelledText
from ..analysis.requests import PLAIN, asked, request_template
from ..task import LabelledResponse, LabelledResponseMetric
from .judging import Verdicts
from .section import Section, columns

if TYPE_CHECKING:
    from harness.plugin import Engine, Model, SelectionContext

    from ..analysis.directions import Readings
    from ..analysis.judge import Judge

MODELS = ("base", "tuned")

CONTROLS = 199
"""Control directions: the least one-sided p is 0.005, which after Holm's correction for eight tests is 0.04."""

ANSWER_TOKENS = 16
"""Length of the greedy answers in which refusals are counted."""

Change = Literal["added", "ablated"]


class Response(LabelledResponse):
    """What the model answers to texts that have been read before."""

    data: Source = "requests"
    read: tuple[LabelledText, ...] = Field(description="the texts of both splits")

    def texts(self) -> list[LabelledText]:
        return list(self.read)


@dataclass(frozen=True)
class Asking:
    """How refusals are asked for and acted on.

    Attributes:
        begins: how refusals begin.
        chat: requests go through the model's chat template; through a plain dialogue where it has none.
        ablate_all: directions are projected out after every layer, not after their own alone.
        factors: of these the one is taken with which adding a direction makes most refusals of training requests; none:
            the direction is added as it is.
        judge: a classifier that judges the answers, too; the search of factors goes by their beginnings alone.
    """

    begins: tuple[str, ...]
    chat: bool = False
    ablate_all: bool = False
    factors: tuple[float, ...] = ()
    judge: Judge | None = None

    def template(self, model: Model) -> str:
        """How the model is asked."""
        return request_template(model) if self.chat else PLAIN

    def task(self, texts: Sequence[LabelledText], split: str, model: Model) -> LabelledResponse:
        """What the model answers to the requests of a split."""
        template = {} if not self.chat else {"template": self.template(model)}
        given = {"read": tuple(texts), "split": split, "refusal": self.begins, "max_new_tokens": 1, **template}
        return Response.model_validate(given)


def steering_section(
    texts: Sequence[LabelledText],
    asking: Asking,
    contexts: Sequence[SelectionContext],
    seed: int,
    resamples: int = 2000,
) -> Section:
    """Refusals, and the log-odds of a refusal's first token, with the directions of both models in both models.

    Args:
        texts: true for those that should be refused.
        resamples: for the interval of the two judges' agreement.

    Raises:
        HarnessError: the models differ in shape.
    """
    from ..figures.models import steering_figure

    models = [context.model for context in contexts]
    for model in models:
        model.check_cache()  # answers are longer than a token, and come last
    readings = [
        read(context.model, asked(texts, asking.template(context.model)), batch_size=context.engine.batch_size)
        for context in contexts
    ]
    train, test = ([asking.task(texts, split, model) for model in models] for split in ("train", "test"))
    changes: tuple[Change, ...] = ("added", "ablated")
    cells = [(change, i, j) for change in changes for i in (0, 1) for j in (0, 1)]
    rows, searches = [], []
    verdicts = None if asking.judge is None else Verdicts(asking.judge)
    with contexts[1].stage("the layer in which directions act, then directions in models", 1 + len(cells)) as advance:
        layer = acting_layer(contexts[1].engine, train[1], readings[1])
        advance(1)
        for change, i, j in cells:
            engine, factor = contexts[j].engine, 1.0
            names = {"direction": MODELS[i], "model": MODELS[j]}
            if change == "added" and asking.factors:
                search = searched(engine, train[j], readings[i], layer, asking.factors)
                searches.append(names | search)
                factor = search["factor"]
            found, told = steered(engine, test[j], readings[i], layer, change, seed, factor, asking.ablate_all)
            judged = {} if verdicts is None else verdicts.of(MODELS[j], MODELS[i], change, told)
            rows.append(names | {"change": change} | found | judged)
            advance(1)
    for row, p in zip(rows, adjust([row["p"] for row in rows]), strict=True):
        row["p Holm"] = p
    agreement = [] if verdicts is None else verdicts.rows(seed, resamples)
    return Section(
        "steering",
        f"Whether the directions of refusal act, after layer {layer}",
        (*map(sentence, rows), *_asking_sentences(asking, searches), *_verdict(verdicts, agreement)),
        {"layer": layer, "begins": asking.begins, "controls": CONTROLS, "rows": rows}
        | ({"templates": [asking.template(model) for model in models]} if asking.chat else {})
        | ({"ablated": "after every layer"} if asking.ablate_all else {})
        | ({"searches": searches} if searches else {})
        | ({} if verdicts is None else {"judge": verdicts.recorded | {"agreement": agreement}}),
        (
            Frame("steering", "refusals with each model's direction added or ablated, held-out prompts", columns(rows)),
            *([] if verdicts is None else [verdicts.frame(agreement)]),
        ),
        (steering_figure(rows),),
    )


def _verdict(verdicts: Verdicts | None, agreement: Sequence[dict[str, Any]]) -> list[str]:
    return [] if verdicts is None else [verdicts.sentence(agreement)]


def _asking_sentences(asking: Asking, searches: Sequence[dict[str, Any]]) -> list[str]:
    """What is not as it is by default."""
    said = []
    if searches:
        tried, found = (
            ", ".join(f"{x:g}" for x in sorted(asking.factors)),
            "; ".join(f"{x['direction']}'s in {x['model']} {x['factor']:g}" for x in searches),
        )
        said.append(f"Added times the factor, of {tried}, that makes most refusals of training requests: {found}.")
    if asking.ablate_all:
        said.append("Ablated directions are projected out after every layer.")
    return said


def searched(
    engine: Engine, task: LabelledResponse, readings: Readings, layer: int, factors: Sequence[float]
) -> dict[str, Any]:
    """The factor with which adding a direction makes most refusals of training requests; of several the least one."""
    vector = difference_of_means(readings, layer).vector
    longer = task.model_copy(update={"max_new_tokens": ANSWER_TOKENS})
    conditions = [Condition(f"{x:g}", (edit(layer, x * vector, "added"),), role="control") for x in sorted(factors)]
    refused = observed(engine, longer, "added", [BASELINE, *conditions]).controls["refused"].mean(axis=1)
    best = sorted(factors)[int(refused.argmax())]
    rates = {f"{x:g}": 100 * float(rate) for x, rate in zip(sorted(factors), refused, strict=True)}
    return {"factor": best, "training refusals %": rates}


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


def edits(layer: int, vector: np.ndarray, change: Change, n_layers: int | None) -> tuple[AddVector | ProjectOut, ...]:
    """Add a vector after a layer, or project it out there, or after every one of ``n_layers``."""
    layers = range(n_layers) if change == "ablated" and n_layers else (layer,)
    return tuple(edit(at, vector, change) for at in layers)


def steered(
    engine: Engine,
    task: LabelledResponse,
    readings: Readings,
    layer: int,
    change: Change,
    seed: int,
    factor: float = 1.0,
    ablate_all: bool = False,
) -> tuple[dict[str, Any], Outcomes]:
    """What one model's direction does in one model, and the answers before and after.

    p is one-sided, for more refusals if added and fewer if ablated.

    Args:
        factor: of what is added, the controls too. ablate_all: after every layer, the controls too.
    """
    own = difference_of_means(readings, layer)
    n_layers = readings.n_layers if ablate_all else None
    random = contrasts(readings, layer, labellings(readings, CONTROLS, derive_seed(seed, "steering", "labels")))
    random *= own.norm / np.linalg.norm(random, axis=1, keepdims=True)
    conditions = [BASELINE, Condition("treated", edits(layer, factor * own.vector, change, n_layers))]
    controls = [
        Condition(f"control-{i:04d}", edits(layer, factor * x, change, n_layers), role="control")
        for i, x in enumerate(random)
    ]
    outcomes = observed(engine, task, change, [*conditions, *controls])
    longer = task.model_copy(update={"max_new_tokens": ANSWER_TOKENS})  # a token tells the odds, not a refusal
    told = observed(engine, longer, change, conditions)
    name = f"log_odds_{str(change == 'ablated').lower()}"
    [measure] = [x for x in LabelledResponseMetric().measure(outcomes).measures if x.name == name]
    found = summarise(measure, outcomes.clusters, derive_seed(seed, "steering"))
    row = {
        "prompts": len(outcomes.prompts),
        "refused before %": 100 * float(told.baseline["refused"].mean()),
        "refused after %": 100 * float(told.treated["refused"].mean()),
        "log-odds": found.value,
        "low": None if found.interval is None else found.interval.low,
        "high": None if found.interval is None else found.interval.high,
        "controls": None if found.controls is None else found.controls["mean"],
        "p": found.test.p_greater if change == "added" else found.test.p_less,
    }
    return row, told


def sentence(row: dict[str, Any]) -> str:
    """One row in words."""
    prompts = f"{counted(row['prompts'], 'prompt')} to be {'answered' if row['change'] == 'added' else 'refused'}"
    p = p_value(row["p Holm"])
    judged = ""
    if "judged before %" in row:
        judged = f" (by the classifier {row['judged before %']:.0f}% and {row['judged after %']:.0f}%)"
    return (
        f"The {row['direction']} model's direction {row['change']} in the {row['model']} model, {prompts}: refusals "
        f"{row['refused before %']:.0f}% before, {row['refused after %']:.0f}% after{judged}; log-odds "
        f"{row['log-odds']:+.2f} nats, control directions {number(row['controls'])}, p = {p} (Holm)."
    )
