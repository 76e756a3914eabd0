"""What the two models do with the same prompts: where answers come from, and how well text is predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plugin import BASELINE, Frame, HarnessError, Measure, Prompt, counted
from harness.progress import Stage, silent
from harness.report.formatting import number, p_value
from harness.results.compare import paired
from harness.results.pairing import Pairing
from harness.statistics import ALPHA, adjust, transition_table

from .section import Section, columns

if TYPE_CHECKING:
    from harness.plugin import Corpus, Engine, Outcomes, Task

SOURCES = ("CK", "PK", "ND")
SAID = {"CK": "from the context", "PK": "from the base model's memory", "ND": "from neither"}


def same_tokens(tuned: Engine, prompts: Sequence[Prompt]) -> None:
    """Raises: HarnessError: the tuned model's tokeniser divides a prompt otherwise."""
    texts = tuned.model.encode([prompt.text for prompt in prompts])
    other = sum(tuple(tokens) != prompt.tokens for tokens, prompt in zip(texts, prompts, strict=True))
    if other:
        raise HarnessError(f"the two tokenisers divide {other} of {counted(len(prompts), 'prompt')} differently.")


def difference(
    name: str, title: str, unit: str, values: tuple[np.ndarray, np.ndarray], clusters: np.ndarray, resamples: int
) -> dict[str, Any]:
    """Tuned minus base of a mean over prompts, paired: interval (bootstrap over clusters) and p (models exchanged).

    Args:
        values: of base and tuned [n]; booleans of a share are counted in percent.
    """
    first, second = (
        Measure(name, title, unit, np.stack([x, x]), np.ones((2, len(x))), 100.0 if unit == "%" else 1.0)
        for x in values
    )
    every = np.arange(len(clusters))
    pairing = Pairing("prompts", "", every, every, clusters, clusters, np.stack([every, every], 1))
    found = paired(first, second, pairing, resamples)
    wanted = {"first", "second", "difference", "low", "high", "p", "n_items", "n_differing", "mcnemar"}
    return {"measure": name, "title": title, "unit": unit} | found.model_dump(include=wanted)


def conflict_rows(outcomes: Sequence[Outcomes], resamples: int) -> list[dict[str, Any]]:
    """Differences on knowledge-conflict prompts, whose parametric answers are the base model's."""
    clusters = outcomes[0].clusters

    def values(name: str) -> np.ndarray:
        return np.stack([found[name][0] for found in outcomes]).astype(np.float64)

    source, odds = values("source"), values("log_p_ck") - values("log_p_pk")
    measured = [(f"{x}_share", f"answers {SAID[x]} ({x})", "%", source == i) for i, x in enumerate(SOURCES)]
    measured += [
        ("log_odds", "log(P_CK/P_PK) of the first token", "nats", odds),
        ("answer_entropy", "entropy of the first token", "nats", values("entropy")),
    ]
    return [difference(name, title, unit, (x[0], x[1]), clusters, resamples) for name, title, unit, x in measured]


def text_rows(
    engines: Sequence[Engine],
    corpus: Corpus,
    sequences: int,
    length: int,
    seed: int,
    resamples: int,
    stage: Stage = silent,
) -> list[dict[str, Any]]:
    """Differences of loss and entropy on sequences of a corpus, which are resampled whole."""
    from harness.data import sequences as draw

    tokens = [x.tokens for x in draw(engines[0].model, corpus, sequences, length, seed, "evaluate", True)]
    scored = []
    for engine in engines:
        with stage(f"{counted(len(tokens), 'sequence')} read by {engine.model.name}", len(tokens)) as advance:
            scored.append(engine.score(tokens, [BASELINE], advance))
    said = f"of {counted(len(tokens), 'sequence')} of {counted(length, 'token')} of the corpus {corpus.name}"
    return [
        difference(
            name, f"{name.removeprefix('text_')} {said}", "nats",
            (getattr(scored[0], field)[0], getattr(scored[1], field)[0]), scored[0].prompt, resamples,
        )
        for name, field in (("text_loss", "loss"), ("text_entropy", "entropy"))
    ]  # fmt: skip


def sentence(row: Mapping[str, Any]) -> str:
    """One measure in words; p is Holm's."""
    unit = "%" if row["unit"] == "%" else f" {row['unit']}"
    title = f"{row['title'][:1].upper()}{row['title'][1:]}"
    said = f"{title}: {row['first']:.3g}{unit} before, {row['second']:.3g}{unit} after"
    between = "" if row["low"] is None else f" ({number(row['low'])} to {number(row['high'])})"
    clear = "" if row["p_holm"] is not None and row["p_holm"] <= ALPHA else ": not distinguishable"
    return f"{said}; difference {row['difference']:+.3g}{between}, p = {p_value(row['p_holm'])}{clear}."


def behaviour_section(
    engines: Sequence[Engine],
    task: Task,
    corpus: Corpus | None,
    limit: int | None,
    seed: int,
    resamples: int,
    sequences: int = 64,
    length: int = 128,
    stage: Stage = silent,
) -> Section:
    """Both models on the base model's prompts of ``task``, and on a corpus where there is one.

    Raises:
        HarnessError: the tokenisers divide the prompts differently; the task yields no prompts for the base model.
    """
    from ..figures.models import answers_figure

    prompts = task.prepare(engines[0], limit, seed).prompts
    same_tokens(engines[1], prompts)
    outcomes = []
    for engine in engines:
        with stage(f"{counted(len(prompts), 'prompt')} answered by {engine.model.name}", len(prompts)) as advance:
            outcomes.append(task.observe(engine, prompts, [BASELINE], advance))
    rows = conflict_rows(outcomes, resamples)
    if corpus is not None:
        rows += text_rows(engines, corpus, sequences, length, seed, resamples, stage)
    for row, p in zip(rows, adjust([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    table = transition_table(outcomes[0]["source"][0], outcomes[1]["source"][0], range(len(SOURCES)))
    moves = {"base": list(SOURCES), **{f"tuned {x}": table[:, i].tolist() for i, x in enumerate(SOURCES)}}
    shown = ("measure", "first", "second", "difference", "low", "high", "p", "p_holm")
    answers = {
        "prompt": [prompt.text for prompt in prompts],
        "cluster": [prompt.cluster for prompt in prompts],
        **{f"answer {name}": found.answers[0] for name, found in zip(("base", "tuned"), outcomes, strict=True)},
        **{
            f"source {name}": [SOURCES[i] for i in found["source"][0]]
            for name, found in zip(("base", "tuned"), outcomes, strict=True)
        },
    }
    return Section(
        "behaviour",
        f"Behaviour on {counted(len(prompts), 'prompt')} of {counted(len(np.unique(outcomes[0].clusters)), 'fact')}",
        tuple(map(sentence, rows)),
        {"measures": rows, "transitions": table, "n_prompts": len(prompts)},
        (
            Frame(
                "behaviour", "both models on the same prompts", columns([{x: row[x] for x in shown} for row in rows])
            ),
            Frame("transitions", "sources of answers: base model (rows), tuned model (columns)", moves),
            Frame("answers", "every prompt with both answers", answers),
        ),
        (answers_figure(rows[: len(SOURCES)], table, SOURCES),),
    )
