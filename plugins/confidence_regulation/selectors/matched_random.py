"""Random neurons that resemble another selector's choice: treated sets for null runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from harness.conditions import NEURONS
from harness.plugin import (
    AnySelector,
    HarnessError,
    Neuron,
    Selection,
    SelectionContext,
    Selector,
    border,
    by_layer,
    counted,
)

if TYPE_CHECKING:
    from harness.plugin import Prompt


class _MatchedRandom(Selector):
    """Base of the two selectors below."""

    site = "neurons"
    match: ClassVar[str]
    like: AnySelector = Field("entropy", validate_default=True, description="the selector whose choice they resemble")

    def reads_prompts(self) -> bool:
        return self.match == "activation" or self.like.reads_prompts()

    def has_seen(self, prompt: Prompt) -> bool:
        return self.like.has_seen(prompt)

    def select(self, context: SelectionContext) -> Selection:
        from harness.controls import balance, matched_sets, matching_values, pools

        original = border.select(self.like, context)
        chosen = [unit for unit in original.units if isinstance(unit, Neuron)]
        if len(chosen) < len(original.units):
            raise HarnessError(f"selector {self.name}: like must choose neurons; {self.like.name} chooses heads.")
        pool = pools(original, context.model)
        layers, batch_size = sorted(by_layer(chosen)), context.engine.batch_size
        values = matching_values(NEURONS, context.model, layers, self.match, context.prompts, batch_size)
        drawn = matched_sets(chosen, 1, pool, values, context.seed)
        details = balance(chosen, pool, drawn, values, self.match)
        return Selection(
            units=drawn[0],
            rule=f"{counted(len(chosen), 'random neuron')}, each one of the {details['neighbours']} of its "
            "layer that are nearest "
            f"to a neuron that {self.like.name} chooses ({details['variable']}), none of them chosen by it",
            details={"like": original.rule, "like_neurons": [str(neuron) for neuron in chosen], **details},
            pool=tuple(Neuron(layer, i) for layer, indices in pool.items() for i in indices),
        )


class NormMatchedRandom(_MatchedRandom):
    """Random neurons whose output weights are about as long as those of another selector's choice.

    As the treated set of a run they ask what large neurons do that nobody chose for anything else. Controls of such a
    run are drawn without the neurons that the other selector chose.
    """

    name = "norm_matched_random"
    match = "norm"


class ActivationMatchedRandom(_MatchedRandom):
    """Random neurons whose activations vary about as much as those of another selector's choice.

    The variation is the standard deviation over the task's prompts. Controls of such a run are drawn without the
    neurons that the other selector chose.
    """

    name = "activation_matched_random"
    match = "activation"
