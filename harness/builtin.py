"""Components that belong to no paper: the Hugging Face loader, explicit and random selections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, field_validator

from harness import hookimpl
from harness.components import Intervention, ModelLoader, SelectionContext, Selector
from harness.conditions import Neuron, Selection
from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.conditions import Edit, Unit
    from harness.model import Model


class HuggingFace(ModelLoader):
    """A causal language model of the Hugging Face hub or of a local folder."""

    name = "hf"
    pretrained: str = Field(min_length=1, description="hub id (openai-community/gpt2) or folder")
    revision: str | None = Field(None, description="branch, tag or commit")
    tokenizer: str | None = Field(None, description="hub id or folder of the tokenizer; default: the model's")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field("float32", description="of the forward pass")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    device_map: str | None = Field(None, description="auto: spread the model over the devices (needs accelerate)")
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = Field(
        None, description="attention code"
    )
    add_bos: bool | None = Field(None, description="begin prompts with the BOS token; default: as the tokenizer does")
    trust_remote_code: bool = Field(False, description="run code that comes with the model: only if you trust it")
    allow_pickle: bool = Field(False, description="load weights that are no safetensors: only if you trust them")

    def load(self) -> Model:
        from harness.loading import load_hf

        return load_hf(self.pretrained, **self.model_dump(exclude={"pretrained"}))


def resolve_layer(layer: int, n_layers: int, owner: str) -> int:
    """A layer counted from the front, or from the back when negative (-1 is the last).

    Raises:
        HarnessError: the model has no such layer.
    """
    if not -n_layers <= layer < n_layers:
        raise HarnessError(
            f"{owner}: layer {layer} does not exist; the model has {n_layers} layers (0 to {n_layers - 1})."
        )
    return layer % n_layers


def check_top(top: int, available: int, owner: str) -> None:
    """Refuse to choose more neurons than there are."""
    if top > available:
        raise HarnessError(f"{owner}: top={top} neurons were asked for, but only {available} exist in the layer.")


class Random(Selector):
    """Neurons drawn at random from one layer: what a selection that knows nothing would do."""

    name = "random"
    top: int = Field(6, ge=1, description="number of neurons")
    layer: int = Field(-1, description="layer; negative counts from the last")

    def select(self, context: SelectionContext) -> Selection:
        anatomy = context.model.anatomy
        layer = resolve_layer(self.layer, anatomy.n_layers, "selector random")
        check_top(self.top, anatomy.d_mlp, "selector random")
        rng = np.random.default_rng(context.seed)
        drawn = np.sort(rng.choice(anatomy.d_mlp, self.top, replace=False))
        return Selection(
            neurons=tuple(Neuron(layer, int(index)) for index in drawn),
            rule=f"{self.top} of the {anatomy.d_mlp} neurons of layer {layer}, drawn uniformly at random",
        )


class Neurons(Selector):
    """An explicit list of neurons, such as [11.584, 11.2378]."""

    name = "neurons"
    neurons: tuple[str, ...] = Field(min_length=1, description="layer.index of every neuron")

    @field_validator("neurons", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        items = value.split("+") if isinstance(value, str) else value
        if isinstance(items, list | tuple):
            for item in items:
                if not isinstance(item, str):
                    raise ValueError(f"write the neuron as text (layer.index), not as the number {item!r}")
                try:
                    Neuron.parse(item)
                except HarnessError as error:
                    raise ValueError(str(error)) from error
        return items

    def select(self, context: SelectionContext) -> Selection:
        chosen = tuple(Neuron.parse(text) for text in self.neurons)
        return Selection(neurons=chosen, rule=f"the {len(chosen)} neurons named by the user")


class Nothing(Intervention):
    """Edits nothing; what tasks that only look at neurons run under."""

    name = "none"
    needs_statistics = False

    def edits(self, neurons: Sequence[Unit], statistics: object) -> tuple[Edit, ...]:
        return ()


@hookimpl
def harness_model_loaders() -> list[type[ModelLoader]]:
    return [HuggingFace]


@hookimpl
def harness_selectors() -> list[type[Selector]]:
    return [Random, Neurons]


@hookimpl
def harness_interventions() -> list[type[Intervention]]:
    return [Nothing]
