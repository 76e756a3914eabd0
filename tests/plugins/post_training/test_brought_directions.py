"""Directions of files: every format gives the vectors that were written, whatever does not fit is one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny
from harness_plugins.post_training.analysis.direction_files import read_directions
from harness_plugins.post_training.brought_directions import Directions
from harness_plugins.post_training.interventions import AblateDirection, AddDirection
from safetensors.torch import save_file

from harness.conditions.conditions import BASELINE, Condition
from harness.conditions.positions import Positions
from harness.conditions.units import Direction
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.errors import HarnessError
from harness.plugin import Selection, SelectionContext
from harness.testing import check_intervention, check_selector

N_LAYERS, D = 3, 32
STACK = torch.tensor(np.random.default_rng(0).normal(size=(N_LAYERS, D)), dtype=torch.float32)


def gguf(path: Path, tensors: dict[str, torch.Tensor], kind: str = "controlvector") -> None:
    """A control vector as llama.cpp and repeng write it."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, kind)
    writer.add_string("controlvector.model_hint", "llama")
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


WRITERS: dict[str, tuple[str, Callable[[Path], Any], dict[int, int] | None]] = {
    "one direction": ("safetensors", lambda path: save_file({"direction": STACK[1].clone()}, path), None),
    "a stack": ("safetensors", lambda path: save_file({"directions": STACK}, path), {0: 0, 1: 1, 2: 2}),
    "by name": (
        "safetensors",
        lambda path: save_file({"model.layers.2": STACK[2].clone(), "model.layers.0": STACK[0].clone()}, path),
        {0: 0, 2: 2},
    ),
    "a control vector": (
        "gguf",
        lambda path: gguf(path, {"direction.1": STACK[1], "direction.2": STACK[2]}),
        {1: 1, 2: 2},
    ),
    "a vector of CAA": ("pt", lambda path: torch.save(STACK[1], path), None),
    "a dictionary": ("pt", lambda path: torch.save({2: STACK[2], 1: STACK[1].half()}, path), {1: 1, 2: 2}),
    "a stack of torch": ("pth", lambda path: torch.save(STACK.double(), path), {0: 0, 1: 1, 2: 2}),
}


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_every_format_gives_what_was_written(tmp_path: Path, name: str) -> None:
    ending, write, rows = WRITERS[name]
    path = tmp_path / f"refusal_dir_1.{ending}"
    write(path)
    found = read_directions(path, N_LAYERS, D)
    if rows is None:
        assert found.single is not None and not found.by_layer
        np.testing.assert_array_equal(found.single, STACK[1].double())
    else:
        assert found.single is None and list(found.by_layer) == sorted(rows)
        for layer, row in rows.items():
            np.testing.assert_allclose(found.by_layer[layer], STACK[row].double(), atol=2e-3)


