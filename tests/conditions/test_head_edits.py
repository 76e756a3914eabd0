"""Heads: what is captured, what edits of their outputs do, and that BOS ablation is what it says, on every family."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from families import FAMILIES, SHAPES, tiny, tiny_hf, tokenizer

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.conditions.head_edits import AttendFirst, SetHeads
from harness.conditions.units import Head
from harness.engine.final_layer import fits
from harness.engine.hooks import HookEngine, under
from harness.errors import HarnessError
from harness.model.key_values import cache_argument, cache_of
from harness.model.matrices import write_matrix
from harness.model.model import Model
from harness.model.modules import down_bias
from harness.model.wrapping import wrap

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16]]
"""Of different lengths: rows begin at different columns."""

EVERY_FAMILY = pytest.mark.parametrize("family", sorted(FAMILIES))
EVERY_SHAPE = pytest.mark.parametrize("family", SHAPES)


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-5) -> bool:
    """Equal up to ``tolerance`` of the largest magnitude wanted."""
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= tolerance * wanted.abs().max())


def constants(model: Model, heads: tuple[int, ...], seed: int = 0) -> tuple[tuple[float, ...], ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(map(tuple, torch.randn(len(heads), model.anatomy.d_head, generator=generator).tolist()))


def real_logits(model: Model, prompts: list[list[int]] = PROMPTS) -> torch.Tensor:
    """Logits [tokens, d_vocab] at the real positions of a padded batch."""
    batch = model.pad(prompts)
    logits: torch.Tensor = model.forward(batch, logits_to_keep=0).logits[batch.attention_mask.bool()]
    return logits


# --- names ---------------------------------------------------------------------------------------------------------


def test_heads_are_written_as_in_the_literature() -> None:
    assert Head.parse(" L5H1 ") == Head(5, 1)
    assert str(Head(11, 10)) == "L11H10"
    assert sorted([Head(1, 0), Head(0, 3)]) == [Head(0, 3), Head(1, 0)]
    for wrong in ("5.1", "L5", "l5h1", "L-1H0", ""):
        with pytest.raises(HarnessError, match="is not a head"):
            Head.parse(wrong)


# --- capture and edit ----------------------------------------------------------------------------------------------


@EVERY_FAMILY
def test_heads_times_the_output_projection_is_what_the_attention_writes(family: str) -> None:
    model = tiny(family)
    anatomy, batch = model.anatomy, model.pad(PROMPTS)
    for layer, projection in enumerate(anatomy.attention_outputs):
        outputs: list[torch.Tensor] = []
        hook = projection.register_forward_hook(lambda module, args, out, outputs=outputs: outputs.append(out.clone()))
        with model.capture_heads(layer) as heads:
            model.forward(batch)
        hook.remove()
        assert heads[layer].shape == (*batch.input_ids.shape, anatomy.n_heads, anatomy.d_head)
        bias = down_bias(projection)
        written = heads[layer].flatten(-2) @ write_matrix(projection) + (0 if bias is None else bias)
        assert close(written, outputs[0].view(written.shape))


def with_fixed_heads(model: Model, edit: SetHeads) -> Any:
    """A copy of the ``transformers`` model, edited in its weights: rows of W_O zeroed, constants in the bias."""
    projection = model.anatomy.attention_outputs[edit.layer]
    path = next(path for path, module in model.hf.named_modules() if module is projection)
    hf = copy.deepcopy(model.hf)
    twin = hf.get_submodule(path)
    rows = write_matrix(twin).view(model.anatomy.n_heads, model.anatomy.d_head, -1)
    constant = torch.einsum("hd,hdm->m", torch.tensor(edit.values), rows[list(edit.heads)])
    rows[list(edit.heads)] = 0
    twin.bias = torch.nn.Parameter(constant if twin.bias is None else twin.bias + constant, requires_grad=False)
    return hf


@EVERY_SHAPE
def test_setting_heads_equals_an_edit_of_the_weights(family: str) -> None:
    model = tiny(family)
    for layer in (0, model.anatomy.n_layers - 1):
        edit = SetHeads(layer, (2, 0), constants(model, (2, 0), layer))
        with under(model, Condition("set", (edit,))):
            found = real_logits(model)
        wanted = real_logits(wrap(with_fixed_heads(model, edit), model.tokenizer, family))
        assert close(found, wanted)
        assert not close(found, real_logits(model), 1e-3)


def test_mean_output_ablation_leaves_the_other_heads_alone() -> None:
    model = tiny("llama_gqa_tied")
    batch = model.pad(PROMPTS)
    real = batch.attention_mask.bool()
    with model.capture_heads([0, 1]) as before:
        model.forward(batch)
    means = before[1][real].mean(0)
    edit = SetHeads(1, (1, 3), tuple(tuple(means[head].tolist()) for head in (1, 3)))
    with under(model, Condition("mean", (edit,))), model.capture_heads([0, 1]) as after:
        model.forward(batch)
    assert close(after[1][..., [1, 3], :], means[[1, 3]].expand(*batch.input_ids.shape, 2, -1))
    assert torch.equal(after[1][..., [0, 2], :], before[1][..., [0, 2], :])
    assert torch.equal(after[0], before[0])


def test_edits_of_one_layer_are_made_one_after_another() -> None:
    model = tiny("gpt2")
    values = constants(model, (1,))
    condition = Condition("both", (SetHeads(1, (1,), values), AttendFirst(1, (1, 2)), SetNeurons(1, (3,), (2.0,))))
    with under(model, condition), model.capture_heads(1) as heads, model.capture_neurons(1) as neurons:
        model.forward(model.pad(PROMPTS[:1]))
    assert close(heads[1][0, :, 1], torch.tensor(values).expand(6, -1))
    assert torch.equal(heads[1][0, :, 2], heads[1][0, :1, 2].expand(6, -1))
    assert (neurons[1][..., 3] == 2).all()


# --- BOS ablation --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def attending_first(model: Model, edit: AttendFirst, first: torch.Tensor) -> Iterator[list[int]]:
    """The plain meaning: the *pattern* of the heads, as it leaves the softmax of eager attention, is set by hand.

    Args:
        first: column of the first real token of each row. Yields a list with one entry for each pattern that was set.
    """
    attention, plain = model.anatomy.attentions[edit.layer], torch.nn.functional.softmax
    inside, fired = False, list[int]()

    def enter(*_: Any) -> None:
        nonlocal inside
        inside = True

    def leave(*_: Any) -> None:
        nonlocal inside
        inside = False

    def softmax(*args: Any, **kwargs: Any) -> torch.Tensor:
        pattern = plain(*args, **kwargs)  # [batch, n_heads, queries, keys]
        if inside:
            by_head = pattern.view(len(first), model.anatomy.n_heads, *pattern.shape[-2:])  # XGLM flattens
            fired.append(1)
            one_hot = torch.nn.functional.one_hot(first, pattern.shape[-1]).to(pattern)
            by_head[:, list(edit.heads)] = one_hot[:, None, None, :]
        return pattern

    hooks = attention.register_forward_pre_hook(enter), attention.register_forward_hook(leave)
    torch.nn.functional.softmax = softmax  # type: ignore[assignment]
    try:
        yield fired
    finally:
        torch.nn.functional.softmax = plain
        for hook in hooks:
            hook.remove()


@EVERY_SHAPE
def test_bos_ablation_is_an_attention_pattern_on_the_first_token(family: str) -> None:
    """Under left padding, for eager attention and for the family's default (fused where it has it)."""
    eager, default = wrap(tiny_hf(family, attention="eager"), tokenizer(), family), tiny(family)
    assert eager.hf.config._attn_implementation == "eager"
    first = eager.pad(PROMPTS).attention_mask.argmax(1)
    assert first.tolist() == [0, 4, 2]
    for edit in (AttendFirst(0, (1, 2)), AttendFirst(eager.anatomy.n_layers - 1, (0, 1, 2, 3))):
        with attending_first(eager, edit, first) as fired:
            wanted = real_logits(eager)
        assert fired == [1]
        # Falcon with ALiBi has other logits in eager than in fused attention, unedited, too: transformers' own doing.
        for model in (eager,) if family == "falcon_alibi" else (eager, default):
            with under(model, Condition("bos", (edit,))):
                assert close(real_logits(model), wanted)
        assert not close(real_logits(eager), wanted, 1e-3)


