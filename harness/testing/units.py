"""Checks of a kind of units: how one is named, and the site where it lives."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.conditions.units import Site, Unit
from harness.engine.batched import BatchedEngine
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.model.model import Batch, Model
from harness.plugin.unit_kinds import check_kind
from harness.testing.common import promise, running
from harness.testing.models import prompts_of, tiny_model

TOLERANCE = 1e-4
"""Nats between the engines, in float32, and the relative error of what a unit is said to write."""


def check_unit(kind: type[Unit], /, *, where: Site | None = None, on: Model | None = None) -> Site:
    """Check what a kind of units promises: its names can be read back and are no other kind's; activations have the
    shape that is said; an edit that changes nothing leaves the pass as it is, bit by bit; an edit of one unit is seen
    there and changes no other unit of the layer; what is ``written`` is what the model's output follows; the fast
    engines agree with one hooked pass a condition.

    Args:
        where: the site, of kinds that have none by themselves (latents of a dictionary).
        on: the model; default: ``tiny_model()``.

    Raises:
        AssertionError: names the promise that was broken.
    """
    owner, model = f"unit {getattr(kind, 'word', kind.__name__)}", on or tiny_model()
    running(owner, "its class", lambda: check_kind(kind, {}))
    site: Site = where or kind.where  # type: ignore[assignment]  # check_kind() saw to it
    tokens = prompts_of(model)
    batch, last = model.pad([list(row) for row in tokens]), model.anatomy.n_layers - 1
    layers = [layer for layer in range(last + 1) if site.count(model, layer) != 0]
    promise(bool(layers), owner, "count() says that no layer has any")
    for layer in sorted({layers[0], layers[-1]}):
        n = site.count(model, layer)
        promise(n is None or n > 0, owner, f"count() says that layer {layer} has {n}")
        unit = running(owner, "at()", lambda layer=layer: site.at(model, layer, 0))  # type: ignore[misc]
        fits = isinstance(unit, kind) and (unit.layer, unit.index) == (layer, 0) and unit.where == site
        promise(fits, owner, f"at(model, {layer}, 0) gave {unit!r}, whose layer, index or where is another")
        promise(kind.parse(str(unit)) == unit, owner, f"its name {unit} is read as another")
        promise(unit.beside(layer, 1) == site.at(model, layer, 1), owner, "beside() and at() give different units")
        if n is not None:
            _check_passes(site, model, layer, n, batch, owner)
    if kind.one_number:
        _check_engines(site, model, layers[-1], tokens, owner)
    if site.enters is not None and layers[-1] == last:
        _check_written(site, model, last, batch, owner)
    return site


def _check_passes(site: Site, model: Model, layer: int, n: int, batch: Batch, owner: str) -> None:
    shape = (*batch.input_ids.shape, n, *site.shape(model))
    with torch.no_grad():
        plain = model.forward(batch, logits_to_keep=0).logits
        with site.capture(model, [layer]) as seen:
            model.forward(batch)
        before = seen[layer].clone()
        promise(tuple(before.shape) == shape, owner, f"activations have shape {tuple(before.shape)}, expected {shape}")
        with site.edit(model, layer, lambda x: x.clone()):
            same = model.forward(batch, logits_to_keep=0).logits
        promise(torch.equal(plain, same), owner, f"an edit of layer {layer} that changes nothing changes the logits")
        with site.edit(model, layer, _pushed), site.capture(model, [layer]) as seen:
            model.forward(batch)
    real = batch.attention_mask.bool()
    if not site.reads_back:
        return
    after, wanted = seen[layer][real], _pushed(before)[real]
    scale = max(float(wanted.abs().max()), 1.0)
    off = float((after - wanted).abs().max()) / scale
    promise(off < TOLERANCE, owner, f"an edit of unit 0 of layer {layer} is not what is captured inside it ({off:.1g})")


def _pushed(activations: torch.Tensor) -> torch.Tensor:
    """Unit 0 with 1 more; the others as they are."""
    found = activations.clone()
    found[:, :, 0] += 1.0
    return found


def _check_engines(site: Site, model: Model, layer: int, tokens: Sequence[Sequence[int]], owner: str) -> None:
    conditions = [BASELINE, Condition("held", (SetNeurons(layer, (0, 1), (0.5, -0.25), site),))]
    oracle = HookEngine(model).score(tokens, conditions)
    for engine in (BatchedEngine(model), ClosedFormEngine(model)):
        found = running(owner, f"engine {engine.name}", lambda engine=engine: engine.score(tokens, conditions))  # type: ignore[misc]
        off = float(abs(found.loss - oracle.loss).max())
        promise(off < TOLERANCE, owner, f"engine {engine.name} and one hooked pass differ by {off:.1g} nats")


@torch.no_grad()
def _check_written(site: Site, model: Model, layer: int, batch: Batch, owner: str) -> None:
    """In the last layer the final residual follows the activation as ``written`` says, where nothing is in between."""
    written = running(owner, "written()", lambda: site.written(model, layer, [0]))
    width = model.anatomy.d_model
    promise(tuple(written.shape) == (1, width), owner, f"written() gave {tuple(written.shape)}, expected {(1, width)}")
    anatomy = model.anatomy
    if site.enters != "residual" and (anatomy.post_mlp_norms[layer] is not None or anatomy.residual_multiplier != 1.0):
        return
    with model.capture_residual() as before:
        model.forward(batch)
    with site.edit(model, layer, _pushed), model.capture_residual() as after:
        model.forward(batch)
    change = (after.residual - before.residual)[batch.attention_mask.bool()]
    off = float((change - written[0].to(change)).abs().max()) / max(float(written.abs().max()), 1e-12)
    promise(off < 1e-2, owner, f"the residual stream does not follow what written() says (off by {off:.1g} of it)")
