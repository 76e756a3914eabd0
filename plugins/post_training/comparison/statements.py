"""Where true and false are told apart, and whether one model can do with the other's residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plugin import Frame, counted
from harness.statistics import derive_seed

from ..analysis.statement_pairs import ROLES, drawn_examples, prompts
from ..analysis.statement_patching import (
    WAYS,
    Estimate,
    Way,
    at,
    best_place,
    correlation_of,
    estimate,
    four_ways,
    group_weights,
)
from .section import Section, columns

if TYPE_CHECKING:
    from harness.plugin import SelectionContext

    from ..analysis.statement_pairs import Asked, Statements

SAID: dict[Asked, str] = {
    "examples": "asked whether they are true after examples",
    "question": "asked whether they are true, without examples",
    "none": "up to their last word, which is the answer",
}


def statements_section(
    data: Statements,
    asked: Asked,
    examples: Sequence[str] | None,
    contexts: Sequence[SelectionContext],
    n: int,
    seed: int,
    resamples: int,
) -> Section:
    """Four maps of patched statement pairs, how alike they are, and what the other's residual stream does.

    Args:
        examples: statements with verdicts; None draws them from the data set.

    Raises:
        HarnessError: no pair fits both models, or one does not tell true from false.
    """
    from ..figures.statements import statement_maps

    models = [context.model for context in contexts]
    key = derive_seed(seed, "statements", data.name, asked)
    shots = drawn_examples(data, key) if examples is None else examples
    pairs = prompts(models, data, asked, shots, n, key)
    steps = len(WAYS) * len(pairs) * models[0].anatomy.n_layers
    with contexts[0].stage(f"patching {counted(len(pairs), 'pair')} of {data.name}", steps) as advance:
        found = four_ways(models, pairs, contexts[0].engine.batch_size, advance)
    weights, groups = group_weights([pair.group for pair in pairs], derive_seed(key, "groups"), resamples)
    alike = {
        f"{first}, {second}": estimate(correlation_of(found[first], found[second]), weights, groups)
        for first, second in (("base", "tuned"), ("base to tuned", "tuned"), ("tuned to base", "base"))
    }
    told = {name: _told(found[name], weights, groups) for name in ("base", "tuned")}
    carried = [
        _carried(found, own, other, weights, groups)
        for own, other in (("tuned", "base to tuned"), ("base", "tuned to base"))
    ]
    maps = {name: way.map for name, way in found.items()}
    name = f"statements_{data.name}_{asked}"
    about = f"{counted(len(pairs), 'pair')} of {data.name}, {SAID[asked]}"
    return Section(
        name,
        f"Patching true into false statements, {about}",
        (*_told_sentences(told, asked), *_alike_sentences(alike, groups), *map(_carried_sentence, carried)),
        {
            "data": data.name,
            "asked": asked,
            "examples": shots if asked == "examples" else (),
            "n_pairs": len(pairs),
            "n_objects": groups,
            "log_odds": {name: {which: _numbers(x) for which, x in of.items()} for name, of in told.items()},
            "correlations": {name: _numbers(x) for name, x in alike.items()},
            "carried": carried,
        },
        (
            Frame(
                f"{name}_carried",
                "what each model's residual stream carries over, at its own best place",
                columns(carried),
            ),
            Frame(f"{name}_map", f"share carried over by layer and token, {about}", columns(_rows(maps))),
        ),
        (
            statement_maps(
                name,
                "Share of the difference between true and false that the true statement's residual stream carries "
                f"over, by layer and token: {about}.",
                maps,
            ),
        ),
    )


def _numbers(found: Estimate) -> dict[str, float | None]:
    return {"value": found.value, "low": found.low, "high": found.high}


def _told(way: Way, weights: np.ndarray, groups: int) -> dict[str, Estimate]:
    """Mean d of the true and of the false statements."""

    return {
        "true": estimate(lambda w: w @ way.true / w.sum(1), weights, groups),
        "false": estimate(lambda w: w @ way.false / w.sum(1), weights, groups),
    }


def _carried(found: dict[str, Way], own: str, other: str, weights: np.ndarray, groups: int) -> dict[str, Any]:
    """The target's own and the other model's residual stream at the place where its own carries most over."""
    layer, role = best_place(found[own])
    mine, theirs = at(found[own], layer, role), at(found[other], layer, role)
    row: dict[str, Any] = {"in": own, "layer": layer, "token": ROLES[role]}
    for name, value in (("own", mine), ("other", theirs), ("difference", lambda w: theirs(w) - mine(w))):
        of = estimate(value, weights, groups)
        row |= {name: of.value, f"{name} low": of.low, f"{name} high": of.high}
    apart = np.abs(found[own].map - found[other].map)
    where = np.unravel_index(int(np.nanargmax(apart)), apart.shape)
    row |= {"largest |difference|": float(apart[where]), "its layer": int(where[0]), "its token": ROLES[int(where[1])]}
    return row | {"largest, tokens that differ": float(np.nanmax(apart[:, :3]))}


def _rows(maps: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    return [
        {"layer": layer, "token": token} | {name: float(found[layer, i]) for name, found in maps.items()}
        for layer in range(len(maps["base"]))
        for i, token in enumerate(ROLES)
        if np.isfinite(maps["base"][layer, i])
    ]


# -- sentences ---------------------------------------------------------------------------------------------------------


def _between(low: float | None, high: float | None, digits: int) -> str:
    return "" if low is None or high is None else f" ({low:.{digits}f} to {high:.{digits}f})"


def _with(found: Estimate, digits: int) -> str:
    return "-" if found.value is None else f"{found.value:.{digits}f}{_between(found.low, found.high, digits)}"


def _told_sentences(told: dict[str, dict[str, Estimate]], asked: Asked) -> list[str]:
    what = "log P(word) / P(not)" if asked == "none" else "log P(TRUE) / P(FALSE)"
    models = "; ".join(f"{name} model {_with(of['true'], 2)} and {_with(of['false'], 2)}" for name, of in told.items())
    return [f"{what} of true and of false statements, in nats: {models}."]


def _alike_sentences(alike: dict[str, Estimate], groups: int) -> list[str]:
    said = {
        "base, tuned": "Maps of the two models, each with its own residual stream",
        "base to tuned, tuned": "Map of the base model's residual stream in the tuned model, and the tuned model's own",
        "tuned to base, base": "Map of the tuned model's residual stream in the base model, and the base model's own",
    }
    over = f" over {counted(groups, 'object')}"
    return [f"{text}: correlation {_with(alike[name], 3)}{over}." for name, text in said.items()]


def _carried_sentence(row: dict[str, Any]) -> str:
    other = {"tuned": "base", "base": "tuned"}[row["in"]]

    def share(name: str) -> str:
        return f"{row[name]:.2f}{_between(row[f'{name} low'], row[f'{name} high'], 2)}"

    return (
        f"In the {row['in']} model its own residual stream carries most over after layer {row['layer']} at the "
        f"{row['token']}: {share('own')}; the {other} model's there {share('other')}, difference {share('difference')}."
    )
