"""What components may hand over before anything is run: selections, prompts, what is frozen.

The functions look at records and run nothing; :mod:`harness.plugin.border` makes the calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.conditions.conditions import UNIT_KEYS, Frozen, Selection
from harness.conditions.units import Direction, Unit, check_units
from harness.errors import HarnessError, PluginError
from harness.files.wording import counted
from harness.plugin.handed import (
    ROW_KEYS,
    a,
    as_json,
    expect,
    instance,
    locked,
    members,
    numbers,
    refuse,
    text,
    twice,
    whole,
)
from harness.plugin.records import Prepared, Prompt, Step
from harness.plugin.standing import check_special

if TYPE_CHECKING:
    from harness.model.model import Model


# -- selections --------------------------------------------------------------------------------------------------------


def units(found: Any, model: Model, who: str, what: str) -> tuple[Unit, ...]:
    """A tuple of units of one kind that the model has, none of them twice; it may be empty."""
    listed: tuple[Unit, ...] = members(found, Unit, who, what)
    for unit in listed:
        expect(whole(unit.layer) and whole(unit.index), who, f"names {unit} among {what}: layer and index are integers")
    if listed:
        try:
            check_units(listed, model, who)
        except PluginError:
            raise
        except Exception as error:
            raise PluginError(str(error)) from error
    return listed


def selection(found: Any, model: Model, who: str) -> Selection:
    """A selection, with arrays of the harness's own: a selector may go on to write into its."""
    chosen = instance(found, Selection, who)
    if chosen.parts:
        return _circuit(chosen, model, who)
    listed = units(chosen.units, model, who, "units")
    text(chosen.rule, who, "the rule")
    if not listed:
        selector = who.split(":")[0]
        raise HarnessError(
            f"{selector} selected no neuron: {chosen.rule.rstrip('.')}. Loosen its thresholds (see `harness list` for "
            "them), or take another rule."
        )
    candidates = units(chosen.candidates, model, who, "candidates")
    pool = () if chosen.pool is None else units(chosen.pool, model, who, "the pool")
    for others, what in ((candidates, "candidates"), (pool, "the pool")):
        if others and others[0].site != listed[0].site:
            refuse(who, f"chose {listed[0].site}, but {what} are {others[0].site}")
    strangers = set(listed) - set(candidates)
    if candidates and strangers:
        refuse(who, f"chose {min(strangers)}, which is not among its candidates")
    as_json(chosen.details, who, "details")
    check_special(chosen, who)
    return replace(chosen, scores=_scores(chosen, candidates, who), vectors=_vectors(chosen, pool, model, who))


def _circuit(chosen: Selection, model: Model, who: str) -> Selection:
    """A selection of several steps, each of which has been looked at by itself."""
    parts = members(chosen.parts, Selection, who, "parts")
    together = tuple(unit for part in parts for unit in part.units)
    expect(together == chosen.units, who, "gave parts whose units, one after the other, are not its own")
    again = twice([f"{unit.word} {unit}" for unit in together])
    expect(again is None, who, f"chose {again} in two of its parts")
    text(chosen.rule, who, "the rule")
    return replace(chosen, parts=tuple(selection(part, model, who) for part in parts))


def _scores(chosen: Selection, candidates: Sequence[Unit], who: str) -> dict[str, np.ndarray]:
    instance(chosen.scores, Mapping, who, "gave as scores")
    scores, selected = {}, set(chosen.units)
    inside = np.array([unit in selected for unit in candidates], dtype=bool)
    for name, column in chosen.scores.items():
        text(name, who, "the name of a score")
        expect(name not in UNIT_KEYS, who, f'calls a score "{name}", which tables of neurons have for something else')
        array = numbers(column, (len(candidates),), who, f'the score "{name}", one number for each candidate,')
        bad = ~np.isfinite(array.astype(float)) & inside
        if bad.any():
            refuse(who, f'gave a score "{name}" of {candidates[int(bad.argmax())]}, which it chose, that is not finite')
        scores[name] = locked(array)
    return scores


