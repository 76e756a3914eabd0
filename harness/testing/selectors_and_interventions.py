"""Checks of what chooses neurons or heads, and of what edits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from harness.conditions.conditions import BASELINE, Condition, Edit, Frozen, Selection, site_of
from harness.conditions.units import Direction, Site, Unit, check_units
from harness.engine.activation_summaries import activation_statistics, head_statistics
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.errors import HarnessError
from harness.model.model import Model
from harness.plugin import handed_selections as handed_over
from harness.plugin.catalogue import catalogue
from harness.plugin.components import Intervention, SelectionContext, Selector
from harness.plugin.handed_edits import handed_shape
from harness.plugin.standing import check_special
from harness.testing.common import accepted, as_json, check_shown, made, promise, running, same, twice, untouched
from harness.testing.models import prompts_of, tiny_model

TOLERANCE = 1e-4
"""Nats between the engines, in float32."""


def check_selector(
    cls: type[Selector],
    /,
    *,
    on: Model | None = None,
    prompts: Sequence[Sequence[int]] | None = None,
    figures: bool = True,
    **params: Any,
) -> Selection:
    """Check what a selector promises: units that the model has; a rule in words; scores for every
    candidate; the same choice for the same seed; a model that is left as it was; figures that can be drawn.

    Args:
        on: the model; default: ``tiny_model()``.
        prompts: token ids of the task's prompts; default: ``prompts_of(model)``.
        figures: draw its figures.
        params: the selector's parameters.

    Raises:
        AssertionError: names the promise that was broken.
    """
    selector, owner = made(cls, "selector", params), f"selector {getattr(cls, 'name', '')}"
    model = on or tiny_model()
    tokens = prompts_of(model) if prompts is None else prompts
    context = SelectionContext(model, ClosedFormEngine(model), tokens, seed=1)
    running(owner, "check()", lambda: selector.check(model))
    with untouched(model, tokens, owner, "select()"):
        first, second = twice(owner, "select()", lambda: selector.select(context))
    _check_selection(first, model, owner)
    equal = first.units == second.units and first.rule == second.rule and first.candidates == second.candidates
    equal = equal and all(same(scores, second.scores.get(name)) for name, scores in first.scores.items())
    promise(equal, owner, "two calls with one seed choose differently: draw with np.random.default_rng(context.seed)")
    if not running(owner, "reads_prompts()", selector.reads_prompts):
        alone = running(owner, "select()", lambda: selector.select(replace(context, prompts=())))
        promise(alone.units == first.units, owner, "it looks at prompts, although reads_prompts() returns False")
    chosen = first.units[0]
    experts = cls.site == "neurons" and chosen.where.enters == "experts"  # the neurons of such an MLP
    fits = cls.site in (None, chosen.site) or experts
    promise(fits, owner, f"site is {cls.site}, but it chose {chosen.site}")
    if figures:
        check_shown(running(owner, "figures()", lambda: selector.figures(first)), owner)
    return first


def _check_selection(selection: Selection, model: Model, owner: str) -> None:
    """What was selected fits the model and can be recorded."""
    anatomy = model.anatomy
    promise(isinstance(selection, Selection), owner, "select() returned no harness.conditions.conditions.Selection")
    lists = (selection.units, selection.candidates, selection.pool or ())
    fine = all(isinstance(units, tuple) and all(isinstance(x, Unit) for x in units) for units in lists)
    promise(
        fine,
        owner,
        "units, candidates and pool are tuples of units (Neuron, Head, Direction ...)",
    )
    for unit in (*selection.units, *lists[2]):
        vector = selection.vectors.get(unit, np.zeros(0))
        fine = not isinstance(unit, Direction) or (vector.shape == (anatomy.d_model,) and np.isfinite(vector).all())
        promise(bool(fine), owner, f"vectors has no finite vector [d_model] of {unit}")
    negative = [unit for units in lists for unit in units if min(unit.layer, unit.index) < 0]
    promise(not negative, owner, f"layers and neurons count from 0, got {negative[0] if negative else None}")
    for units in (selection.units, *filter(None, lists[1:])):
        running(
            owner,
            "the selection",
            lambda units=units: check_units(units, model, "it"),  # type: ignore[misc]
        )
    promise(bool(selection.rule.strip()), owner, "rule is empty: say in one sentence how the choice was made")
    strangers = set(selection.units) - set(selection.candidates)
    promise(not selection.candidates or not strangers, owner, "it chose what is not among its candidates")
    try:
        check_special(selection, "select()")
    except HarnessError as error:
        promise(False, owner, str(error))
    for name, scores in selection.scores.items():
        shape, n = np.shape(scores), len(selection.candidates)
        promise(
            shape == (n,), owner, f'the score "{name}" has shape {shape}, expected one number for each candidate ({n})'
        )
        chosen = [x in set(selection.units) for x in selection.candidates]
        finite = np.isfinite(np.asarray(scores, dtype=float)[chosen]).all()
        promise(bool(finite), owner, f'the score "{name}" of a chosen neuron is not finite')
    as_json(selection.details, owner, "details")
    accepted(handed_over.selection, selection, model, f"{owner}: select()")


def check_intervention(
    cls: type[Intervention],
    /,
    *,
    on: Model | None = None,
    selection: Selection | None = None,
    figures: bool = True,
    **params: Any,
) -> tuple[Edit, ...]:
    """Check what an intervention promises: it edits exactly the units that it is given; its edits are pure
    functions, of the right shape, position by position; the fast engines agree with one hooked pass for each condition.

    Args:
        on: the model; default: ``tiny_model()``.
        selection: what is edited; default: three neurons of the last layer and two of the first, or so many heads or
            directions.
        figures: draw its figures.
        params: the intervention's parameters.

    Returns:
        the edits.

    Raises:
        AssertionError: names the promise that was broken.
    """
    intervention, owner = made(cls, "intervention", params), f"intervention {getattr(cls, 'name', '')}"
    kinds = {kind.site: kind for kind in catalogue().units.values()}
    promise(cls.site in kinds, owner, f'site is one of {", ".join(kinds)}, not "{cls.site}"')
    model = on or tiny_model()
    prompts, last = prompts_of(model), model.anatomy.n_layers - 1
    frozen = running(owner, "freeze()", lambda: intervention.freeze(model))
    chosen = selection or _some_units(kinds[cls.site], model, early=not frozen)
    ready = running(owner, "prepare()", lambda: intervention.prepare(chosen))
    promise(isinstance(ready, Intervention), owner, "prepare() returned no intervention")
    statistics = _statistics(ready, model, prompts, chosen)
    first, second = twice(owner, "edits()", lambda: ready.edits(chosen.units, statistics))
    promise(isinstance(first, tuple), owner, "edits() returned no tuple of edits")
    edited = sorted((edit.layer, index) for edit in first for index in edit.indices)
    wanted = sorted((x.layer, x.index) for x in chosen.units)
    promise(edited == wanted, owner, f"edits() treats {edited}, expected exactly {wanted} (layer, index)")
    for edit, again in zip(first, second, strict=True):
        site = running(owner, "edits()", lambda edit=edit: site_of(edit))  # type: ignore[misc]
        told = f"an edit of layer {edit.layer} is for {site.name}, but the units are {chosen.units[0].site}"
        promise(site == chosen.units[0].where, owner, told)
        _check_edit(edit, again, model, owner)
    _check_engines(model, prompts, [first, tuple(e for e in first if e.layer == last)], frozen, owner)
    if figures:
        check_shown(running(owner, "figures()", lambda: ready.figures(chosen, statistics)), owner)
    return first


def _some_units(kind: type[Unit], model: Model, early: bool) -> Selection:
    """Some units of the last layer and, if wanted, of the first."""
    site: Site = kind.where  # type: ignore[assignment]  # of kinds that have a site by themselves
    last = model.anatomy.n_layers - 1
    units = [site.at(model, last, i) for i in _some_of(site.count(model, last), (0, 3, 4))]
    units += [site.at(model, 0, i) for i in _some_of(site.count(model, 0), (1, 2))] if early else []
    rng = np.random.default_rng(0)
    vectors: dict[Unit, Any] = {x: rng.normal(size=model.anatomy.d_model) for x in units if isinstance(x, Direction)}
    return Selection(tuple(units), "some for a test", vectors=vectors)


def _some_of(n: int | None, wanted: Sequence[int]) -> list[int]:
    """Those of the numbers that are below n; there is no end of units where it is None."""
    return [i for i in wanted if n is None or i < n]


def _statistics(intervention: Intervention, model: Model, prompts: Sequence[Sequence[int]], chosen: Selection) -> Any:
    """Activation statistics as a run measures them."""
    layers, unit = sorted({unit.layer for unit in chosen.units}), chosen.units[0]
    if not intervention.needs_statistics:
        return None
    if not unit.one_number:
        return head_statistics(model, prompts, layers, batch_size=8, site=unit.where)
    return activation_statistics(model, prompts, layers, batch_size=8, seed=0, site=unit.where)


def _check_edit(edit: Edit, again: Edit, model: Model, owner: str) -> None:
    """``apply`` is a pure function of the right shape that treats every position by itself."""
    where = f"the edit of layer {edit.layer}"
    generator = torch.Generator().manual_seed(0)
    shape = (2, 5, *handed_shape(edit, model))
    given = torch.randn(shape, generator=generator)
    kept = given.clone()

    def apply(x: torch.Tensor, by: Edit = edit) -> torch.Tensor:
        options = {"first": given[:, :1]} if getattr(by, "reads_first", False) else {}
        return running(owner, f"{where}: apply()", lambda: by.apply(x, **options))

    found = apply(given)
    promise(torch.equal(given, kept), owner, f"{where} writes into its argument; return a new tensor")
    fits = isinstance(found, torch.Tensor) and found.shape == given.shape and found.dtype == given.dtype
    told = f"{tuple(found.shape)} {found.dtype}" if isinstance(found, torch.Tensor) else str(type(found))
    promise(fits, owner, f"{where} returned {told} for {shape} {given.dtype}: shape and type stay as they are")
    promise(bool(torch.isfinite(found).all()), owner, f"{where} returned NaN or infinity for ordinary activations")
    promise(torch.equal(found, apply(given)), owner, f"{where} gives something else when it is applied again")
    promise(torch.equal(found, apply(given, again)), owner, f"{where} depends on global random numbers; give it a seed")
    alone = torch.cat([apply(given[:, i : i + 1]) for i in range(shape[1])], dim=1)
    promise(
        torch.allclose(found, alone),
        owner,
        f"{where} mixes positions; each position's activations are edited alone",
    )


def _check_engines(
    model: Model,
    prompts: Sequence[Sequence[int]],
    sets: Sequence[tuple[Edit, ...]],
    frozen: Frozen | None,
    owner: str,
) -> None:
    """The closed form, or batched hooks, give what hooks give; a set of last-layer edits is run in closed form."""
    for edits in sets:
        conditions = [BASELINE, Condition("treated", edits, frozen=frozen)]
        engine = ClosedFormEngine(model)
        fast = running(owner, "a run of its edits", lambda: engine.score(prompts, conditions))  # noqa: B023
        slow = running(owner, "a run of its edits", lambda: HookEngine(model).score(prompts, conditions))  # noqa: B023
        finite = np.isfinite(slow.loss).all() and np.isfinite(slow.entropy).all()
        promise(bool(finite), owner, "the edited model's predictions are not finite")
        apart = max(float(np.abs(getattr(fast, x) - getattr(slow, x)).max()) for x in ("loss", "entropy"))
        promise(
            apart < TOLERANCE,
            owner,
            f"{engine.path(conditions)} and hooks differ by {apart:.2g} nats; an edit must be a function of each "
            "activation alone",
        )
