"""A causal language model with its tokeniser: tokens, forward passes, weights."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import nn

from harness.errors import HarnessError
from harness.files.wording import counted, shortened
from harness.model import digests as identity
from harness.model.anatomy import Anatomy
from harness.model.key_values import cache_argument, cache_of, check_cache
from harness.model.layer_hooks import Captured, LayerHooks
from harness.model.matrices import is_packed, write_matrix
from harness.model.modules import down_bias, input_device, text_config
from harness.model.probes import padding_error
from harness.model.readout import HALF, Readout
from harness.model.tokens import prefix_of, put_first

if TYPE_CHECKING:
    from harness.model.input_weights import Block


@dataclass(frozen=True, eq=False)
class Batch:
    """Left-padded token ids on the model's device.

    Attributes:
        input_ids: int64 [batch, pos], the tokens that the next forward pass reads.
        attention_mask: int64 [batch, past + pos], 1 for real tokens, 0 for padding, those in the cache included.
        position_ids: int64 [batch, pos], counted from the first real token of each row.
    """

    input_ids: Int64[torch.Tensor, "batch pos"]
    attention_mask: Int64[torch.Tensor, "batch past_and_pos"]
    position_ids: Int64[torch.Tensor, "batch pos"]

    def extend(self, tokens: torch.Tensor) -> Batch:
        """The batch that continues this one with ``tokens`` [batch, n], for a forward pass with this one's cache."""
        mask = torch.cat([self.attention_mask, torch.ones_like(tokens)], dim=1)
        positions = self.position_ids[:, -1:] + 1 + torch.arange(tokens.shape[1], device=tokens.device)
        return Batch(tokens, mask, positions)

    def tile(self, n: int) -> Batch:
        """``n`` copies of the batch, one after another along the batch dimension."""
        return Batch(*(x.repeat(n, 1) for x in (self.input_ids, self.attention_mask, self.position_ids)))


