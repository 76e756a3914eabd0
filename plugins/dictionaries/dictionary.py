"""A sparse autoencoder or transcoder: activations to latents and back, in float32.

    encode   z = f((norm(x) - b_dec) W_enc + b_enc)      f: ReLU, a gate, ReLU above a threshold, ReLU of the k largest
    decode   y = undo(z W_dec + b_dec) [+ x W_skip^T]    undo: what norm took from x is given back

x [..., d_in] is what the dictionary reads, z [..., d_sae] its latents, y [..., d_out] the reconstruction of what it
writes. b_dec is taken off where ``apply_b_dec_to_input`` says so; norm is none, or the activation's own mean and
deviation, or its length. An edit z -> z' moves what is written by

    (z' - z) W_dec * size(x)                             size: the deviation or the length, 1 without norm

and keeps what the dictionary does not reconstruct: x' = x + (z' - z) W_dec, where z' = z is x itself, bit by bit. The
step does not depend on the error y - x, nor on the bias or the skip connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float32

from harness.files.digests import files_digest
from harness.files.json import parse
from harness.plugin import HarnessError

from .configuration import Configuration, read_configuration
from .folders import Folder, find

if TYPE_CHECKING:
    from harness.plugin import Model

CENTRED = ("residual_before", "residual_after", "attention_out", "mlp_out")
"""Places where TransformerLens has another mean over d_model if it centres what is written (no reader sees it)."""

EPSILON = 1e-5
"""That SAELens adds to the deviation of a layer-normalised activation."""


@dataclass(frozen=True, eq=False)
class Dictionary:
    """What was read from a folder. Two are equal where files and ``centred`` are.

    Attributes:
        name: as the user gave it. digest: sha256 of both files. commit: on the hub.
        configuration: what ``cfg.json`` says.
        weights: float32; ``W_enc`` [d_in, d_sae], ``W_dec`` [d_sae, d_out], ``b_dec`` [d_out], and by architecture
            ``b_enc``, ``threshold``, ``b_gate``, ``b_mag``, ``r_mag`` [d_sae], ``W_skip`` [d_out, d_in]. What only
            scales latents is folded in.
        centred: of the residual stream, and of what is added to it, the mean over d_model is taken off.
    """

    name: str
    digest: str
    commit: str | None
    configuration: Configuration
    weights: Mapping[str, torch.Tensor] = field(repr=False)
    centred: bool = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dictionary) and (self.digest, self.centred) == (other.digest, other.centred)

    def __hash__(self) -> int:
        return hash((self.digest, self.centred))

    @property
    def W_dec(self) -> Float32[torch.Tensor, "d_sae d_out"]:
        """The decoder, a row a latent."""
        return self.weights["W_dec"]

    @cached_property
    def _moved(self) -> dict[torch.device, Mapping[str, torch.Tensor]]:
        return {}

    def on(self, device: torch.device) -> Mapping[str, torch.Tensor]:
        """The weights on a device; they stay there."""
        if device not in self._moved:
            self._moved[device] = {name: x.to(device) for name, x in self.weights.items()}
        return self._moved[device]

    def seen(self, x: torch.Tensor, place: str) -> Float32[torch.Tensor, "*place width"]:
        """Activations at a place as the dictionary was trained on them."""
        x = x.float()
        return x - x.mean(-1, keepdim=True) if self.centred and place in CENTRED else x

    def _normalised(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Activations as the encoder has them, and the mean and size [..., 1] that were taken off."""
        x = self.seen(x, self.configuration.reads)
        match self.configuration.normalisation:
            case "layer_norm":
                mean = x.mean(-1, keepdim=True)
                size = (x - mean).std(-1, keepdim=True)
                return (x - mean) / (size + EPSILON), mean, size
            case "constant_norm_rescale":
                size = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
                return x / size, None, size
        return x, None, None

    def size(self, read: torch.Tensor) -> Float32[torch.Tensor, "*place 1"] | None:
        """What a step of the decoder is multiplied by, given what is read [..., d_in]; None where that is 1."""
        if self.configuration.transcodes:  # another space than it reads: its own norm is not given back
            return None
        return self._normalised(read)[2]

    def encode(self, read: torch.Tensor) -> Float32[torch.Tensor, "*place d_sae"]:
        """Latents of activations [..., d_in]."""
        w, cfg = self.on(read.device), self.configuration
        x, _, _ = self._normalised(read)
        if cfg.subtracts:
            x = x - w["b_dec"]
        if cfg.architecture == "gated":
            on = x @ w["W_enc"] + w["b_gate"] > 0
            return torch.relu(x @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]) * on
        before = x @ w["W_enc"] + w["b_enc"]
        if cfg.architecture == "topk":
            values, places = before.topk(cfg.k, dim=-1)
            return torch.zeros_like(before).scatter(-1, places, values.relu())
        z = torch.relu(before)
        return z * (before > w["threshold"]) if cfg.architecture == "jumprelu" else z

    def decode(self, z: torch.Tensor, read: torch.Tensor) -> Float32[torch.Tensor, "*place d_out"]:
        """The reconstruction from latents [..., d_sae], of what was read [..., d_in]."""
        w, cfg = self.on(z.device), self.configuration
        y = z @ w["W_dec"] + w["b_dec"]
        if not cfg.transcodes:
            _, mean, size = self._normalised(read)
            y = y if size is None else y * size
            y = y if mean is None else y + mean
        return y + read.float() @ w["W_skip"].T if cfg.skip else y

    def step(self, before: torch.Tensor, after: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """By how much what is written changes where latents [..., d_sae] go from ``before`` to ``after``, [..., d_out];
        0 where they stay."""
        moved = (after != before).flatten(0, -2).any(0).nonzero()[:, 0]  # few of many latents
        change = after[..., moved].float() - before[..., moved]
        step, size = change @ self.on(change.device)["W_dec"][moved], self.size(read)
        return step if size is None else step * size

    def about(self) -> dict[str, Any]:
        """What records say of it; JSON values only."""
        cfg = self.configuration
        hooks = cfg.hooks[0] if not cfg.transcodes else " -> ".join(cfg.hooks)
        centred = "the mean over d_model taken off (center_writing_weights)"
        return {
            "name": self.name,
            "sha256": self.digest,
            "commit": self.commit,
            "architecture": cfg.said,
            "hook": hooks,
            "d_in": cfg.d_in,
            "d_sae": cfg.d_sae,
            "trained_on": cfg.model_name,
            "normalisation": cfg.normalisation,
            "activations": centred if self.centred else "as the model has them",
        }


def load(sae: str) -> Dictionary:
    """Read a dictionary (:func:`harness_plugins.dictionaries.folders.find`).

    Raises:
        HarnessError: there is none, its configuration is refused, or its tensors do not fit it.
    """
    folder = find(sae)
    text = folder.configuration.read_text(encoding="utf-8")
    content = parse(text, str(folder.configuration))
    if not isinstance(content, Mapping):
        raise HarnessError(f"{folder.configuration}: expected an object with the fields of a dictionary.")
    cfg = read_configuration(content, folder.configuration)
    weights = _folded(_checked(_tensors(folder), cfg, folder), cfg)
    digest = files_digest([folder.configuration, folder.weights])
    return Dictionary(sae, digest, folder.commit, cfg, weights, cfg.centred)


def _tensors(folder: Folder) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {name: x.float() for name, x in load_file(folder.weights).items()}
    except (SafetensorError, OSError) as error:
        raise HarnessError(f"{folder.weights}: this is no whole safetensors file ({error}).") from error


def _checked(found: dict[str, torch.Tensor], cfg: Configuration, folder: Folder) -> dict[str, torch.Tensor]:
    """The tensors of the architecture, each of the shape that the configuration says and finite."""
    one = (cfg.d_sae,)
    shapes = {"W_enc": (cfg.d_in, cfg.d_sae), "W_dec": (cfg.d_sae, cfg.d_out), "b_dec": (cfg.d_out,)}
    own = {"gated": ("b_gate", "b_mag", "r_mag"), "jumprelu": ("b_enc", "threshold")}
    shapes |= dict.fromkeys(own.get(cfg.architecture, ("b_enc",)), one)
    shapes |= {"W_skip": (cfg.d_out, cfg.d_in)} if cfg.skip else {}
    if "topk_threshold" in found:  # of a batch-top-k dictionary that was saved for further training
        found["threshold"] = found.pop("topk_threshold").expand(one)
    for name, shape in shapes.items():
        if name not in found:
            raise HarnessError(f"{folder.weights}: {name} is missing, which an architecture {cfg.said} has.")
        if tuple(found[name].shape) != shape:
            raise HarnessError(
                f"{folder.weights}: {name} has the shape {tuple(found[name].shape)}, where {folder.configuration.name} "
                f"says {shape}."
            )
        if not torch.isfinite(found[name]).all():
            raise HarnessError(f"{folder.weights}: {name} holds NaN or infinity.")
    if cfg.k > cfg.d_sae:
        raise HarnessError(f"{folder.configuration}: k is {cfg.k}, more than the {cfg.d_sae} latents.")
    kept = {name: found[name] for name in shapes}
    factor = found.get("scaling_factor", found.get("finetuning_scaling_factor"))
    return kept if factor is None else kept | {"W_dec": kept["W_dec"] * factor[:, None]}  # fine-tuned latents


def _folded(weights: dict[str, torch.Tensor], cfg: Configuration) -> dict[str, torch.Tensor]:
    """Latents in units of their decoder rows: W_enc and b_enc times the rows' lengths, rows of length 1."""
    if not cfg.rescaled:
        return weights
    length = weights["W_dec"].norm(dim=1)
    scaled = {"W_enc": weights["W_enc"] * length, "b_enc": weights["b_enc"] * length}
    return weights | scaled | {"W_dec": weights["W_dec"] / length[:, None]}


def check_fit(dictionary: Dictionary, model: Model, who: str) -> None:
    """Refuse a dictionary of another width or of a layer that the model does not have.

    Raises:
        HarnessError: names ``who``, both widths, or the layers that there are.
    """
    cfg, anatomy = dictionary.configuration, model.anatomy
    if cfg.layer >= anatomy.n_layers:
        raise HarnessError(
            f"{who}: {dictionary.name} is of layer {cfg.layer}, but {model.name} has layers 0 to "
            f"{anatomy.n_layers - 1}."
        )
    if {"attention_out", "heads"} & {cfg.reads, cfg.writes}:
        model.attention(cfg.layer)  # refuses a layer without
    heads = anatomy.n_heads * anatomy.d_head
    for place, width in ((cfg.reads, cfg.d_in), (cfg.writes, cfg.d_out)):
        own = heads if place == "heads" else anatomy.d_model
        if width != own:
            raise HarnessError(
                f"{who}: {dictionary.name} is of activations of width {width}, but {model.name} has {own} numbers "
                f"there ({' -> '.join(dict.fromkeys(cfg.hooks))}): it was trained on another model"
                + (f" ({cfg.model_name})." if cfg.model_name else ".")
            )
