"""What a dictionary's ``cfg.json`` says: its kind, its sizes, and which activations it was trained on.

SAELens has written two formats. Up to its version 5 everything stands at the top; since 6 what concerns the language
model is under ``metadata``, and top-k is an architecture and no longer an activation function. Both are read, and what
an older file leaves out has the value that it had then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from harness.plugin import HarnessError, suggest

Architecture = Literal["standard", "gated", "jumprelu", "topk"]
"""How latents follow from pre-activations: ReLU, a gate and a magnitude, ReLU above a threshold, the k largest."""

KINDS: dict[str, tuple[Architecture, bool, bool]] = {
    **{kind: (kind, False, False) for kind in get_args(Architecture)},
    # Trained with the k largest of a batch, used with the threshold that these had on average.
    "batchtopk": ("jumprelu", False, False),
    "matryoshka_batchtopk": ("jumprelu", False, False),
    "transcoder": ("standard", True, False),
    "skip_transcoder": ("standard", True, True),
    "jumprelu_transcoder": ("jumprelu", True, False),
    "jumprelu_skip_transcoder": ("jumprelu", True, True),
}
"""SAELens's names of architectures: the encoder, whether it is a transcoder, whether it has a skip connection."""

NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")
"""What is done to activations before they are encoded, and undone behind the decoder."""

HOOKS = {
    "hook_resid_pre": "residual_before",
    "hook_resid_post": "residual_after",
    "hook_attn_out": "attention_out",
    "attn.hook_z": "heads",
    "hook_mlp_out": "mlp_out",
    "ln2.hook_normalized": "mlp_in",
}
"""TransformerLens's names of what the harness can read (:data:`harness.model.places.PLACES`)."""

WRITTEN = tuple(hook for hook, place in HOOKS.items() if place != "mlp_in")
"""Those that can be edited, too."""