class Marker:
    """What a pickle may make of itself when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("was-run"),))


@pytest.mark.parametrize(
    ("ending", "write", "says"),
    [
        (
            "pt",
            lambda p: torch.save({1: STACK[1], 2: Marker()}, p),
            "holds more than tensors, and reading it could run",
        ),
        ("pt", lambda p: torch.save({"1": "text", "2": STACK[1]}, p), 'pt: "1": expected a tensor, got str'),
        ("pt", lambda p: torch.save({"a": STACK[1], "b": STACK[1]}, p), '"a" does not end with the number of a layer'),
        ("pt", lambda p: torch.save({1: STACK[1], "1": STACK[1]}, p), '"1": layer 1 stands there twice'),
        (
            "pt",
            lambda p: torch.save({3: STACK[1], 1: STACK[1]}, p),
            r"layer 3 does not exist: the model has 3 \(from 0",
        ),
        ("pt", lambda p: torch.save(STACK[:, :8], p), r"has shape \[8\], but the residual stream has 32 numbers"),
        (
            "pt",
            lambda p: torch.save(STACK[:2], p),
            r"tensor of shape \[2, 32\]; expected one direction \[32\], or one a",
        ),
        ("pt", lambda p: torch.save(STACK[0] * torch.inf, p), "is not finite, which is no direction"),
        ("pt", lambda p: torch.save(STACK[0] * 0, p), "is zero, which is no direction"),
        ("pt", lambda p: p.write_bytes(b"nothing"), "pt: "),
        ("safetensors", lambda p: p.write_bytes(b"nothing"), "is no whole safetensors file"),
        ("gguf", lambda p: p.write_bytes(b"nothing at all, really"), "is no whole GGUF file"),
        ("gguf", lambda p: gguf(p, {"direction.1": STACK[1]}, "llama"), "is no control vector"),
        ("npy", lambda p: p.write_bytes(b""), "expected a file of directions: .safetensors, .gguf, .pt, .pth"),
        ("pt", lambda p: None, "cannot be read"),
    ],
)
def test_what_is_no_file_of_directions_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, write: Callable[[Path], Any], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"d.{ending}"
    write(path)
    with pytest.raises(HarnessError, match=says):
        read_directions(path, N_LAYERS, D)
    assert not Path("was-run").exists()


def chosen(path: Path, **params: Any) -> Selection:
    model = tiny("gpt2")
    selector = Directions(path=str(path), **params)
    selector.check(model)
    return selector.select(SelectionContext(model, ClosedFormEngine(model), (), 3))


def test_the_selector_keeps_its_promises(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_file({"directions": STACK}, path)
    found = check_selector(Directions, on=tiny("gpt2"), path=str(path), layers="0-1")
    assert found.units == (Direction(0, 0), Direction(1, 0)) and len(found.candidates) == 3
    assert found.rule == "2 directions of the file d.safetensors (safetensors), after layers 0, 1"
    assert found.pool is not None and {unit.layer for unit in found.pool} == {0, 1}
    sizes = {layer: np.linalg.norm(found.vectors[Direction(layer, 0)]) for layer in (0, 1)}
    for unit in found.pool:
        assert np.linalg.norm(found.vectors[unit]) == pytest.approx(sizes[unit.layer])
    assert Directions(path=str(path)).inputs().keys() == {"path"}


def test_one_direction_goes_where_it_is_put(tmp_path: Path) -> None:
    path = tmp_path / "d.pt"
    torch.save(STACK[1], path)
    with pytest.raises(HarnessError, match=r"d\.pt holds one direction and not the layer that it is of: give layers=N"):
        chosen(path)
    found = chosen(path, layers=[0, "1-2"], normalise=True, control="orthogonal")
    assert found.units == tuple(Direction(layer, 0) for layer in range(3))
    own = found.vectors[Direction(1, 0)]
    np.testing.assert_allclose(own, STACK[1].double() / STACK[1].double().norm())
    assert found.pool is not None and max(abs(found.vectors[unit] @ own) for unit in found.pool) < 1e-12
    assert chosen(path, layers=-1).units == (Direction(2, 0),)


def test_a_layer_that_the_file_has_not_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_file({"direction.1": STACK[1].clone(), "direction.2": STACK[2].clone()}, path)
    with pytest.raises(HarnessError, match=r"d\.safetensors has no direction of layer 0; it has those of 1, 2\."):
        chosen(path, layers="0-1")


# -- at several layers, at some tokens -------------------------------------------------------------------------------


def selection(layer: int = 1) -> Selection:
    unit = Direction(layer, 0)
    return Selection((unit,), "one", candidates=(unit,), vectors={unit: STACK[1].double().numpy()})


@pytest.mark.parametrize("cls", [AddDirection, AblateDirection])
@pytest.mark.parametrize("layers", ["own", "0-2", [0, 2], "2"])
def test_ranges_keep_the_interventions_promises(cls: type[AddDirection], layers: Any) -> None:
    edits = check_intervention(cls, on=tiny("gpt2"), selection=selection(), layers=layers, figures=False)
    named = {"own": [1], "0-2": [0, 1, 2], "2": [2]}.get(str(layers), [0, 2])
    assert [edit.layer for edit in edits] == sorted({1, *named})
    x = torch.randn(1, 2, D)
    for edit in edits:
        assert torch.equal(edit.apply(x), x) == (edit.layer not in named)


def test_a_direction_is_added_after_each_layer_at_the_last_two_tokens() -> None:
    """As a hook does it that is written here."""
    model, v = tiny("llama"), STACK[1].float()
    ready = AddDirection(layers="0-1", factor=-2.0, positions="-2:").prepare(selection())
    condition = Condition("c", ready.edits(selection().units, None), Positions(ready.positions))
    prompts = [[5, 6, 7, 8, 9], [11, 12, 13]]

    def add(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[:, -2:] -= 2 * v
        return x

    for engine in (ClosedFormEngine(model), HookEngine(model)):
        made = engine.generate(prompts, [BASELINE, condition], 1, choices=[[3]] * 2)
        for i, prompt in enumerate(prompts):
            with torch.no_grad(), model.edit_residual(0, add), model.edit_residual(1, add):
                logits = model.hf(torch.tensor([prompt])).logits[0, -1].double()
            assert made.choices[1, i, 0] == pytest.approx(float(logits.log_softmax(-1)[3]), abs=1e-4)


def test_layers_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="layers count from the front here"):
        AddDirection(layers=-1)
    with pytest.raises(
        HarnessError, match=r"intervention ablate_direction: layers: layer 9 does not exist; the model has"
    ):
        AblateDirection(layers="1-9").check(tiny("gpt2"))


def test_runs_of_before_are_the_same_runs() -> None:
    assert AddDirection().identity()["params"] == {"factor": 1.0}
    assert AblateDirection().identity()["params"] == {"layers": "own"}
    assert AddDirection(layers=[8, "9-12"]).identity()["params"] == {"layers": [8, "9-12"], "factor": 1.0}
