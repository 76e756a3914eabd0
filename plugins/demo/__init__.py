"""The bundled model, which was trained by this repository (see README.md beside this file), and texts of its world."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from pydantic import Field

from harness import hookimpl
from harness.components import Corpus, ModelLoader

from .corpus import WorldTexts

if TYPE_CHECKING:
    from harness.model import Model


class Demo(ModelLoader):
    """The bundled model: small, offline, trained on a synthetic world; a model organism, not a good language model."""

    name = "demo"
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")

    def load(self) -> Model:
        from harness.loading import load_hf

        model = load_hf(str(files(__name__) / "weights"), device=self.device)
        model.name = self.name
        return model


@hookimpl
def harness_model_loaders() -> list[type[ModelLoader]]:
    return [Demo]


@hookimpl
def harness_corpora() -> list[type[Corpus]]:
    return [WorldTexts]
