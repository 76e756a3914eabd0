"""The selector of directions that were computed elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from harness.plugin import (
    AnyLayers,
    Direction,
    HarnessError,
    InputFile,
    Selection,
    SelectionContext,
    Selector,
    Source,
    Unit,
    counted,
    layers_in,
)

if TYPE_CHECKING:
    from harness.plugin import Model

POOL = {True: 999, False: 200}
"""Random directions after each layer that controls are drawn from: of one layer, of several."""


class Directions(Selector):
    """Directions of a file: control vectors (repeng, llama.cpp), steering vectors (CAA), refusal directions.

    A file holds one direction, which ``layers`` says the layers of, or one a layer. Formats: safetensors; GGUF control
    vectors; .pt and .pth, of which tensors are read and nothing else. A direction of layer N belongs to the residual
    stream after layer N, counted from 0, as in these packages.

    Controls are random directions after the same layers, as long as those of the file: they say whether any push of
    that length does it, and not whether any direction that was computed from such texts does.
    """

    name = "directions"
    site = "directions"
    path: Annotated[Source, InputFile()] = Field(description="file of directions: .safetensors, .gguf, .pt, .pth")
    layers: AnyLayers | None = Field(
        None, description="after which layers (12, 8-12, [8-12,15]); default: all that the file has directions of"
    )
    normalise: bool = Field(False, description="unit length, instead of the file's")
    control: Literal["isotropic", "orthogonal"] = Field(
        "isotropic", description="controls: random directions, or random directions orthogonal to the layer's own"
    )

    def reads_prompts(self) -> bool:
        return False

    def check(self, model: Model) -> None:
        self._read(model)

    def _read(self, model: Model) -> tuple[str, dict[int, np.ndarray], list[int]]:
        """The file's format, its vectors by layer, and the layers that are chosen.

        Raises:
            HarnessError: the file does not fit the model, or has no direction of a layer that is asked for.
        """
        from .analysis.direction_files import read_directions

        who, n_layers = f"selector {self.name}", model.anatomy.n_layers
        found = read_directions(Path(self.path), n_layers, model.anatomy.d_model)
        asked = None if self.layers is None else layers_in(self.layers, n_layers, f"{who}: layers")
        if found.single is not None:
            if asked is None:
                raise HarnessError(
                    f"{who}: {Path(self.path).name} holds one direction and not the layer that it is of: give "
                    "layers=N, counted from 0."
                )
            vectors = dict.fromkeys(asked, found.single)
        else:
            vectors = dict(found.by_layer)
        missing = sorted(set(asked or ()) - vectors.keys())
        if missing:
            raise HarnessError(
                f"{who}: {Path(self.path).name} has no direction of layer {missing[0]}; it has those of "
                f"{', '.join(map(str, vectors))}."
            )
        if self.normalise:
            vectors = {layer: vector / np.linalg.norm(vector) for layer, vector in vectors.items()}
        return found.format, vectors, asked or list(vectors)

    def select(self, context: SelectionContext) -> Selection:
        format_, vectors, chosen = self._read(context.model)
        rng = np.random.default_rng(context.seed)
        pool: dict[Unit, np.ndarray] = {}
        for layer in chosen:
            for i, drawn in enumerate(self._random(vectors[layer], POOL[len(chosen) == 1], rng), 1):
                pool[Direction(layer, i)] = drawn
        own: dict[Unit, np.ndarray] = {Direction(layer, 0): vector for layer, vector in vectors.items()}
        where = f"layer {chosen[0]}" if len(chosen) == 1 else f"layers {', '.join(map(str, chosen))}"
        return Selection(
            units=tuple(Direction(layer, 0) for layer in chosen),
            rule=f"{counted(len(chosen), 'direction')} of the file {Path(self.path).name} ({format_}), after {where}"
            f"{', of unit length' if self.normalise else ''}",
            candidates=tuple(own),
            scores={"norm": np.array([np.linalg.norm(vector) for vector in own.values()])},
            details={"format": format_, "controls": self.control},
            pool=tuple(pool),
            vectors=own | pool,
        )

    def _random(self, vector: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """Random directions as long as the vector [n, d_model]."""
        drawn = rng.normal(size=(n, len(vector)))
        if self.control == "orthogonal":
            drawn -= np.outer(drawn @ vector, vector) / (vector @ vector)
        found: np.ndarray = drawn * (np.linalg.norm(vector) / np.linalg.norm(drawn, axis=1, keepdims=True))
        return found
