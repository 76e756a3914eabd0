"""Neurons of a model on one's own texts: what they do, and what changes without them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.conditions.conditions import BASELINE, Condition, Neuron, SetNeurons
from harness.errors import HarnessError

if TYPE_CHECKING:
    import pandas as pd

    from harness.model.model import Model


def activations(model: Model, texts: str | Sequence[str], layer: int = -1) -> pd.DataFrame:
    """The activations of a layer's neurons at every token.

    Args:
        layer: from the last one on backwards where it is negative.

    Returns:
        a row a token, by ``text`` (its number), ``position`` and ``token``; a float32 column for each of the d_mlp
        neurons, by name ("3.7").

    Raises:
        HarnessError: there is no such layer, or a text is empty.
    """
    import pandas as pd

    from harness.engine.activation_capture import activations as captured

    prompts, neurons = _encoded(model, texts), _neurons_of(model, layer)
    found = captured(model, prompts, [BASELINE], neurons)[0]  # [d_mlp, n_prompts, longest]
    places = [(i, place) for i, tokens in enumerate(prompts) for place in range(len(tokens))]
    rows, columns = np.array(places).T
    words = [model.token_texts[prompts[i][place]] for i, place in places]
    index = pd.MultiIndex.from_arrays([rows, columns, words], names=["text", "position", "token"])
    return pd.DataFrame(found[:, rows, columns].T, index, [str(neuron) for neuron in neurons])


def ablations(
    model: Model,
    texts: str | Sequence[str],
    neurons: str | Neuron | Sequence[str | Neuron] | None = None,
    layer: int = -1,
    value: float = 0.0,
) -> pd.DataFrame:
    """What the model predicts when single neurons are held at a value, each by itself, at all positions.

    Args:
        neurons: ``"3.7"``, or several; None: all of ``layer``.

    Returns:
        a row a neuron and predicted token (the second of each text and those after it): ``neuron``, ``text``,
        ``position``, ``token``, its ``loss`` and the ``entropy`` before it under the ablation, in nats, with
        ``loss_change`` and ``entropy_change`` from the untouched model, and its ``rank`` (0: the most likely one).

    Raises:
        HarnessError: there is no such neuron or layer, or a text is empty.
    """
    import pandas as pd

    from harness.engine.closed_form import ClosedFormEngine

    prompts, held = _encoded(model, texts), _chosen(model, neurons, layer)
    edited = [Condition(str(unit), (SetNeurons(unit.layer, (unit.index,), (value,)),)) for unit in held]
    scores = ClosedFormEngine(model).score(prompts, [BASELINE, *edited])
    n, t = len(held), len(scores.prompt)
    words = [model.token_texts[prompts[i][place]] for i, place in zip(scores.prompt, scores.position, strict=True)]
    return pd.DataFrame(
        {
            "neuron": pd.Series(np.repeat([str(unit) for unit in held], t), dtype="string"),
            "text": np.tile(scores.prompt, n),
            "position": np.tile(scores.position, n),
            "token": pd.Series(words * n, dtype="string"),
            "loss": scores.loss[1:].ravel(),
            "loss_change": (scores.loss[1:] - scores.loss[0]).ravel(),
            "entropy": scores.entropy[1:].ravel(),
            "entropy_change": (scores.entropy[1:] - scores.entropy[0]).ravel(),
            "rank": scores.rank[1:].ravel(),
        }
    )


def _encoded(model: Model, texts: str | Sequence[str]) -> list[list[int]]:
    return model.encode([texts] if isinstance(texts, str) else texts)


def _chosen(model: Model, neurons: str | Neuron | Sequence[str | Neuron] | None, layer: int) -> list[Neuron]:
    if neurons is None:
        return _neurons_of(model, layer)
    several = [neurons] if isinstance(neurons, str | Neuron) else neurons
    return [unit if isinstance(unit, Neuron) else Neuron.parse(unit) for unit in several]


def _neurons_of(model: Model, layer: int) -> list[Neuron]:
    n_layers = model.anatomy.n_layers
    if not -n_layers <= layer < n_layers:
        raise HarnessError(f"layer: expected {-n_layers} to {n_layers - 1}, got {layer}.")
    return [Neuron(layer % n_layers, i) for i in range(model.anatomy.d_mlp)]
