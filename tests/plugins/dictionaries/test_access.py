"""Latents in a model's passes: an unedited pass is exact, an edit adds the decoder's rows and nothing else, wherever
the dictionary stands."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import dictionaries as slow
import pytest
import torch
from engines import some_prompts
from families import tiny
from harness_plugins.dictionaries.access import captured, edited
from harness_plugins.dictionaries.dictionary import Dictionary, load
from harness_plugins.dictionaries.quality import quality
from torch.nn import functional as F

from harness.errors import HarnessError
from harness.model.model import Model

HOOKS = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "attn.hook_z", "hook_mlp_out")
PLACES = ("residual_before", "residual_after", "attention_out", "heads", "mlp_out")
TRANSCODERS = ("transcoder", "jumprelu_skip_transcoder")


def made(folder: Path, kind: str, d: int = 32, layer: int = 1) -> Dictionary:
    """A random dictionary at a hook point, or a random transcoder."""
    if kind in TRANSCODERS:
        return load(str(slow.random_dictionary(folder, kind, d, hook=f"blocks.{layer}.x")))
    return load(str(slow.random_dictionary(folder, "jumprelu", d, hook=f"blocks.{layer}.{kind}")))


@torch.no_grad()
def run(
    model: Model, dictionary: Dictionary, *changes: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """What is written in one pass under changes, the latents after each of them, the logits."""
    cfg, seen = dictionary.configuration, []
    with contextlib.ExitStack() as stack:
        seen.append(stack.enter_context(captured(model, dictionary)))
        for change in changes:
            stack.enter_context(edited(model, dictionary, change))
            seen.append(stack.enter_context(captured(model, dictionary)))
        written = stack.enter_context(model.capture_place(cfg.writes, cfg.layer))
        logits = model.forward(model.pad(some_prompts(0, n=3)), logits_to_keep=0).logits
    return written[cfg.layer], *(z[cfg.layer] for z in seen), logits


@pytest.mark.parametrize("kind", [*HOOKS, *TRANSCODERS])
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_an_edit_adds_decoder_rows_and_nothing_else(tmp_path: Path, kind: str, family: str) -> None:
    model, dictionary = tiny(family), made(tmp_path, kind)
    plain = model.forward(model.pad(some_prompts(0, n=3)), logits_to_keep=0).logits
    before, z, same, logits = run(model, dictionary, lambda z: z.clone())
    assert torch.equal(logits, plain) and torch.equal(z, same) and (z != 0).any()

    def ablate(z: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(z[..., :30]), z[..., 30:]], -1)

    after, first, ablated, doubled, logits = run(model, dictionary, ablate, lambda z: 2 * z)
    assert torch.equal(first, z) and torch.equal(ablated, ablate(z)) and torch.equal(doubled, 2 * ablate(z))
    torch.testing.assert_close(after, before + (doubled - z) @ dictionary.W_dec, atol=1e-5, rtol=1e-4)
    assert (logits - plain).abs().max() > 1e-4


def test_in_half_precision_an_unedited_pass_is_exact(tmp_path: Path) -> None:
    model, dictionary = tiny("llama", torch.bfloat16), made(tmp_path, "hook_resid_post")
    plain = model.forward(model.pad(some_prompts(0, n=3)), logits_to_keep=0).logits
    *_, logits = run(model, dictionary, lambda z: z.clone())
    assert torch.equal(logits, plain)


def test_what_cannot_be_done_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    model, dictionary = tiny("gpt2"), made(tmp_path, "hook_mlp_out")
    with pytest.raises(HarnessError, match=r"returned shape \(3, 8, 5\) for latents of shape \(3, 8, 48\)"):
        run(model, dictionary, lambda z: z[..., :5])
    with pytest.raises(HarnessError, match="no forward pass ran through"), captured(model, dictionary):
        pass
    *_, logits = run(model, dictionary)
    assert torch.equal(logits, model.forward(model.pad(some_prompts(0, n=3)), logits_to_keep=0).logits)


@pytest.mark.parametrize("kind", ["hook_resid_post", "transcoder"])
def test_quality_by_definition(tmp_path: Path, kind: str) -> None:
    """One sequence at a time, with the sums written down."""
    model, dictionary = tiny("gpt2"), made(tmp_path, kind)
    cfg, prompts = dictionary.configuration, some_prompts(3, n=5, longest=12)
    found = quality(model, dictionary, prompts, 2)
    y, y_hat, active, losses = [], [], [], []
    for tokens in [p for p in prompts if len(p) > 2]:
        batch = model.pad([tokens])
        with torch.no_grad(), model.capture_place(cfg.reads, 1) as read, model.capture_place(cfg.writes, 1) as written:
            plain = model.forward(batch, logits_to_keep=0).logits
        z = dictionary.encode(read[1])
        new = dictionary.decode(z, read[1])
        y.append(written[1][0, 1:])
        y_hat.append(new[0, 1:])
        active.append(z[0, 1:] != 0)
        logits = [plain]
        for instead in (new, torch.zeros_like(new)):
            instead = torch.cat([written[1][:, :1], instead[:, 1:]], 1)
            with torch.no_grad(), model.edit_place(cfg.writes, 1, lambda x, y=instead: y):
                logits.append(model.forward(batch, logits_to_keep=0).logits)
        targets = batch.input_ids[0, 2:]
        losses.append(torch.stack([F.cross_entropy(x[0, 1:-1], targets, reduction="none") for x in logits]))
    y, y_hat, active = torch.cat(y), torch.cat(y_hat), torch.cat(active).float()
    fvu = ((y - y_hat) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()
    mean = torch.cat(losses, 1).mean(1)
    recovered = (mean[2] - mean[1]) / (mean[2] - mean[0])
    wanted = [active.sum(1).mean(), fvu, *mean, recovered, active.mean(0).eq(0).sum(), len(y)]
    got = [
        found.l0,
        found.fvu,
        found.loss,
        found.loss_spliced,
        found.loss_zeroed,
        found.recovered,
        found.dead,
        found.tokens,
    ]
    torch.testing.assert_close(torch.tensor(got), torch.tensor([float(x) for x in wanted]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.from_numpy(found.density).float(), active.mean(0))
