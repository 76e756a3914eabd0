"""The bundled models, which were trained by this repository (see the README.md files), and texts of their world."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from harness.plugin import Corpus, ModelLoader, hookimpl

from .corpus import WorldTexts
from .tuned import REFUSAL

if TYPE_CHECKING:
    from harness.plugin import Model


class Demo(ModelLoader):
    """The bundled model: small, offline, trained on a synthetic world; a model organism, not a good language model."""

    name = "demo"
    corpus = "world"
    labelled: ClassVar[dict[str, str]] = {
        kind: str(files(__name__) / "tuned" / "data" / f"{kind}.jsonl") for kind in ("truthfulness", "refusal")
    }
    refusals = (REFUSAL,)
    folder: ClassVar[str] = "weights"
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")

    @classmethod
    def is_at(cls, path: str) -> bool:
        return Path(path).resolve() == Path(str(files(__name__).joinpath(cls.folder))).resolve()

    def load(self) -> Model:
        from harness.model import load_hf

        return load_hf(str(files(__name__).joinpath(self.folder)), device=self.device, name=self.name)


class DemoTuned(Demo):
    """The bundled model after further training: it follows its context, and refuses what is marked as confidential."""

    name = "demo-tuned"
    folder = "tuned/weights"


@hookimpl
def harness_model_loaders() -> list[type[ModelLoader]]:
    return [Demo, DemoTuned]


@hookimpl
def harness_corpora() -> list[type[Corpus]]:
    return [WorldTexts]
