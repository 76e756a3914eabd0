"""Planted models: small random transformers in which known neurons, or heads, have a known effect on a task's answers.

They say of a selector what no real model can: how many of the units that it names have an effect (false discoveries),
and how many of those that have one it finds, by their strength (power). ``build``: the construction; ``world``: the
language; ``task``: what is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from harness.plugin import Corpus, Head, ModelLoader, Neuron, Task, hookimpl

from .task import PlantedAnswer
from .world import PlantedTexts

if TYPE_CHECKING:
    from harness.plugin import Model


class Planted(ModelLoader):
    """A small random transformer, drawn by a seed, in which some units raise the answer by a known number of nats.

    Four layers of 128 neurons. Of these 12 raise the answers' logits after a cue, three each by 0.4, 0.2, 0.1 and 0.05
    nats (``strong``: how many each). Others are planted without effect on the answer, and mislead: six are as active at
    cues and write nothing, six write the answer and are never active, eight are active at letters of one group.
    """

    name = "planted"
    corpus = "planted_texts"
    seed: int = Field(0, ge=0, description="of everything that is drawn: weights, places, which answer is whose")
    strong: int = Field(3, ge=1, le=20, description="units of every strength; of heads at most 8")
    noise: float = Field(0.01, ge=0, le=1, description="what other neurons write, by dimension (standard deviation)")
    later = frozenset({"units"})
    units: Literal["neurons", "heads"] = Field("neurons", description="what is planted")

    @model_validator(mode="after")
    def _leaves_others(self) -> Planted:
        if self.units == "heads" and self.strong > 8:
            raise ValueError(
                f"units=heads goes with strong up to 8, or few others are left to compare; got {self.strong}"
            )
        return self

    def planted(self) -> dict[str, float]:
        from .build import places

        kind, found = Neuron if self.units == "neurons" else Head, places(self.seed, self.strong, self.units)
        return {str(kind(*at)): strength for at, strength in sorted(found.answer.items())}

    def load(self) -> Model:
        from harness.model import wrap

        from .build import build
        from .world import tokenizer

        return wrap(build(self.seed, self.strong, self.noise, self.units), tokenizer(), self.name)


@hookimpl
def harness_model_loaders() -> list[type[ModelLoader]]:
    return [Planted]


@hookimpl
def harness_corpora() -> list[type[Corpus]]:
    return [PlantedTexts]


@hookimpl
def harness_tasks() -> list[type[Task]]:
    return [PlantedAnswer]
