"""The unembedding under the name and shape that TransformerLens gives it."""

from __future__ import annotations

import pytest
import torch
from families import tiny


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "opt_350m"])
def test_logits_are_normalised_residuals_times_the_unembedding(family: str) -> None:
    model = tiny(family)
    assert model.W_U.shape == (model.anatomy.d_model, model.anatomy.d_vocab)
    residual = torch.randn(5, model.anatomy.d_model, generator=torch.Generator().manual_seed(0))
    readout = model.readout
    plain = readout.normalised(residual) @ model.W_U.float()
    logits = readout.unembed(readout.normalised(residual))
    if readout.b_U is not None:
        plain = plain + readout.b_U
    plain = plain * readout.scale
    plain = plain if readout.cap is None else torch.tanh(plain / readout.cap) * readout.cap
    torch.testing.assert_close(plain, logits)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_folded_it_has_the_gain_in_its_rows(family: str) -> None:
    model = tiny(family)
    torch.testing.assert_close(model.folded_W_U(centre=False), model.readout.gain[:, None] * model.W_U)
    folded = model.folded_W_U()
    assert folded.shape == model.W_U.shape and folded.mean(1).abs().max() < 1e-6
    folded.zero_()
    assert model.W_U.abs().max() > 0  # a copy