_HOOK = re.compile(r"blocks\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Configuration:
    """What a dictionary is, and where it stands.

    Attributes:
        said: the architecture as the file names it. architecture: of the encoder.
        layer: of both hook points, from 0. reads, writes: the places (:data:`HOOKS`) that latents are computed from and
            that the decoder reconstructs; the same but for transcoders.
        d_in, d_sae, d_out: widths of what is read, of the latents, of what is reconstructed.
        k: of the k largest. rescaled: latents count in units of their decoder rows, W_dec / ||W_dec||.
        subtracts: the decoder's bias is taken off before the encoder. skip: W_skip times what is read is added.
        normalisation: one of :data:`NORMALISATIONS`.
        centred: trained on residual streams whose mean over d_model is taken off (TransformerLens's
            ``center_writing_weights``, of models with LayerNorm).
        hooks: names of both hook points. model_name: as the file has it; not compared with the model's.
        version: of SAELens, where it says so.
    """

    said: str
    architecture: Architecture
    layer: int
    reads: str
    writes: str
    d_in: int
    d_sae: int
    d_out: int
    k: int = 0
    rescaled: bool = False
    subtracts: bool = False
    skip: bool = False
    normalisation: str = "none"
    centred: bool = False
    hooks: tuple[str, str] = ("", "")
    model_name: str | None = None
    version: str | None = field(default=None, compare=False)

    @property
    def transcodes(self) -> bool:
        """Whether it reconstructs something else than it reads."""
        return self.reads != self.writes


def read_configuration(content: Mapping[str, Any], file: Path) -> Configuration:
    """What a ``cfg.json`` says.

    Args:
        file: that errors name.

    Raises:
        HarnessError: something is missing, is no value that SAELens writes, or cannot be done here.
    """
    given = {**content, **_mapping(content, "metadata", file)}
    said = _architecture(given, file)
    architecture, transcodes, skip = KINDS[said]
    read = _first(given, ("hook_name", "hook_point"), file)
    written = _first(given, ("hook_name_out", "hook_point_out"), file) if transcodes else read
    layer, reads = _hook(read, HOOKS, "hook_name", file)
    there, writes = _hook(written, WRITTEN, "hook_name_out" if transcodes else "hook_name", file)
    if layer != there:
        raise HarnessError(
            f"{file}: it reads layer {layer} ({read}) and writes layer {there} ({written}): transcoders of one layer "
            "can be read."
        )
    for key in ("hook_head_index", "hook_point_head_index", "hook_head_index_out"):
        if given.get(key) is not None:
            raise HarnessError(f"{file}: {key} is {given[key]}: dictionaries of a single head are not supported.")
    d_in = _count(given, "d_in", file)
    options = _mapping(given, "model_from_pretrained_kwargs", file)
    if options.get("fold_ln") and "mlp_in" in (reads, writes):
        raise HarnessError(
            f"{file}: it was trained where the norm's gain was folded into the MLP (fold_ln), on activations that the "
            "model does not have: fold the gain into W_enc first."
        )
    return Configuration(
        said=said,
        architecture=architecture,
        layer=layer,
        reads=reads,
        writes=writes,
        d_in=d_in,
        d_sae=_count(given, "d_sae", file),
        d_out=_count(given, "d_out", file) if transcodes else d_in,
        k=_k(given, file) if architecture == "topk" else 0,
        rescaled=bool(given.get("rescale_acts_by_decoder_norm", False)),
        subtracts=bool(given.get("apply_b_dec_to_input", True)) and not transcodes,
        skip=skip,
        normalisation=_normalisation(given, file),
        centred=bool(options.get("center_writing_weights", False)),
        hooks=(str(read), str(written)),
        model_name=str(given["model_name"]) if given.get("model_name") else None,
        version=str(given["sae_lens_version"]) if given.get("sae_lens_version") else None,
    )


def _architecture(given: Mapping[str, Any], file: Path) -> str:
    """The architecture; files before SAELens 6 say the k largest, and nothing else, with an activation function."""
    said = given.get("architecture", "standard")
    activation = given.get("activation_fn", given.get("activation_fn_str", "relu"))
    if activation == "topk":
        return "topk"
    _one_of(said, KINDS, "architecture", file)
    if activation != "relu":
        raise HarnessError(f'{file}: activation_fn is "{activation}": expected relu or topk.')
    return str(said)


def _k(given: Mapping[str, Any], file: Path) -> int:
    older = _mapping(given, "activation_fn_kwargs", file)
    return _count(given if "k" in given else older, "k", file)


def _normalisation(given: Mapping[str, Any], file: Path) -> str:
    said = given.get("normalize_activations")
    if isinstance(said, bool) or said is None:
        said = "expected_average_only_in" if said else "none"
    if said in ("expected_average_only_in", "covariance_whitening"):
        raise HarnessError(
            f"{file}: normalize_activations is {said}, which depends on activations that the folder does not hold; "
            "save the dictionary with it folded into its weights, as SAELens does at the end of a training."
        )
    return _one_of(said, NORMALISATIONS, "normalize_activations", file)


def _hook(said: Any, known: Iterable[str], key: str, file: Path) -> tuple[int, str]:
    """Layer and place of a hook point."""
    match = _HOOK.fullmatch(str(said))
    if match is None or match[2] not in known:
        near = suggest(match[2] if match else str(said), known)
        raise HarnessError(
            f'{file}: {key} is "{said}": expected blocks.N. and one of {", ".join(known)}, for example '
            f"blocks.5.hook_resid_post.{near}"
        )
    return int(match[1]), HOOKS[match[2]]


def _first(given: Mapping[str, Any], keys: tuple[str, ...], file: Path) -> Any:
    for key in keys:
        if given.get(key) is not None:
            return given[key]
    raise HarnessError(f"{file}: {keys[0]} is missing: it says which activations the dictionary is of.")


def _mapping(given: Mapping[str, Any], key: str, file: Path) -> Mapping[str, Any]:
    found = given.get(key)
    if not (found is None or isinstance(found, Mapping)):
        raise HarnessError(f"{file}: {key} is {found!r}: expected an object.")
    return found or {}


def _count(given: Mapping[str, Any], key: str, file: Path) -> int:
    found = given.get(key)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise HarnessError(f"{file}: {key} is {found!r}: expected a whole number above 0.")
    return found


def _one_of(said: Any, known: Iterable[str], key: str, file: Path) -> str:
    if said not in tuple(known):
        raise HarnessError(f'{file}: {key} is "{said}": expected one of {", ".join(known)}.{suggest(str(said), known)}')
    return str(said)