@EVERY_SHAPE
def test_bos_ablation_writes_the_first_token_s_values(family: str) -> None:
    """They are in the cache, once for each group of query heads; also in passes that continue the cache."""
    model = tiny(family)
    batch, heads = model.pad(PROMPTS), (3, 1)
    first = batch.attention_mask.argmax(1)
    with under(model, Condition("bos", (AttendFirst(1, heads),))), model.capture_heads(1) as seen:
        out = model.forward(batch, use_cache=True)
        values = cache_of(out).layers[1].values[torch.arange(3), :, first]
        wanted = values.repeat_interleave(model.anatomy.n_heads // values.shape[1], 1)[:, list(heads)]
        for _ in range(3):
            assert close(seen[1][:, :, list(heads)], wanted[:, None].expand(-1, seen[1].shape[1], -1, -1))
            batch = batch.extend(out.logits[:, -1:].argmax(-1))
            out = model.forward(batch, past=cache_of(out))


@pytest.mark.parametrize("family", ["gpt2", "llama_gqa_tied", "gpt_neo", "gemma2", "opt", "bloom", "falcon_new"])
def test_generation_with_a_cache_equals_generation_without(family: str) -> None:
    model = tiny(family)
    last = model.anatomy.n_layers - 1
    edits = (AttendFirst(0, (1,)), AttendFirst(last, (0, 3)), SetHeads(last, (1,), constants(model, (1,))))
    condition = Condition("heads", edits)
    made = HookEngine(model, batch_size=2).generate(PROMPTS, [BASELINE, condition], 5)
    for row, prompt in enumerate(PROMPTS):
        tokens = list(prompt)
        with torch.no_grad(), under(model, condition):
            for _ in range(5):
                tokens.append(int(model.hf(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
        assert made.tokens[1, row].tolist() == tokens[len(prompt) :]
    assert (made.entropy[0] != made.entropy[1]).all()


def test_the_first_token_may_lie_in_the_cache_without_a_mask() -> None:
    model = tiny("gpt2")
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad(), under(model, Condition("bos", (AttendFirst(1, (0, 1)),))):
        wanted = model.hf(ids).logits[:, -1]
        past = cache_of(model.hf(ids[:, :4], use_cache=True))
        name = cache_argument(inspect.signature(model.hf.forward).parameters, "gpt2")
        assert close(model.hf(ids[:, 4:], **{name: past}).logits[:, -1], wanted)


class Renamed(transformers.GPT2LMHeadModel):
    """The cache has a name that nobody knows, or comes among others, in a pass without a mask."""

    def forward(self, input_ids: Any, memory: Any = None, **others: Any) -> Any:
        memory = others.pop("also", memory)
        past = memory[0] if isinstance(memory, list) else memory
        name = cache_argument(inspect.signature(super().forward).parameters, "gpt2")
        return super().forward(input_ids, **{name: past}, **others)


@pytest.mark.parametrize("name", ["memory", "also"])
def test_a_cache_is_found_by_what_it_is_and_not_by_its_name(name: str) -> None:
    """A pass whose cache went unnoticed would take its own first token for that of the prompt."""
    model = tiny("gpt2")
    model.hf.__class__ = Renamed
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad(), under(model, Condition("bos", (AttendFirst(1, (0, 1)),))):
        wanted = model.hf(ids).logits[:, -1]
        past = cache_of(model.hf(ids[:, :4], use_cache=True))
        assert close(model.hf(ids[:, 4:], **{name: past}).logits[:, -1], wanted)
        past = cache_of(model.hf(ids[:, :4], use_cache=True))
        with pytest.raises(HarnessError, match=f"^an edit of heads cannot tell .*: {name} of the .* is a list, which"):
            model.hf(ids[:, 4:], **{name: [past]})


# --- refusals ------------------------------------------------------------------------------------------------------


def test_the_prompt_must_be_run_under_the_edit() -> None:
    model = tiny("gpt2")
    batch = model.pad(PROMPTS)
    out = model.forward(batch, use_cache=True)
    wanted = "^an edit of heads of layer 1 needs the first token of every prompt, which was run before the edit began"
    with pytest.raises(HarnessError, match=wanted), under(model, Condition("late", (AttendFirst(1, (0,)),))):
        model.forward(batch.extend(torch.tensor([[1], [2], [3]])), past=cache_of(out))


def test_heads_and_values_that_do_not_fit_the_model() -> None:
    model = tiny("gpt2")
    batch = model.pad(PROMPTS)
    for index in (4, -1):
        wanted = f"^an edit names head L1H{index}, but the model has heads 0 to 3"
        with pytest.raises(HarnessError, match=wanted), under(model, Condition("x", (AttendFirst(1, (index,)),))):
            pass
    wanted = r"^values for heads 1, 2 of layer 0 have shape \(1, 8\), expected \(2, 8\)"
    short = SetHeads(0, (1, 2), constants(model, (1,)))
    with pytest.raises(HarnessError, match=wanted), under(model, Condition("x", (short,))):
        model.forward(batch)
    wanted = r"^an edit of the heads of layer 1 returned shape \(3, 6, 2, 8\) for activations of shape \(3, 6, 4, 8\)"
    with pytest.raises(HarnessError, match=wanted), model.edit_heads(1, lambda x: x[:, :, :2]):
        model.forward(batch)
    with pytest.raises(HarnessError, match="there is no layer 3"), model.capture_heads(3):
        pass
    wanted = "^an edit of the heads of layer 1 of gpt2 had no effect: no forward pass ran through it"
    with pytest.raises(HarnessError, match=wanted), model.edit_heads(1, lambda x: x):
        pass
    with pytest.raises(HarnessError, match="no forward pass ran through the heads of layer 1"), model.capture_heads(1):
        pass


def test_heads_that_cannot_be_told_apart() -> None:
    model = tiny("gpt2")
    model.anatomy = replace(model.anatomy, n_heads=5)
    wanted = "^the heads of layer 0 of gpt2 cannot be told apart: .* reads 32 numbers, which is not 5 heads of width 8"
    with pytest.raises(HarnessError, match=wanted), model.capture_heads(0):
        pass


def test_sites_that_there_are_not() -> None:
    class Elsewhere:
        layer, indices, site = 1, (0,), "keys"

        def apply(self, activations: torch.Tensor) -> torch.Tensor:
            return activations

    model = tiny("gpt2")
    condition = Condition("x", (Elsewhere(),))
    with (
        pytest.raises(HarnessError, match='the site "keys": expected neurons, heads, directions'),
        under(model, condition),
    ):
        pass


def test_the_closed_form_is_not_for_heads() -> None:
    model = tiny("gpt2")
    assert fits(model, [Condition("neurons", (SetNeurons(2, (1,), (0.0,)),))])
    assert not fits(model, [Condition("heads", (AttendFirst(2, (1,)),))])
