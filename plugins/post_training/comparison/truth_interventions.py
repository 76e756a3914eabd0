"""Do truthfulness directions act? Added to false statements and subtracted from true ones, before they are judged.

As in Du et al. (their ``interventions.py``, after Marks & Tegmark 2023): the mass-mean direction of the other data sets
after the last of some layers is added after each of these layers at the statement's last two tokens, and what the model
then says of the statement after examples is its answer. With PD = P(TRUE) - P(FALSE), the normalised indirect effect is

    false to true    sum of (PD with the direction added - PD) / sum of (1 - PD)         over false statements
    true to false    sum of (PD - PD with it subtracted) / sum of (1 + PD)               over true statements,

0 where nothing changes, 1 where every answer becomes the opposite with certainty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plugin import BASELINE, AddVector, Condition, Frame, HarnessError, Measure, Positions, counted
from harness.report.formatting import p_value
from harness.statistics import adjust, derive_seed, summarise

from ..analysis.directions import Readings, contrasts, labellings, residual_stream
from ..analysis.statement_pairs import QUESTION, Statements, drawn_examples
from ..analysis.truth_data import TruthData
from .section import Section, columns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.plugin import Engine, Model, SelectionContext

MODELS = ("base", "tuned")

CONTROLS = 199
"""Directions of shuffled labels, of the same length."""

TOKENS = 2
"""Tokens of the statement, counted from its last, at which directions are added."""


@dataclass(frozen=True, eq=False)
class Judgements:
    """Statements to be judged, with their labels and groups; ``answers``: first tokens of TRUE and FALSE."""

    tokens: list[list[int]]
    label: np.ndarray
    group: np.ndarray
    answers: tuple[int, int]
    after: int


def interventions_section(
    data: TruthData,
    examples: Mapping[str, Sequence[str]],
    layers: Sequence[int],
    contexts: Sequence[SelectionContext],
    n: int,
    seed: int,
) -> Section:
    """Both models' directions in both models, on every data set, by the directions of the others.

    Args:
        examples: statements with verdicts, by data set; drawn where there are none.
        layers: after which directions are added; they are those after the last of these.
        n: the most statements of a data set that are judged.

    Raises:
        HarnessError: there is one data set only, or the statements' ends cannot be found among the tokens.
    """
    if len(data.families) < 2:
        raise HarnessError("directions act on data sets that they are not from: name two --truthfulness or more.")
    readings = [_readings(context, data, layers[-1]) for context in contexts]
    rows: list[dict[str, Any]] = []
    with contexts[0].stage("truthfulness directions in models", 4 * len(data.families)) as advance:
        for family, here in data.families.items():
            key = derive_seed(seed, "truth interventions", family)
            judged = judgements(contexts[0].model, data, family, examples, n, key)
            for i, of in enumerate(MODELS):
                vectors = directions(readings[i], ~here, key)
                for j, model in enumerate(MODELS):
                    found = effects(contexts[j].engine, judged, vectors, layers, key)
                    rows += [{"statements": family, "direction": of, "model": model} | row for row in found]
                    advance(1)
    for row, p in zip(rows, adjust([row["p"] for row in rows]), strict=True):
        row["p Holm"] = p
    where = f"after layers {layers[0]} to {layers[-1]}" if len(layers) > 1 else f"after layer {layers[0]}"
    return Section(
        "truth_interventions",
        f"Whether the directions of truthfulness act, {where}, at the last {counted(TOKENS, 'token')} of statements",
        tuple(_sentence(rows, of, model) for of in MODELS for model in MODELS),
        {"layers": list(layers), "tokens": TOKENS, "controls": CONTROLS, "rows": rows},
        (Frame("truth_interventions", "normalised indirect effects of truthfulness directions", columns(rows)),),
    )


def _readings(context: SelectionContext, data: TruthData, layer: int) -> Readings:
    """The statements after one layer, centred within each data set; that layer is number 0."""
    residual = residual_stream(context.model, data.texts, batch_size=context.engine.batch_size)
    centred = data.after(residual[layer]).centred[None].astype(np.float32)
    return Readings(context.model.name, centred, data.label, np.ones(len(data.label), bool), data.group)


def directions(readings: Readings, train: np.ndarray, seed: int) -> np.ndarray:
    """The difference of means of the training statements, then those of shuffled labels, made as long:
    [1 + CONTROLS, d_model]."""
    label, group = readings.label[train], readings.group[train]
    part = Readings(readings.model, readings.residual[:, train], label, np.ones(len(label), bool), group)
    own = contrasts(part, 0, part.label[None])
    random = contrasts(part, 0, labellings(part, CONTROLS, seed))
    random *= np.linalg.norm(own) / np.linalg.norm(random, axis=1, keepdims=True)
    return np.concatenate([own, random])


def judgements(
    model: Model, data: TruthData, family: str, examples: Mapping[str, Sequence[str]], n: int, seed: int
) -> Judgements:
    """Up to ``n`` statements of a data set (its negations aside) after examples in an order drawn for each."""
    from harness.model import first_token

    name = family if family in data.names else next(x for x in data.names if x.endswith(family))
    rows = np.flatnonzero(data.dataset == data.names.index(name))
    own = Statements(name, (), tuple((data.texts[i], bool(data.label[i])) for i in rows))
    shots = examples.get(name) or drawn_examples(own, seed)
    rng = np.random.default_rng(seed)
    shown = {shot.split(QUESTION)[0] for shot in shots}
    kept = [i for i in rng.permutation(rows).tolist() if data.texts[i] not in shown][:n]
    before = ["".join(f"{shots[j]}\n" for j in rng.permutation(len(shots))) + data.texts[i] for i in kept]
    whole, statements = (model.encode([text + end for text in before]) for end in (QUESTION, ""))
    after = {len(a) - len(b) for a, b in zip(whole, statements, strict=True) if a[: len(b)] == b}
    if len(after) != 1 or any(a[: len(b)] != b for a, b in zip(whole, statements, strict=True)):
        raise HarnessError(f'the tokeniser of {model.name} joins the ends of statements with "{QUESTION.strip()}".')
    answers = (first_token(model, before[0] + QUESTION, "TRUE"), first_token(model, before[0] + QUESTION, "FALSE"))
    return Judgements(whole, data.label[kept], data.group[kept], answers, after.pop())


def effects(
    engine: Engine, judged: Judgements, vectors: np.ndarray, layers: Sequence[int], seed: int
) -> list[dict[str, Any]]:
    """The normalised indirect effect of a direction in a model, both ways.

    Args:
        vectors: the direction and its controls, [1 + n_controls, d_model].
    """
    positions = Positions(f"{-judged.after - TOKENS}:{-judged.after}")
    rows = []
    for way, label, sign in (("false to true", False, 1.0), ("true to false", True, -1.0)):
        these = np.flatnonzero(judged.label == label)
        if len(these) == 0:
            continue
        conditions = [BASELINE]
        for i, vector in enumerate(vectors):
            edits = tuple(AddVector(layer, (0,), tuple((sign * vector).tolist())) for layer in layers)
            role, name = ("control", f"control-{i:04d}") if i else ("treated", "treated")
            conditions.append(Condition(name, edits, positions, role=role))  # type: ignore[arg-type]
        tokens = [judged.tokens[i] for i in these]
        p = np.exp(engine.generate(tokens, conditions, 1, choices=[judged.answers] * len(tokens)).choices)
        pd = (p[..., 0] - p[..., 1]).astype(np.float64)
        room = np.broadcast_to(1 - sign * pd[0], pd.shape)
        measure = Measure("nie", "normalised indirect effect", "share", sign * (pd - pd[0]), room)
        found = summarise(measure, judged.group[these], derive_seed(seed, way))
        rows.append(
            {
                "way": way,
                "n": len(these),
                "PD before": float(pd[0].mean()),
                "PD after": float(pd[1].mean()),
                "NIE": found.value,
                "low": None if found.interval is None else found.interval.low,
                "high": None if found.interval is None else found.interval.high,
                "controls": None if found.controls is None else found.controls["mean"],
                "p": found.test.p_greater,
            }
        )
    return rows


def _sentence(rows: Sequence[Mapping[str, Any]], of: str, model: str) -> str:
    """One direction in one model: mean over data sets and ways, as the paper's table has it, and the least sure."""
    here = [row for row in rows if (row["direction"], row["model"]) == (of, model)]
    ways = "; ".join(
        f"{way} {np.mean([row['NIE'] for row in here if row['way'] == way]):+.2f} (control directions "
        f"{np.mean([row['controls'] for row in here if row['way'] == way]):+.2f})"
        for way in dict.fromkeys(row["way"] for row in here)
    )
    largest = max((row["p Holm"] for row in here), default=None)
    return (
        f"The {of} model's direction in the {model} model, mean normalised indirect effect over data sets: {ways}; "
        f"largest p {p_value(largest)} (Holm)."
    )
