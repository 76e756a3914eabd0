"""Latents as units: every engine does what one hooked pass does, in closed form where that is valid; controls are like
the selected ones."""

from __future__ import annotations

from pathlib import Path

import dictionaries as slow
import numpy as np
import pytest
import torch
from engines import same_generations, same_scores, some_prompts
from families import tiny
from harness_plugins.dictionaries.dictionary import load
from harness_plugins.dictionaries.latents import Latent, Latents
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.conditions.conditions import BASELINE, Condition, Selection, SetNeurons
from harness.conditions.neuron_edits import ScaleNeurons
from harness.conditions.positions import Positions
from harness.controls.random import draw_controls
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.errors import HarnessError
from harness.model.model import Model
from harness.testing import check_unit


def site(model: Model, folder: Path, hook: str, layer: int, **options: str) -> Latents:
    kind = "jumprelu_transcoder" if hook == "transcoder" else "topk"
    name = f"blocks.{layer}.{'x' if hook == 'transcoder' else hook}"
    path = slow.random_dictionary(folder / f"{hook}-{layer}", kind, model.anatomy.d_model, hook=name, **options)
    return Latents(load(str(path)), model)


def conditions(where: Latents, seed: int = 0) -> list[Condition]:
    """The baseline, and latents held, scaled, at some tokens, and in two edits."""
    layer, rng = where.dictionary.configuration.layer, np.random.default_rng(seed)
    some = [tuple(map(int, rng.choice(48, 6, replace=False))) for _ in range(4)]
    return [
        BASELINE,
        Condition("zero", (SetNeurons(layer, some[0], (0.0,) * 6, where),)),
        Condition("held", (SetNeurons(layer, some[1], tuple(rng.normal(size=6).tolist()), where),)),
        Condition("scaled, last token", (ScaleNeurons(layer, some[2], -2.0, where),), Positions("last")),
        Condition(
            "two edits",
            (SetNeurons(layer, some[3][:2], (1.0, -1.0), where), ScaleNeurons(layer, some[3][2:], 3.0, where)),
        ),
    ]


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "granite", "opt_350m", "mixtral"])
@pytest.mark.parametrize(
    ("hook", "in_closed_form"),
    [
        ("hook_resid_post", True), ("hook_mlp_out", True), ("transcoder", True), ("hook_attn_out", False),
        ("attn.hook_z", False), ("hook_resid_pre", False),
    ],
)  # fmt: skip
def test_engines_agree_with_one_hooked_pass_for_each_condition(
    tmp_path: Path, family: str, hook: str, in_closed_form: bool
) -> None:
    """In the last layer, in closed form where the decoder writes into the final residual; opt_350m has a norm there."""
    model = tiny(family)
    where = site(model, tmp_path, hook, model.anatomy.n_layers - 1)
    given, prompts = conditions(where), some_prompts(1, n=5)
    fast, hooks = ClosedFormEngine(model, 3), HookEngine(model, 3)
    straight = in_closed_form and not (family == "opt_350m" and hook != "hook_resid_post")
    assert fast.path(given) == ("closed_form" if straight else "batched")
    same_scores(fast.score(prompts, given), hooks.score(prompts, given))
    made = [engine.generate(prompts, given, 3, choices=[[3, 4]] * len(prompts)) for engine in (fast, hooks)]
    same_generations(*made)
    loss = hooks.score(prompts, given).loss
    assert all(np.abs(edited - loss[0]).max() > 1e-3 for edited in loss[[2, 4]])


@pytest.mark.parametrize("hook", ["hook_resid_pre", "hook_resid_post", "hook_attn_out", "transcoder"])
def test_edits_of_earlier_layers_are_made_many_in_a_pass(tmp_path: Path, hook: str) -> None:
    model = tiny("llama_gqa_tied")
    given, prompts = conditions(site(model, tmp_path, hook, 1)), some_prompts(2, n=5)
    fast, hooks = ClosedFormEngine(model, 3), HookEngine(model, 3)
    assert fast.path(given) == "batched"
    same_scores(fast.score(prompts, given), hooks.score(prompts, given))
    same_generations(*(engine.generate(prompts, given, 3) for engine in (fast, hooks)))


def test_normalised_and_half_precision_activations(tmp_path: Path) -> None:
    """Where activations are normalised a step depends on them, and there is no closed form; bfloat16 agrees with its
    own hooked pass to its rounding."""
    model = tiny("gpt2")
    where = site(model, tmp_path / "normalised", "hook_resid_post", 2, normalize_activations="layer_norm")
    assert ClosedFormEngine(model).path(conditions(where)) == "batched"
    half = tiny("gpt2", torch.bfloat16)
    given, prompts = conditions(site(half, tmp_path, "hook_resid_post", 2)), some_prompts(1, n=5)
    fast, hooks = (engine(half, 3).score(prompts, given) for engine in (ClosedFormEngine, HookEngine))
    np.testing.assert_allclose(fast.loss, hooks.loss, atol=0.1)


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_closed_form_equals_hooks_whatever_is_edited(one: tuple[Model, Latents], seed: int) -> None:
    model, where = one
    given, prompts = conditions(where, seed), some_prompts(1, n=3)
    same_scores(ClosedFormEngine(model, 3).score(prompts, given), HookEngine(model, 3).score(prompts, given))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Latents]:
    model = tiny("gpt2")
    return model, site(model, tmp_path_factory.mktemp("one"), "hook_resid_post", 2)


def test_latents_are_units(tmp_path: Path) -> None:
    model = tiny("gpt2")
    for layer in (1, 2):
        check_unit(Latent, where=site(model, tmp_path / "kept", "hook_resid_post", layer), on=model)
    where = site(model, tmp_path, "hook_mlp_out", 1)
    again = Latents(load(str(tmp_path / "hook_mlp_out-1")), model)
    other = site(model, tmp_path, "hook_mlp_out", 2)
    assert where == again and hash(where) == hash(again) and where != other
    assert str(Latent(1, 7, where)) == "S1.7" and Latent.parse(" S1.7 ") == Latent(1, 7, where)
    with pytest.raises(HarnessError, match=r'"1\.7" is not a latent: expected S, layer'):
        Latent.parse("1.7")
    assert where.count(model, 1) == 48 and where.count(model, 2) == 0
    with pytest.raises(HarnessError, match="is of layer 1, and has no latents of layer 2"):
        where.capture(model, [2])


@pytest.mark.parametrize("match", ["none", "density", "norm", "activation"])
def test_controls_are_latents_of_the_pool_and_alike(one: tuple[Model, Latents], match: str) -> None:
    model, where = one
    latents = [Latent(2, i, where) for i in range(48)]
    selection = Selection((latents[3], latents[9]), "some", pool=tuple(latents[20:]))
    prompts = some_prompts(4, n=6)
    drawn = draw_controls(model, selection, None, 20, match, prompts, 4, 0)
    units = {unit for units in drawn.sets for unit in units}
    assert (
        drawn.sets
        and all(unit.where == where for unit in units)
        and {unit.index for unit in units} <= {3, 9, *range(20, 48)}
    )
    if match == "density":
        values = where.matching(model, [2], "density", prompts, 4)[2]
        assert values.shape == (48,) and 0 < values.max() <= 1
    if match != "none":
        assert drawn.details["variable"] == Latent.variables[match]
