"""Two models side by side: numbers against a plain SVD, a null space that was planted, the command."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from families import tiny
from harness_plugins.confidence_regulation.analysis.spectra import Spectrum, table
from harness_plugins.confidence_regulation.command import spectra
from harness_plugins.confidence_regulation.figures import two_spectra
from typer.testing import CliRunner

from harness.errors import HarnessError
from harness.model.model import Model
from harness.model.wrapping import wrap
from harness.report.figure_files import render


def changed(model: Model, factor: float) -> Model:
    """The same model with the last right-singular direction of its unembedding made smaller by a factor."""
    hf = copy.deepcopy(model.hf)
    W_U, gain = hf.get_output_embeddings().weight, model.readout.gain
    with torch.no_grad():
        folded = (W_U - W_U.mean(0)) * gain
        v = torch.linalg.svd(folded, full_matrices=False)[2][-1]
        W_U -= (1 - factor) * (folded @ v)[:, None] * v / gain
    return wrap(hf, model.tokenizer, "planted")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_they_are_those_of_a_plain_decomposition(family: str) -> None:
    """A LayerNorm's constant direction is no part of them."""
    model = tiny(family)
    found, centred = Spectrum.of(model), family == "gpt2"
    W = model.readout.W_U.double().numpy() * model.readout.gain.double().numpy()
    W = W - W.mean(0)
    w_out = model.w_out(model.anatomy.n_layers - 1).double().numpy()
    if centred:
        W, w_out = W - W.mean(1, keepdims=True), w_out - w_out.mean(1, keepdims=True)
    _, values, directions = np.linalg.svd(W, full_matrices=False)
    assert len(found.singular_values) == W.shape[1] - centred and found.d_model == W.shape[1]
    np.testing.assert_allclose(found.singular_values, values[: len(found.singular_values)], rtol=1e-5)
    rho = np.linalg.norm(w_out @ directions[-found.few :].T, axis=1) / np.linalg.norm(w_out, axis=1)
    np.testing.assert_allclose(found.rho, rho, atol=1e-5)
    summary = found.summary()
    assert summary["last 10% of singular values / median"] == pytest.approx(
        np.mean(found.singular_values[-max(1, round(0.1 * len(values[: found.d_model - centred]))) :])
        / np.median(found.singular_values)
    )
    assert summary["its neuron"] == f"{model.anatomy.n_layers - 1}.{rho.argmax()}"


def test_a_planted_null_direction_is_seen() -> None:
    model = tiny("llama")
    before, after = Spectrum.of(model), Spectrum.of(changed(model, 1e-4))
    assert after.relative[-1] < 1e-3 * before.relative[-1]
    assert after.null_dims == 1 and "drops by a factor" in after.why
    np.testing.assert_allclose(after.own_rho, after.rho)  # 1% of so few directions is one, too
    np.testing.assert_allclose(after.singular_values[:-1], before.singular_values[:-1], rtol=1e-4)


def test_two_models_of_other_shapes_are_drawn_and_tabled() -> None:
    pair = [Spectrum.of(tiny("llama")), Spectrum.of(tiny("gpt2"))]
    figure, frame = two_spectra(pair), table(pair)
    assert all(render(figure)) and {*figure.data["curve"]} == {"singular values", "rho", "norm"}
    assert len({len(column) for column in frame.columns.values()}) == 1 and len(frame.columns) == 3
    first = np.array(figure.data["y"])[np.array(figure.data["curve"]) == "rho"]
    assert first[0] == 1  # all have the least


def test_a_model_without_output_weights_is_refused() -> None:
    hf = copy.deepcopy(tiny("llama").hf)
    torch.nn.init.zeros_(hf.model.layers[-1].mlp.down_proj.weight)
    with pytest.raises(HarnessError, match="dead has an unembedding or a last layer that is 0 everywhere"):
        Spectrum.of(wrap(hf, tiny("llama").tokenizer, "dead"))


def test_the_command(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(spectra)
    asked = ["demo", "demo-tuned", "--json", "--quiet", "--out", str(tmp_path)]
    found = json.loads(CliRunner().invoke(app, asked, catch_exceptions=False).stdout)
    assert [x["name"] for x in found["models"]] == ["demo", "demo-tuned"] and "cannot say" in found["note"]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {f"spectra.{x}" for x in ("png", "svg", "csv")}
    assert (tmp_path / "tables" / "spectra.csv").is_file()
    shown = CliRunner().invoke(app, ["demo", "demo", "--quiet"], catch_exceptions=False).stdout
    assert "largest rho" in shown and "null space of demo" in shown