@dataclass(eq=False)
class Model(LayerHooks):
    """A ``transformers`` causal language model in evaluation mode; made by :func:`harness.model.wrapping.wrap` or
    ``harness.model.loading.load_hf``.

    Attributes:
        name: as the user gave it.
        hf, tokenizer: the ``transformers`` objects.
        anatomy, readout: where things are, and the way to logits; both checked numerically.
        revision: what was asked for (branch, tag, commit), or None.
        commit: the commit that it resolved to on the hub, or None for local folders.
        prefix: token ids that every prompt begins with (BOS, or nothing).
        pad_id: fills the left of shorter rows; masked, so any id of the vocabulary serves.
        unused: names of the checkpoint's tensors that the model does not use.
        origin: what was done to weights that are not loaded as they are: quantised (as its settings), dequantised,
            or merged with an adapter.
    """

    name: str
    hf: Any
    tokenizer: Any
    anatomy: Anatomy
    readout: Readout
    revision: str | None
    commit: str | None
    prefix: tuple[int, ...]
    pad_id: int
    unused: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)

    # --- identity --------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where token ids go; with ``device_map``, layers may be elsewhere."""
        return input_device(self.hf)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.hf.dtype
        return dtype

    @property
    def adds_bos(self) -> bool:
        """Whether prompts begin with the BOS token (or whatever prefix the tokeniser has)."""
        return bool(self.prefix)

    @property
    def n_positions(self) -> int | None:
        """Longest sequence that the configuration allows, in tokens, or None where it names none."""
        config = text_config(self.hf)
        found = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
        return found if isinstance(found, int) and found > 0 else None

    @cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """Tokens that end a text: those of the generation configuration and the tokeniser's EOS, ascending."""
        listed = getattr(getattr(self.hf, "generation_config", None), "eos_token_id", None)
        ids = [*(listed if isinstance(listed, list | tuple) else [listed]), self.tokenizer.eos_token_id]
        return tuple(sorted({int(i) for i in ids if i is not None}))

    @cached_property
    def token_texts(self) -> tuple[str, ...]:
        """Text of every token [d_vocab] as it reads after other text (leading space kept); "" for unused rows."""
        anchor = self.tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        start = self.tokenizer.decode(anchor, **options)
        n = min(len(self.tokenizer), self.anatomy.d_vocab)
        texts = self.tokenizer.batch_decode([[*anchor, i] for i in range(n)], **options)
        return (*(text.removeprefix(start) for text in texts), *[""] * (self.anatomy.d_vocab - n))

    @cached_property
    def weights_digest(self) -> str:
        """sha256 over names, dtypes, shapes and bytes of the state dict as loaded, sorted by name."""
        return identity.weights_digest(self.hf)

    @cached_property
    def tokenizer_digest(self) -> str:
        """sha256 of what decides token ids: the tokeniser without its padding and truncation, and the BOS policy."""
        return identity.tokenizer_digest(self.tokenizer, self.prefix)

    def provenance(self) -> dict[str, Any]:
        """What a result record says of the model; JSON values only. Computes both digests."""
        return identity.provenance(self)

    # --- tokens ----------------------------------------------------------------------------------------------------

    def encode(self, texts: Sequence[str], add_bos: bool | None = None) -> list[list[int]]:
        """Token ids of each text, without padding.

        Args:
            add_bos: put the BOS token first; by default as the model was loaded, which by default is as its tokeniser
                does. It is never put before a text that begins with it, and EOS is never appended.

        Raises:
            HarnessError: an empty prompt, a token that the model has no embedding for, BOS asked for without one.
        """
        if isinstance(texts, str):
            raise TypeError("encode() takes a sequence of texts, not one text")
        prefix = self.prefix if add_bos is None else prefix_of(self.tokenizer, add_bos)
        n_embeddings = self.hf.get_input_embeddings().weight.shape[0]
        sequences = []
        for i, text in enumerate(texts):
            # verbose: a text that is too long is reported by pad().
            ids = list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
            ids = put_first(prefix, ids)
            if not ids:
                raise HarnessError(f'prompt {i} ("{text}") is empty, and no BOS token is put before it (see add_bos).')
            if max(ids) >= n_embeddings:
                raise HarnessError(
                    f'prompt {i} ("{shortened(text)}") holds token {max(ids)}, but {self.name} embeds only '
                    f"{counted(n_embeddings, 'token')}: this tokeniser does not belong to the model."
                )
            sequences.append(ids)
        return sequences

    def pad(self, sequences: Sequence[Sequence[int]]) -> Batch:
        """Left-pad token ids into a batch on the model's device; the tokeniser is not touched.

        Raises:
            HarnessError: no sequences, an empty one, or one longer than the model's positions.
        """
        lengths = [len(ids) for ids in sequences]
        if not lengths or min(lengths) == 0:
            raise HarnessError("a batch needs at least one prompt, and each prompt at least one token.")
        width = max(lengths)
        self._check_length(width)
        ids = torch.full((len(lengths), width), self.pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (tokens, n) in enumerate(zip(sequences, lengths, strict=True)):
            ids[row, width - n :] = torch.as_tensor(list(tokens), dtype=torch.long)
            mask[row, width - n :] = 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        return Batch(ids.to(self.device), mask.to(self.device), positions.to(self.device))

    def _check_length(self, n: int) -> None:
        if self.n_positions is not None and n > self.n_positions:
            raise HarnessError(
                f"a sequence of {counted(n, 'token')} is longer than the "
                f"{counted(self.n_positions, 'position')} of {self.name}."
            )

    # --- forward ---------------------------------------------------------------------------------------------------

    @cached_property
    def _accepts(self) -> frozenset[str]:
        return frozenset(inspect.signature(self.hf.forward).parameters)

    @property
    def keeps_last_logits(self) -> bool:
        """Whether a pass can spare the logits of all but the last positions."""
        return "logits_to_keep" in self._accepts

    @cached_property
    def padding_error(self) -> float:
        """The relative change of logits where a row is padded: how much this model rounds. Known since it was made."""
        return padding_error(self)

    def check_cache(self) -> None:
        """Make sure, once, that passes go on from the cache of earlier ones; not within a block of edits.

        Raises:
            HarnessError: as :func:`harness.model.key_values.check_cache`.
        """
        assert self._goes_on

    @cached_property
    def _goes_on(self) -> bool:
        check_cache(self)
        return True

    def forward(
        self, batch: Batch, past: Any = None, logits_to_keep: int = 1, use_cache: bool = False, **options: Any
    ) -> Any:
        """One forward pass; returns the ``transformers`` output (``.logits``,
        :func:`harness.model.key_values.cache_of`).

        Positions come from the mask wherever the architecture takes them, so padding changes nothing. Of a model in
        half precision, logits are float32, computed from the final residual as all engines do: its own are rounded to
        steps as large as 0.125, at which tokens tie that are not equally likely.

        Args:
            past: the cache of the pass that this batch extends; it is extended in place.
            logits_to_keep: logits of the last so many positions, [batch, n, d_vocab]; 0 for all.
            use_cache: return a cache.
            options: passed on to the model.
        """
        self._check_length(batch.attention_mask.shape[1])
        if "position_ids" in self._accepts:
            options["position_ids"] = batch.position_ids
        half = self.readout.W_U.dtype in HALF
        if "logits_to_keep" in self._accepts:
            options["logits_to_keep"] = 1 if half else logits_to_keep
        if past is not None:
            options[cache_argument(self._accepts, self.name)] = past
        with self._instead_of_logits() if half else contextlib.nullcontext(Captured()) as captured:
            out = self.hf(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                use_cache=use_cache or past is not None,
                **options,
            )
        if use_cache and cache_of(out) is None:
            raise HarnessError(f"{self.name} cannot generate: its passes give no keys and values to go on from.")
        if half:
            residual = captured.residual[:, -logits_to_keep:]  # 0: all of them
            out.logits = self.readout.logits(residual, self.readout.denominator(residual))
        elif "logits_to_keep" not in self._accepts:
            out.logits = out.logits[:, -logits_to_keep:]
        return out

    @contextlib.contextmanager
    def _instead_of_logits(self) -> Iterator[Captured]:
        """Within the block, passes give the final residual, and logits of one place only: on a CPU the product with a
        half-precision unembedding takes longer than everything before it."""

        def one(module: nn.Module, args: Any) -> Any:
            return (args[0][:1, -1:], *args[1:])

        handle = self.anatomy.unembedding.register_forward_pre_hook(one)
        try:
            with self.capture_residual() as captured:
                yield captured
        finally:
            handle.remove()

    @contextlib.contextmanager
    def without_logits(self) -> Iterator[None]:
        """Within the block, passes give no logits, for those who read what is left in the residual stream: a large
        unembedding takes as long as several layers. Unembeddings that are no plain linear map run as ever."""

        def none(module: nn.Module, args: Any) -> Any:
            return (args[0][:0], *args[1:])

        unembedding = self.anatomy.unembedding
        with contextlib.ExitStack() as stack:
            if type(unembedding) is nn.Linear and self.readout.W_U.dtype not in HALF:
                stack.callback(unembedding.register_forward_pre_hook(none).remove)
            yield

    # --- weights ---------------------------------------------------------------------------------------------------

    @property
    def W_U(self) -> Float[torch.Tensor, "d_model d_vocab"]:
        """The unembedding as stored, in the model's dtype, not a copy; a column a token.

        It reads the output of the final norm. The directions that the residual stream itself is read along are those
        of :meth:`folded_W_U`.
        """
        return self.readout.W_U.T

    def folded_W_U(self, centre: bool = True) -> Float32[torch.Tensor, "d_model d_vocab"]:
        """A copy of the unembedding with the final norm's gain in its rows.

        Args:
            centre: also subtract the mean over the vocabulary, which no probability depends on
                (:meth:`harness.model.readout.Readout.folded_unembedding`).
        """
        return self.readout.folded_unembedding(centre=centre).T

    # --- neurons ---------------------------------------------------------------------------------------------------

    def w_out(self, layer: int) -> Float32[torch.Tensor, "d_mlp d_model"]:
        """Write directions of a layer's neurons, float32 [d_mlp, d_model]; may share the model's memory.

        Row i is what neuron i adds to the output of the down projection per unit of activation. Where the family norms
        the MLP's output (``anatomy.post_mlp_norms``) or scales it (``residual_multiplier``), that comes afterwards.
        Quantised weights are dequantised; the layer that was asked for last is kept.
        """
        down = self.down_projection(layer)
        return self._dequantised(layer) if is_packed(down) else write_matrix(down).float()

    @cached_property
    def _dequantised(self) -> Callable[[int], torch.Tensor]:
        return lru_cache(maxsize=1)(lambda layer: write_matrix(self.down_projection(layer), self.dtype).float())

    @cached_property
    def mlp_blocks(self) -> Callable[[int], tuple[Block, Block | None]]:
        """A layer's pre-activations, and what a gated MLP multiplies their activation by
        (:func:`harness.model.input_weights.mlp_blocks`); found once."""
        from harness.model.input_weights import mlp_blocks

        return lru_cache(maxsize=None)(partial(mlp_blocks, self))

    def down_bias(self, layer: int) -> Float32[torch.Tensor, " d_model"] | None:
        """Bias of a layer's down projection, float32 [d_model], or None."""
        return down_bias(self.down_projection(layer))
