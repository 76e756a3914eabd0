"""Texts to token ids to batches: BOS, EOS, padding, limits, and what tokens read like."""

from __future__ import annotations

from logging import LogRecord
from typing import Any

import pytest
import torch
from families import BOS, D_VOCAB, EOS, greedy, tiny_hf, tokenizer

from harness.errors import HarnessError
from harness.model.key_values import cache_of
from harness.model.model import Model
from harness.model.tokens import first_tokens, token_spans
from harness.model.wrapping import wrap
from harness.testing import demo_model

PAD = 259


@pytest.fixture(scope="module")
def hf() -> Any:
    return tiny_hf("gpt2")


def model_with(hf: Any, add_bos: bool | None = None, **options: Any) -> Model:
    return wrap(hf, tokenizer(**options), "tiny", add_bos=add_bos)


def plain(text: str) -> list[int]:
    return tokenizer()(text)["input_ids"]


# --- BOS and EOS ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokeniser_adds", "loaded_with", "asked", "first"),
    [
        (False, None, None, []),
        (True, None, None, [BOS]),
        (False, True, None, [BOS]),
        (True, False, None, []),
        (True, True, None, [BOS]),
        (False, None, True, [BOS]),
        (True, None, False, []),
        (False, True, False, []),
        (True, False, True, [BOS]),
    ],
)
def test_bos_is_as_the_tokeniser_does_unless_asked(
    hf: Any, tokeniser_adds: bool, loaded_with: bool | None, asked: bool | None, first: list[int]
) -> None:
    model = model_with(hf, loaded_with, bos=tokeniser_adds)
    assert model.encode(["ab"], add_bos=asked) == [first + plain("ab")]


def test_adds_bos_says_what_encode_does(hf: Any) -> None:
    assert not model_with(hf).adds_bos
    assert model_with(hf, bos=True).adds_bos
    assert model_with(hf, bos=True).prefix == (BOS,)


def test_bos_is_never_put_twice(hf: Any) -> None:
    model = model_with(hf, bos=True)
    assert model.encode(["<s>ab"]) == [[BOS, *plain("ab")]]
    assert model_with(hf).encode(["<s>ab"], add_bos=True) == [[BOS, *plain("ab")]]


def test_a_record_says_what_prompts_begin_with(hf: Any) -> None:
    model = model_with(hf, bos=True)
    prompts = [*model.encode(["ab c", "d"]), model.encode(["a long one"])[0][-4:]]
    assert first_tokens(model, prompts) == {"first": ["<s>", "a", "b", "Ġ", "c"], "prefix": ["<s>"], "with_prefix": 2}
    plain = model_with(hf)
    assert first_tokens(plain, plain.encode(["ab" * 9])) == {"first": [*"abababab"], "prefix": [], "with_prefix": 0}


def test_eos_of_the_tokenisers_template_is_never_appended(hf: Any) -> None:
    assert model_with(hf, template_eos=True).encode(["ab"]) == [plain("ab")]
    both = model_with(hf, bos=True, template_eos=True)
    assert both.prefix == (BOS,)
    assert both.encode(["ab"]) == [[BOS, *plain("ab")]]


def test_bos_asked_for_without_one_is_refused(hf: Any) -> None:
    words = tokenizer()
    words.bos_token = None
    with pytest.raises(HarnessError, match=r"^add_bos: the tokeniser has no BOS token\.$"):
        wrap(hf, words, "tiny", add_bos=True)
    assert wrap(hf, words, "tiny").prefix == ()


# --- padding -------------------------------------------------------------------------------------------------------


def test_a_missing_pad_token_is_filled_by_eos_and_the_tokeniser_is_not_touched(hf: Any) -> None:
    model = model_with(hf)
    assert model.pad_id == EOS
    assert model.tokenizer.pad_token is None


@pytest.mark.parametrize("pad_id", [0, PAD, 5])
def test_the_pad_id_changes_nothing(hf: Any, pad_id: int) -> None:
    """Id 0 is a token like any other, which the prompts hold too."""
    model = model_with(hf)
    sequences = [[1, 0, 2, 0], [0], [3, 4]]
    wanted = greedy(model, sequences, 4)
    logits = model.forward(model.pad(sequences)).logits
    model.pad_id = pad_id
    batch = model.pad(sequences)
    assert batch.input_ids[1].tolist() == [pad_id] * 3 + [0]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert torch.allclose(model.forward(batch).logits, logits, atol=1e-6)
    assert greedy(model, sequences, 4) == wanted


def test_pad_ids_that_the_model_does_not_embed_are_passed_over(hf: Any) -> None:
    assert model_with(hf, pad="<pad>").pad_id == PAD
    words = tokenizer()
    words.add_tokens([f"<{i}>" for i in range(D_VOCAB)])
    words.add_special_tokens({"pad_token": f"<{D_VOCAB - 1}>"})
    assert wrap(hf, words, "tiny").pad_id == EOS
    words.eos_token = f"<{D_VOCAB - 1}>"
    assert wrap(hf, words, "tiny").pad_id == 0


# --- what is refused -----------------------------------------------------------------------------------------------


