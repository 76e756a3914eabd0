"""What selectors measure on text: sequences of a corpus, and the effects of every neuron of the last layer on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.plugin import Corpus, HarnessError, SelectionContext, counted, mlp_site

if TYPE_CHECKING:
    from harness.effects import Kind
    from harness.plugin import Model

RESULT_BYTES = 2**29
"""Memory for the effects of some neurons on every token; more neurons are done in several turns."""


@dataclass(frozen=True)
class Text:
    """Sequences of the selection half of a corpus, and what is said of them in a selection's rule."""

    tokens: list[tuple[int, ...]]
    said: str


def text(
    context: SelectionContext, corpus: Corpus, sequences: int, length: int, across_documents: bool, seed: int
) -> Text:
    """Sequences of documents that no task evaluates on (part "select")."""
    from harness.data import sequences as draw

    found = draw(context.model, corpus, sequences, length, seed, part="select", across_documents=across_documents)
    return Text(
        [x.tokens for x in found],
        f"{counted(len(found), 'sequence')} of {counted(length, 'token')} of the corpus {corpus.name}",
    )


@dataclass(frozen=True)
class Swept:
    """Effects of mean ablation of each neuron by itself, means over tokens, float64 [d_mlp]; NaN where not measured.

    Attributes:
        total: TE, mean |change of the loss|, nats. direct: the same with something frozen, by kind.
        through, entropy_through: mean |what holding ``frozen`` takes away of the change of loss, of entropy|, nats.
        kl_change: mean change of KL(p_freq || model), nats; None without a unigram distribution.
        n_tokens: how many tokens.
    """

    total: np.ndarray
    direct: dict[str, np.ndarray]
    through: np.ndarray
    entropy_through: np.ndarray
    kl_change: np.ndarray | None
    n_tokens: int

    def mediated(self, kind: str) -> np.ndarray:
        """1 - DE / TE [d_mlp]; NaN without effect."""
        return 1 - self.direct[kind] / np.where(self.total > 0, self.total, np.nan)


def check_last(model: Model, layer: int, owner: str) -> None:
    """Refuse a layer that effects are not measured in."""
    if layer != model.anatomy.n_layers - 1:
        raise HarnessError(
            f"{owner}: effects through the final norm and the logits are measured in the last layer "
            f"({model.anatomy.n_layers - 1}), not in layer {layer}: leave layer at -1."
        )


def check_closed_form(model: Model, owner: str) -> None:
    """Refuse a model whose last MLP's output does not reach the final residual as the closed form has it."""
    from harness.engine import fits
    from harness.plugin import Condition, SetNeurons

    last = model.anatomy.n_layers - 1
    if not fits(model, [Condition("one", (SetNeurons(last, (0,), (0.0,), mlp_site(model, last)),))]):
        raise HarnessError(f"{owner}: the direct effects of {model.name}'s neurons have no closed form.")


def check_length(model: Model, length: int, owner: str, twice: bool = False) -> None:
    """Refuse sequences, or with ``twice`` duplicated ones after the prefix, that the model's positions do not hold."""
    if model.n_positions is None:
        return
    most = (model.n_positions - len(model.prefix)) // 2 if twice else model.n_positions
    if length > most:
        raise HarnessError(
            f"{owner}: length={length} tokens{', duplicated,' if twice else ''} do not fit the {model.n_positions} "
            f"positions of {model.name}; at most {most} do."
        )


def sweep(
    context: SelectionContext,
    layer: int,
    tokens: Sequence[Sequence[int]],
    frozen: Kind,
    owner: str,
    unigram: np.ndarray | None = None,
    newlines: bool = False,
    method: Literal["exact", "fast"] = "exact",
    neurons: Sequence[int] | None = None,
) -> Swept:
    """Mean-ablate every neuron of the last layer, or of ``neurons``, by itself (the mean is over the same tokens).

    Stolfo et al. 2024, eq. 4 to 6.

    Predictions that the paper leaves out are left out (:func:`harness.data.token_sequences.kept`); those at newlines
    and just before them unless ``newlines``.

    Raises:
        HarnessError: the layer is not the last, or the closed form does not hold for the model; names ``owner``.
    """
    from harness.data.token_sequences import kept
    from harness.effects import effects
    from harness.engine import activation_statistics
    from harness.plugin import Condition, SetNeurons

    model, batch_size = context.model, context.engine.batch_size
    check_last(model, layer, owner)
    check_closed_form(model, owner)
    site = mlp_site(model, layer)
    with context.stage(f"activations of {model.name} on {counted(len(tokens), 'sequence')}", len(tokens)) as advance:
        statistics = activation_statistics(model, tokens, [layer], batch_size, context.seed, None, advance, site)
    means = statistics.mean[layer]
    chosen = np.arange(len(means)) if neurons is None else np.asarray(neurons, dtype=int)
    conditions = [
        Condition(f"{layer}.{i}", (SetNeurons(layer, (i,), (float(means[i]),), site),)) for i in chosen.tolist()
    ]
    positions = [kept(model, sequence, newlines=not newlines) for sequence in tokens]
    n = sum(map(sum, positions))
    step = max(1, RESULT_BYTES // (4 * 8 * max(1, n)))  # effects() returns up to eight numbers for each pair
    total, direct, through, entropy = (np.full(len(means), np.nan) for _ in range(4))
    kl = None if unigram is None else np.full(len(means), np.nan)
    kinds: tuple[Kind, ...] = ("total", frozen)
    said = f"effects of {counted(len(conditions), 'neuron')} of {model.name} on {counted(n, 'token')}"
    with context.stage(said, len(conditions) * len(tokens)) as advance:
        for start in range(0, len(conditions), step):
            here = chosen[start : start + step]
            found = effects(
                model, tokens, conditions[start : start + step], kinds, positions, unigram=unigram,
                batch_size=batch_size, method=method, progress=advance,
            )  # fmt: skip
            total[here], direct[here] = found.size("total"), found.size(frozen)
            through[here] = _size(found.loss_change["total"] - found.loss_change[frozen])
            entropy[here] = _size(found.entropy_change["total"] - found.entropy_change[frozen])
            if kl is not None and found.kl_unigram_change is not None:
                kl[here] = found.kl_unigram_change["total"].mean(axis=1, dtype=np.float64)
    return Swept(total, {frozen: direct}, through, entropy, kl, n)


def _size(changes: np.ndarray) -> np.ndarray:
    """Mean absolute value over the tokens, [n, T] -> float64 [n]."""
    found: np.ndarray = np.abs(changes).mean(axis=1, dtype=np.float64)
    return found
