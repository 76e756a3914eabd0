"""One sentence, once through the model: what all attributions of its next token are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from harness.model import InputWeights, read_in
from harness.plugin import HarnessError, Model, counted

from ..analysis.all_positions import run_positions
from ..analysis.attention_neurons import AttentionNeuron, Sources, sources
from ..analysis.head_outputs import Output
from ..analysis.last_position import LastPosition, check_residual_stream, neuron_writes
from ..analysis.query_scores import Value, ValueKeys, neuron_value


@dataclass(frozen=True, eq=False)
class Sentence:
    """A sentence of T tokens that the model has read, and the token whose probability is attributed.

    Attributes:
        tokens: with what the model puts first. outputs, keys: how heads write and attention neurons read, by layer.
        group: what the pass has left: a group of one prompt.
    """

    model: Model
    text: str
    tokens: tuple[int, ...]
    outputs: tuple[Output, ...]
    keys: ValueKeys
    group: Sources
    _ffn: dict[int, tuple[InputWeights, torch.Tensor]] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, model: Model, text: str) -> Sentence:
        """Pass a sentence through the model; the target is the model's own prediction.

        Raises:
            HarnessError: the sentence is empty or too long, or the model has no such decomposition (a norm stands on
                its residual stream, it gives no attention patterns, ...).
        """
        if not text.strip():
            raise HarnessError('attribute: the sentence is empty; give one, for example "The capital of France is".')
        check_residual_stream(model)
        if model.expert_layers:
            raise HarnessError(
                f"attribute: layer {model.expert_layers[0]} of {model.name} is a mixture of experts, which sentences "
                "are not attributed in; the selector value_neurons ranks neurons of experts."
            )
        tokens = tuple(model.encode([text])[0])
        if model.n_positions is not None and len(tokens) > model.n_positions:
            raise HarnessError(
                f"attribute: the sentence has {counted(len(tokens), 'token')}, but {model.name} has "
                f"{counted(model.n_positions, 'position')}."
            )
        layers = range(model.anatomy.n_layers)
        outputs = tuple(Output.of(model, layer) for layer in layers)
        keys = ValueKeys(model)
        group = next(sources(model, outputs, [tokens], 1, [*model.anatomy.layers, *keys.reads]))
        return cls(model, text, tokens, outputs, keys, group)

    def aimed_at(self, target: int) -> Sentence:
        """The same with another target."""
        states = replace(self.states, target=torch.full_like(self.states.target, target))
        return replace(self, group=replace(self.group, seen=replace(self.group.seen, states=states)))

    @property
    def states(self) -> LastPosition:
        """The last position."""
        return self.group.seen.states

    @property
    def target(self) -> int:
        return int(self.states.target[0])

    @property
    def layers(self) -> Sequence[int]:
        return range(self.model.anatomy.n_layers)

    def into(self, layer: int) -> torch.Tensor:
        """The residual stream that enters a layer, at every position, [T, d_model]."""
        return self.group.seen.inputs[self.model.anatomy.layers[layer]][0]

    def neurons(self, layer: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of a layer's MLP at every position: directions [d_mlp, d_model] and activations [T, d_mlp] of its neurons,
        and all that it wrote [T, d_model]."""
        return neuron_writes(self.model, layer, self.group.seen.neurons[layer][0])

    def ffn_input(self, layer: int) -> tuple[InputWeights, torch.Tensor]:
        """How the neurons of a layer read, and what they read at the last position, before the norm on the way
        [d_model]; found when it is first asked for, which takes a few passes.

        Raises:
            HarnessError: the layer's input weights are not found.
        """
        if layer not in self._ffn:
            reading = read_in(self.model, layer)
            module = reading.norm.module or reading.projection
            self._ffn[layer] = reading, run_positions(self.model, [self.tokens], [module]).inputs[module][0, -1]
        return self._ffn[layer]

    def ffn_value(self, layer: int, index: int, increase: float) -> Value:
        """An FFN neuron as a value neuron."""
        return neuron_value(*self.ffn_input(layer), index, increase)

    def attention_value(self, neuron: AttentionNeuron) -> Value:
        """An attention neuron as a value neuron."""
        return self.keys.value(self.group, 0, neuron)