def test_empty_prompts(hf: Any) -> None:
    with pytest.raises(HarnessError, match=r'^prompt 1 \(""\) is empty, and no BOS token is put before it'):
        model_with(hf).encode(["a", ""])
    assert model_with(hf, bos=True).encode([""]) == [[BOS]]


def test_empty_batches(hf: Any) -> None:
    model = model_with(hf)
    for sequences in ([], [[1], []]):
        with pytest.raises(HarnessError, match="at least one prompt, and each prompt at least one token"):
            model.pad(sequences)


def test_one_text_instead_of_several_is_a_mistake_of_the_caller(hf: Any) -> None:
    with pytest.raises(TypeError, match="a sequence of texts, not one text"):
        model_with(hf).encode("abc")


def test_prompts_longer_than_the_positions(hf: Any) -> None:
    model = model_with(hf)
    assert model.n_positions == 64
    batch = model.pad([[1] * 64])
    with pytest.raises(HarnessError, match=r"^a sequence of 65 tokens is longer than the 64 positions of tiny\.$"):
        model.pad([[1], [1] * 65])
    past = cache_of(model.forward(batch, use_cache=True))
    with pytest.raises(HarnessError, match="a sequence of 65 tokens"):
        model.forward(batch.extend(torch.tensor([[1]])), past=past)


def test_long_prompts_are_encoded_in_silence(hf: Any, logged: list[LogRecord]) -> None:
    model = model_with(hf)
    model.tokenizer.model_max_length = 8
    assert len(model.encode(["a" * 100])[0]) == 100
    assert not logged


def test_the_tokeniser_of_another_model_is_refused(hf: Any) -> None:
    words = tokenizer()
    words.add_tokens(["zebra", *(f"<{i}>" for i in range(D_VOCAB)), "okapi"])
    model = wrap(hf, words, "tiny")
    assert model.encode(["a zebra"])
    with pytest.raises(HarnessError, match=r'^prompt 0 \("an okapi"\) .* this tokeniser does not belong to the model'):
        model.encode(["an okapi"])


def test_layers_that_do_not_exist(hf: Any) -> None:
    for layer in (-1, 3):
        with pytest.raises(HarnessError, match=rf"^tiny has layers 0 to 2, there is no layer {layer}\.$"):
            model_with(hf).w_out(layer)


# --- tokens as texts -----------------------------------------------------------------------------------------------


def test_token_texts_read_as_after_other_text(hf: Any) -> None:
    model = model_with(hf)
    texts = model.token_texts
    assert len(texts) == D_VOCAB
    for text in ("a", " ", "7", "\n"):
        assert texts[plain(text)[0]] == text
    assert texts[BOS] == "<s>"
    assert set(texts[260:]) == {""}


def test_end_tokens_are_those_of_model_and_tokeniser() -> None:
    hf = tiny_hf("gpt2")
    hf.generation_config.eos_token_id = [7, 3]
    assert model_with(hf).end_tokens == (3, 7, EOS)
    hf.generation_config.eos_token_id = 9
    assert model_with(hf).end_tokens == (9, EOS)
    words = tokenizer()
    words.eos_token = None
    hf.generation_config.eos_token_id = None
    assert wrap(hf, words, "tiny").end_tokens == ()


# --- parts of a text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("add_bos", [False, True])
def test_the_tokens_of_a_part_are_those_that_hold_its_characters(hf: Any, add_bos: bool) -> None:
    model, text = model_with(hf, add_bos), "In Zürich, no?"
    [tokens] = model.encode([text])
    found = token_spans(model, text, {"city": (3, 9), "all of it": (0, len(text))}, "a test")
    assert found["all of it"] == (int(add_bos), len(tokens))
    start, stop = found["city"]
    assert model.tokenizer.decode(tokens[start:stop]).strip() == "Zürich"
    assert model.tokenizer.decode(tokens[int(add_bos) : start]).strip() == "In"


def test_a_letter_in_several_tokens_is_in_the_part_with_all_of_them() -> None:
    model, text = demo_model(), "It was László Bíró. It was"
    begin = text.index("László")
    [start, stop] = token_spans(model, text, {"object": (begin, begin + len("László Bíró"))}, "a test")["object"]
    [tokens] = model.encode([text])
    assert model.tokenizer.decode(tokens[start:stop]).strip() == "László Bíró"


def test_parts_without_tokens_are_refused(hf: Any) -> None:
    model = model_with(hf)
    with pytest.raises(HarnessError, match=r'^a test: the tokens of "ab" cannot be told apart where the city \(""\)'):
        token_spans(model, "ab", {"city": (1, 1)}, "a test")


def test_a_slow_tokeniser_tells_by_what_beginnings_read_like(hf: Any) -> None:
    class Slow:
        is_fast = False

        def __init__(self) -> None:
            self.fast = tokenizer()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.fast, name)

        def __call__(self, text: str, **options: Any) -> Any:
            return self.fast(text, **options)

    model = model_with(hf)
    fast = token_spans(model, "a bc def", {"x": (2, 4), "y": (5, 8)}, "a test")
    slow = wrap(hf, tokenizer(), "tiny")
    slow.tokenizer = Slow()
    assert token_spans(slow, "a bc def", {"x": (2, 4), "y": (5, 8)}, "a test") == fast
