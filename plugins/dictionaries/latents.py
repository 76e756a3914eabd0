"""Latents of a dictionary as units: ``S12.4071`` is latent 4071 of a dictionary of layer 12."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np

from harness.plugin import HarnessError, Site, Unit

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from harness.plugin import Model

    from .dictionary import Dictionary


class Latents(Site):
    """The latents of one dictionary in one model.

    Edits in the last layer are evaluated in closed form where the decoder writes linearly into the final residual: of
    dictionaries of the residual stream after the layer and of the MLP's output whose activations are not normalised.
    """

    name = "latents"

    def __init__(self, dictionary: Dictionary, model: Model) -> None:
        self.dictionary = dictionary
        self.factor = _into_residual(dictionary, model)

    @property
    def enters(self) -> Literal["residual"] | None:  # type: ignore[override]  # it depends on the dictionary
        return None if self.factor is None else "residual"

    def count(self, model: Model, layer: int) -> int:
        cfg = self.dictionary.configuration
        return cfg.d_sae if layer == cfg.layer else 0

    def at(self, model: Model, layer: int, index: int) -> Latent:
        return Latent(layer, index, self)

    def capture(self, model: Model, layers: Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        from .access import captured

        self._check(*layers)
        return captured(model, self.dictionary)

    def edit(
        self, model: Model, layer: int, change: Callable[[torch.Tensor], torch.Tensor]
    ) -> AbstractContextManager[None]:
        from .access import edited

        self._check(layer)
        return edited(model, self.dictionary, change)

    def written(self, model: Model, layer: int, indices: Sequence[int] | None = None) -> torch.Tensor:
        """Rows of the decoder, times Granite's multiplier of what an MLP writes."""
        self._check(layer)
        if self.factor is None:
            return super().written(model, layer, indices)
        rows = self.dictionary.W_dec if indices is None else self.dictionary.W_dec[list(indices)]
        return rows * self.factor

    def matching(
        self, model: Model, layers: Sequence[int], match: str, prompts: Sequence[Sequence[int]], batch_size: int
    ) -> dict[int, np.ndarray]:
        """The share of the prompts' tokens (but the first of each) at which a latent is active, or its decoder row's
        norm."""
        from .reading import read_latents

        self._check(*layers)
        if match == "norm":
            found = self.dictionary.W_dec.norm(dim=1).double().numpy()
        elif match == "density":
            if not prompts:
                raise HarnessError("controls matched by density need prompts to measure activations over.")
            found = read_latents(model, self.dictionary, prompts, "last", False, batch_size).density
        else:
            return super().matching(model, layers, match, prompts, batch_size)
        return {layer: found for layer in layers}

    def _check(self, *layers: int) -> None:
        own = self.dictionary.configuration.layer
        if any(layer != own for layer in layers):
            raise HarnessError(f"{self.dictionary.name} is of layer {own}, and has no latents of layer {layers[0]}.")


def _into_residual(dictionary: Dictionary, model: Model) -> float | None:
    """What a decoder row is multiplied by on its way into the residual stream after the layer; None: no linear way."""
    cfg, anatomy = dictionary.configuration, model.anatomy
    if not cfg.transcodes and cfg.normalisation != "none":
        return None
    if cfg.writes == "residual_after":
        return 1.0
    behind = anatomy.post_mlp_norms[cfg.layer] is not None
    if cfg.writes == "mlp_out" and (behind or anatomy.direct_write or anatomy.residual_multiplier != 1.0):
        return anatomy.residual_multiplier
    return None


@dataclass(frozen=True, order=True)
class Latent(Unit):
    """One latent of a sparse autoencoder or transcoder, written ``S12.4071``: layer 12, latent 4071.

    Which dictionary is meant is no part of the name: :attr:`where` has it, and records say it beside the selection. A
    unit that was read back from its name has none.
    """

    where: Latents = field(default=None, compare=False, repr=False)  # type: ignore[assignment]

    word = "latent"
    site = "latents"
    written = re.compile(r"S(\d+)\.(\d+)")
    form = "S, layer, a dot, index, for example S12.4071"
    variables: ClassVar[Mapping[str, str]] = {
        "density": "log share of tokens at which it is active",
        "norm": "log norm of the decoder row",
        "activation": "log standard deviation of the activation over the prompts",
    }

    def __str__(self) -> str:
        return f"S{self.layer}.{self.index}"

    def beside(self, layer: int, index: int) -> Self:
        return type(self)(layer, index, self.where)
