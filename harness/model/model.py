"""A causal language model with its tokeniser, and the hooks with which neurons and heads are read and edited."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import nn

from harness.errors import HarnessError
from harness.files.wording import agree, counted, noun_for
from harness.model import digests as identity
from harness.model.anatomy import Anatomy, locate
from harness.model.expert_hooks import ExpertHooks, without_neurons
from harness.model.key_values import cache_argument, cache_of, check_cache
from harness.model.matrices import is_packed, write_matrix
from harness.model.modules import (
    down_bias,
    input_device,
    keep_caps,
    layer_input,
    linear_features,
    on_final_residual,
    refuse_compiled,
    text_config,
)
from harness.model.places import READ_ONLY, Spot, spot_of
from harness.model.probes import check_padding
from harness.model.readout import HALF, Readout, read_out

if TYPE_CHECKING:
    from harness.model.input_weights import Block

ActivationEdit = Callable[[torch.Tensor], torch.Tensor]
"""Takes activations [batch, pos, ...], returns new ones of the same shape; must not write into its argument."""


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


@dataclass
class Captured:
    """What :meth:`Model.capture_residual` has seen: the final residual [batch, pos, d_model] of the last pass."""

    residual: torch.Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(eq=False)
class Model(ExpertHooks):
    """A ``transformers`` causal language model in evaluation mode; made by :func:`wrap` or
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
        prefix = self.prefix if add_bos is None else _prefix(self.tokenizer, add_bos)
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
                    f'prompt {i} ("{_short(text)}") holds token {max(ids)}, but {self.name} embeds only '
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

    def down_projection(self, layer: int) -> nn.Module:
        """The linear map that a layer's dense neurons write through.

        Raises:
            HarnessError: there is no such layer, or it has no dense neurons: its MLP is routed experts alone.
        """
        self.check_layer(layer)
        found = self.anatomy.down_projections[layer]
        if found is None:
            has = [i for i, down in enumerate(self.anatomy.down_projections) if down is not None]
            raise without_neurons(self.name, layer, self.anatomy.experts[layer], has)
        return found

    def attention(self, layer: int) -> tuple[nn.Module, nn.Module]:
        """A layer's attention and its output projection.

        Raises:
            HarnessError: there is no such layer, or it mixes tokens in another way.
        """
        self.check_layer(layer)
        found, output = self.anatomy.attentions[layer], self.anatomy.attention_outputs[layer]
        if found is None or output is None:
            has = self.anatomy.with_attention
            raise HarnessError(
                f"layer {layer} of {self.name} has no attention, hence no heads; {noun_for(len(has), 'layer')} "
                f"{', '.join(map(str, has))} {agree(len(has), 'has', 'have')}."
            )
        return found, output

    def edit_neurons(self, layer: int, fn: ActivationEdit) -> AbstractContextManager[None]:
        """Within the block, every forward pass replaces the layer's activations by ``fn(activations)``.

        ``fn`` sees [batch, pos, d_mlp], padding positions included, and must return the same shape; its result is cast
        to the model's dtype and device. Blocks nest: an inner edit sees what the outer one returned.

        Raises:
            HarnessError: ``fn`` returns another shape; the block ran no forward pass through the layer; the model was
                compiled (``torch.compile`` ignores hooks).
        """
        return self._edit(self._neurons, layer, fn)

    def capture_neurons(self, layers: int | Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        """Within the block, ``captured[layer]`` is the activations [batch, pos, d_mlp] of the last forward pass.

        Inside a block of :meth:`edit_neurons` it holds the edited activations, around one the unedited.

        Raises:
            HarnessError: the block ran no forward pass through a layer.
        """
        return self._capture(self._neurons, layers)

    @contextlib.contextmanager
    def capture_write(self, layer: int, hold: bool = False) -> Iterator[list[torch.Tensor]]:
        """Within the block, the list ends with what the layer's down projection returned in the last forward pass, in
        its own shape. With ``hold`` it is kept back: the MLP then writes nothing into the residual stream.
        """
        written: list[torch.Tensor] = []

        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor | None:
            written[:] = [output.detach()]
            return torch.zeros_like(output) if hold else None

        handle = self.down_projection(layer).register_forward_hook(hook)
        try:
            yield written
        finally:
            handle.remove()

    # --- heads -----------------------------------------------------------------------------------------------------

    def edit_heads(self, layer: int, fn: ActivationEdit) -> AbstractContextManager[None]:
        """Within the block, every forward pass replaces the outputs of the layer's heads by ``fn(outputs)``.

        A head's output is its attention pattern times its values, before the output projection, whatever attention
        implementation computed it. ``fn`` sees [batch, pos, n_heads, d_head]; otherwise as :meth:`edit_neurons`.

        Raises:
            HarnessError: as :meth:`edit_neurons`; the output projection does not read n_heads * d_head numbers.
        """
        return self._edit(self._heads, layer, fn)

    def capture_heads(self, layers: int | Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        """Within the block, ``captured[layer]`` is the heads' outputs [batch, pos, n_heads, d_head] of the last pass.

        Raises:
            HarnessError: as :meth:`capture_neurons`; the output projection does not read n_heads * d_head numbers.
        """
        return self._capture(self._heads, layers)

    # --- residual stream after a layer ------------------------------------------------------------------------------

    def edit_residual(self, layer: int, fn: ActivationEdit) -> AbstractContextManager[None]:
        """Within the block, every forward pass replaces the residual stream after the layer by ``fn(residual)``.

        ``fn`` sees [batch, pos, d_model]: what the layer hands to the next, or to the final norm. Otherwise as
        :meth:`edit_neurons`.
        """
        return self._edit(self._residual, layer, fn)

    def capture_residuals(self, layers: int | Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        """Within the block, ``captured[layer]`` is the residual stream [batch, pos, d_model] after the layer in the
        last pass; otherwise as :meth:`capture_neurons`."""
        return self._capture(self._residual, layers)

    # --- other places in a layer -------------------------------------------------------------------------------------

    def edit_place(self, place: str, layer: int, fn: ActivationEdit) -> AbstractContextManager[None]:
        """Within the block, every forward pass replaces what is at a place of the layer by ``fn(activations)``.

        Args:
            place: one of :data:`harness.model.places.PLACES`, which says the shapes; otherwise as
                :meth:`edit_neurons`.

        Raises:
            HarnessError: there is no such place, or it can be read only.
        """
        if place in READ_ONLY:
            raise HarnessError(f'the place "{place}" of a layer can be read, but not edited: several modules read it.')
        return self._edit(partial(spot_of, self, place), layer, fn)

    def capture_place(self, place: str, layers: int | Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        """Within the block, ``captured[layer]`` is what was at a place of the layer in the last pass; otherwise as
        :meth:`capture_neurons`, with the places of :meth:`edit_place`."""
        return self._capture(partial(spot_of, self, place), layers)

    # --- neurons, heads, residual stream ----------------------------------------------------------------------------

    def _neurons(self, layer: int) -> Spot:
        return Spot(self.down_projection(layer), (self.anatomy.d_mlps[layer],), f"layer {layer}")

    def _residual(self, layer: int) -> Spot:
        return spot_of(self, "residual_after", layer)

    def _heads(self, layer: int) -> Spot:
        (_, projection), anatomy = self.attention(layer), self.anatomy
        width = linear_features(projection)[0]
        if width != anatomy.n_heads * anatomy.d_head:
            raise HarnessError(
                f"the heads of layer {layer} of {self.name} cannot be told apart: the attention output projection "
                f"reads {counted(width, 'number')}, which is not {counted(anatomy.n_heads, 'head')} of width "
                f"{anatomy.d_head}."
            )
        return Spot(projection, (anatomy.n_heads, anatomy.d_head), f"the heads of layer {layer}")

    @contextlib.contextmanager
    def _edit(self, find: Callable[[int], Spot], layer: int, fn: ActivationEdit) -> Iterator[None]:
        refuse_compiled(self.hf)
        site, fired = find(layer), 0

        def hook(activations: torch.Tensor) -> torch.Tensor:
            nonlocal fired
            fired += 1
            edited = fn(activations)
            if edited.shape != activations.shape:
                raise HarnessError(
                    f"an edit of {site.name} returned shape {tuple(edited.shape)} for activations of shape "
                    f"{tuple(activations.shape)}."
                )
            return edited.to(activations)

        with self._at(site, layer, hook):
            yield
        if not fired:
            raise HarnessError(f"an edit of {site.name} of {self.name} had no effect: no forward pass ran through it.")

    @contextlib.contextmanager
    def _capture(self, find: Callable[[int], Spot], layers: int | Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
        refuse_compiled(self.hf)
        wanted = [layers] if isinstance(layers, int) else list(layers)
        captured: dict[int, torch.Tensor] = {}

        def keep(layer: int) -> Callable[[torch.Tensor], None]:
            def hook(activations: torch.Tensor) -> None:
                # What leaves a layer is cloned: the next one may add to it in place.
                captured[layer] = activations.detach().clone() if sites[layer].leaves else activations.detach()

            return hook

        sites = {layer: find(layer) for layer in wanted}
        with contextlib.ExitStack() as stack:
            for layer, site in sites.items():
                stack.enter_context(self._at(site, layer, keep(layer)))
            yield captured
        for layer, site in sites.items():
            if layer not in captured:
                raise HarnessError(f"nothing was captured: no forward pass ran through {site.name} of {self.name}.")

    @contextlib.contextmanager
    def _at(self, site: Spot, layer: int, fn: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
        """Call ``fn`` with the activations [batch, pos, *width] of each pass; what it returns replaces them."""
        shape = (0, 0)

        def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
            nonlocal shape
            shape = tuple(layer_input(args, kwargs).shape[:2])  # type: ignore[assignment]

        def changed(x: torch.Tensor) -> torch.Tensor | None:
            """``x`` with what ``fn`` makes of the site's part of it."""
            if x.dim() == 2 and x.shape[0] != shape[0] * shape[1]:
                raise HarnessError(f"{site.name} flattens its activations and the batch's shape cannot be recovered.")
            rows = x if x.dim() == 3 else x.view(*shape, -1)
            part = rows if site.columns is None else rows[..., site.columns]
            new = fn(part.unflatten(-1, site.width))
            if new is not None and site.columns is not None:
                whole = rows.clone()
                whole[..., site.columns] = new.flatten(len(shape))
                new = whole
            return None if new is None else new.reshape(x.shape)

        def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
            new = changed(layer_input(args, kwargs))
            if new is None:
                return None
            return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

        def leave(module: nn.Module, args: Any, output: Any) -> Any:
            hidden, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
            new = changed(hidden)
            return None if new is None else new if rest is None else (new, *rest)

        with contextlib.ExitStack() as stack:
            # Some projections see [batch * pos, width] (the MLP of OPT): what enters the layer tells the two apart.
            begun = self.anatomy.layers[layer].register_forward_pre_hook(begin, with_kwargs=True)
            stack.callback(begun.remove)
            if site.leaves:
                stack.callback(site.module.register_forward_hook(leave).remove)
            else:
                stack.callback(site.module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            yield

    # --- final residual --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def capture_residual(self) -> Iterator[Captured]:
        """Within the block, ``captured.residual`` is the final residual [batch, pos, d_model] of the last forward pass.

        It is what enters the final norm (the last layer's output where there is no norm), at every position.

        Raises:
            HarnessError: the block ran no forward pass.
        """
        refuse_compiled(self.hf)
        captured, fired = Captured(), False

        def keep(residual: torch.Tensor) -> None:
            nonlocal fired
            captured.residual, fired = residual.detach(), True

        undo = on_final_residual(self.anatomy.layers[-1], self.anatomy.final_norm, keep)
        try:
            yield captured
        finally:
            undo()
        if not fired:
            raise HarnessError(f"nothing was captured: no forward pass ran through {self.name}.")


def wrap(
    hf: Any,
    tokenizer: Any,
    name: str,
    revision: str | None = None,
    commit: str | None = None,
    add_bos: bool | None = None,
    unused: tuple[str, ...] = (),
    origin: Mapping[str, Any] | None = None,
) -> Model:
    """A :class:`Model` of a loaded ``transformers`` causal language model (which is put into evaluation mode).

    Args:
        add_bos: whether prompts begin with the BOS token; by default as the tokeniser does.
        unused: names of the checkpoint's tensors that were left out.
        origin: what was done to weights that are not loaded as they are.

    Raises:
        HarnessError: the architecture is not supported or fails its self-check, a weight is NaN or infinite, the model
            is compiled, ``add_bos`` without a BOS token.
    """
    refuse_compiled(hf)
    hf.eval()
    keep_caps(hf)
    identity.check_finite(hf, name)
    try:
        anatomy = locate(hf)
        model = Model(
            name=name,
            hf=hf,
            tokenizer=tokenizer,
            anatomy=anatomy,
            readout=read_out(hf, anatomy),
            revision=revision,
            commit=commit,
            prefix=_prefix(tokenizer, add_bos),
            pad_id=_pad_id(tokenizer, hf.get_input_embeddings().weight.shape[0]),
            unused=unused,
            origin=origin or {},
        )
        check_padding(model)
    except HarnessError:
        raise
    except Exception as error:
        raise HarnessError(
            f"{type(hf).__name__} is not supported: the search for its parts (harness/model/anatomy.py) ended with "
            f"{type(error).__name__}: {_short(str(error), 200)}"
        ) from error
    return model


def put_first(prefix: Sequence[int], ids: list[int]) -> list[int]:
    """A text's token ids with the prefix before them, which is never put there twice (chat templates write it)."""
    return ids if ids[: len(prefix)] == list(prefix) else [*prefix, *ids]


def _prefix(tokenizer: Any, add_bos: bool | None) -> tuple[int, ...]:
    """The ids that go before a text: by default those that the tokeniser itself puts there."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a")["input_ids"])
    own = next((full[:i] for i in range(len(full)) if full[i : i + len(plain)] == plain), [])
    if add_bos is None:
        return tuple(own)
    if not add_bos:
        return ()
    if not own and tokenizer.bos_token_id is None:
        raise HarnessError("add_bos: the tokeniser has no BOS token.")
    return tuple(own) if own else (int(tokenizer.bos_token_id),)


def _pad_id(tokenizer: Any, n_embeddings: int) -> int:
    """The tokeniser's pad id, else its EOS, else 0; an id that the model does not embed is passed over."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None and 0 <= candidate < n_embeddings:
            return int(candidate)
    return 0


def _short(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