def _vectors(chosen: Selection, pool: Sequence[Unit], model: Model, who: str) -> dict[Unit, np.ndarray]:
    instance(chosen.vectors, Mapping, who, "gave as vectors")
    width = model.anatomy.d_model
    for unit in (*chosen.units, *pool):
        if isinstance(unit, Direction) and unit not in chosen.vectors:
            refuse(who, f"gave no vector of {unit}")
    found = {}
    for unit, vector in chosen.vectors.items():
        array = numbers(vector, (width,), who, f"a vector of {unit}")
        expect(bool(np.isfinite(array).all()), who, f"gave a vector of {unit} that is not finite")
        found[unit] = locked(array)
    return found


# -- prompts -----------------------------------------------------------------------------------------------------------


def prepared(found: Any, model: Model, who: str) -> Prepared:
    """Prompts that can be told apart, read by the model, and written down."""
    made = instance(found, Prepared, who)
    members(made.steps, Step, who, "steps")
    for step in made.steps:
        text(step.name, who, "the name of a step")
        text(step.why, who, f'the words of the step "{step.name}"', empty=True)
        expect(whole(step.kept) and whole(step.dropped), who, f'counts no whole items in the step "{step.name}"')
    as_json(made.details, who, "details")
    for prompts, what in ((made.prompts, "prompts"), (made.held_out, "held_out")):
        members(prompts, Prompt, who, what)
        for prompt in prompts:
            _prompt(prompt, model, who)
        again = twice([prompt.id for prompt in prompts])
        expect(again is None, who, f'gave two {what} with the id "{again}"')
    return made


def _prompt(prompt: Prompt, model: Model, who: str) -> None:
    text(prompt.id, who, "the id of a prompt")
    named = f'prompt "{prompt.id}"'
    text(prompt.text, who, f"the text of {named}", empty=True)
    text(prompt.cluster, who, f"the cluster of {named}", empty=True)
    expect(isinstance(prompt.tokens, tuple), who, f"gave {a(prompt.tokens)} as tokens of {named}, expected a tuple")
    expect(len(prompt.tokens) > 0, who, f"gave no tokens of {named}")
    n = model.hf.get_input_embeddings().weight.shape[0]
    for token in prompt.tokens:
        if not (whole(token) and 0 <= token < n):
            refuse(who, f"gave {a(token)} as a token of {named}, expected integers from 0 to {n - 1}")
    as_json(prompt.fields, who, f"fields of {named}")
    clash = sorted(ROW_KEYS & prompt.fields.keys())
    expect(not clash, who, f'calls a field of {named} "{clash[0] if clash else ""}", which samples have already')


def reference(found: Any, prompts: Sequence[Prompt], who: str) -> Any:
    """A (start, stop) within each prompt, or None."""
    if found is None:
        return None
    spans = list(instance(found, Sequence, who))
    expect(len(spans) == len(prompts), who, f"gave {counted(len(spans), 'part')} of {counted(len(prompts), 'prompt')}")
    for prompt, span in zip(prompts, spans, strict=True):
        _part(span, prompt, "the part", who)
    return spans


def named_spans(found: Any, prompts: Sequence[Prompt], who: str) -> list[dict[str, tuple[int, int]]]:
    """For each prompt a (start, stop) within it by name."""
    given = list(instance(found, Sequence, who))
    expect(len(given) == len(prompts), who, f"gave parts of {len(given)} of {counted(len(prompts), 'prompt')}")
    for prompt, spans in zip(prompts, given, strict=True):
        for name, span in instance(spans, Mapping, who, f'gave as parts of prompt "{prompt.id}"').items():
            _part(span, prompt, f'the part "{name}"', who)
    return [{str(name): (span[0], span[1]) for name, span in spans.items()} for spans in given]


def _part(span: Any, prompt: Prompt, what: str, who: str) -> None:
    fine = isinstance(span, tuple | list) and len(span) == 2 and all(whole(x) for x in span)
    fine = fine and 0 <= span[0] < span[1] <= len(prompt.tokens)
    expect(
        fine, who, f'gave {span} as {what} of prompt "{prompt.id}", which has {counted(len(prompt.tokens), "token")}'
    )


def frozen(found: Any, who: str) -> Frozen | None:
    return None if found is None else instance(found, Frozen, who)


def lock_statistics(statistics: Any) -> None:
    """Activation statistics are for all interventions of some runs: nobody may write into them."""
    for name in (x.name for x in fields(statistics)):
        table = getattr(statistics, name)
        for array in table.values() if isinstance(table, dict) else ():
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
