"""A third-party plugin of one file: a selector, a metric and a command."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer
from pydantic import Field

from harness.plugin import Measurement, Metric, Neuron, Outcomes, Selection, SelectionContext, Selector, hookimpl


class Loudest(Selector):
    """The neurons of the last layer with the largest output weights."""

    name = "loudest"
    top: int = Field(3, ge=1, description="number of neurons")

    def reads_prompts(self) -> bool:
        return False  # it looks at weights alone

    def select(self, context: SelectionContext) -> Selection:
        layer = context.model.anatomy.n_layers - 1
        norms = context.model.w_out(layer).norm(dim=1).cpu().numpy()
        return Selection(
            units=tuple(Neuron(layer, int(index)) for index in np.argsort(-norms, kind="stable")[: self.top]),
            rule=f"the {self.top} largest output weights of layer {layer}",
            candidates=tuple(Neuron(layer, index) for index in range(len(norms))),
            scores={"norm": norms},
        )


class Confident(Metric):
    """How many answers begin with a distribution of low entropy."""

    name = "confident"
    below: float = Field(1.0, gt=0, description="entropy in nats")

    def measure(self, outcomes: Outcomes) -> Measurement:
        from harness.plugin import Measure

        confident = outcomes["entropy"] < self.below
        return Measurement(
            (
                Measure(
                    name="confident",
                    title=f"answers with entropy below {self.below:g} nats",
                    unit="%",
                    numerator=confident.astype(float),
                    denominator=np.ones(confident.shape),
                    scale=100.0,
                    primary=True,
                    description="share of prompts",
                ),
            )
        )


@hookimpl
def harness_selectors() -> list[type[Selector]]:
    return [Loudest]


@hookimpl
def harness_metrics() -> list[type[Metric]]:
    return [Confident]


def norms(n: Annotated[int, typer.Option(min=1, help="How many neurons.")] = 3) -> None:
    """Print the largest output weights of the bundled model's last layer."""
    import harness

    model = harness.load_model("demo")
    norms = model.w_out(model.anatomy.n_layers - 1).norm(dim=1)
    for norm, index in zip(*norms.topk(n), strict=True):
        print(f"{Neuron(model.anatomy.n_layers - 1, int(index))} {norm:.3f}")
