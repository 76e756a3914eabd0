"""A corpus for tests: documents that are given, or random letters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.data.token_sequences import kept, sequences
from harness.engine.hooks import HookEngine, under
from harness.model.model import Model
from harness.plugin.components import Corpus, SelectionContext


class Texts(Corpus):
    """Documents of a test."""

    name = "texts"
    texts: tuple[str, ...]

    def documents(self) -> Iterable[str]:
        return self.texts

    def data_digest(self) -> str:
        return hashlib.sha256("".join(self.texts).encode()).hexdigest()


def letters(n: int = 60, length: int = 40, seed: int = 0) -> Texts:
    """Documents of random letters, some letters far more frequent than others."""
    rng = np.random.default_rng(seed)
    p = 1 / np.arange(1, 27) ** 1.2
    return Texts(texts=tuple("".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), length, p=p / p.sum()))
                             for _ in range(n)))  # fmt: skip


def context(model: Model, seed: int = 0, prompts: list[list[int]] | None = None) -> SelectionContext:
    return SelectionContext(model, HookEngine(model, batch_size=8), prompts or [], seed)


def by_definition(
    model: Model, corpus: Corpus, neurons: list[int], n: int, length: int, unigram: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """TE, DE_LN, DE_freq, mean change of KL(p_freq || model) of last-layer neurons under mean ablation, [len(neurons)];
    with hooks, one prompt and neuron at a time, in float64."""
    last = model.anatomy.n_layers - 1
    texts = [x.tokens for x in sequences(model, corpus, n, length, 0, part="select", across_documents=True)]
    activations = []
    for tokens in texts:
        with torch.no_grad(), model.capture_neurons(last) as seen:
            model.forward(model.pad([tokens]))
        activations.append(seen[last][0].double())
    mean = torch.cat(activations).mean(0)
    p = torch.ones(model.anatomy.d_vocab, dtype=torch.float64) if unigram is None else torch.from_numpy(unigram)
    p = p / p.sum()
    v = p.log() - p.log().mean()
    found: dict[str, list[float]] = {"total": [], "norm": [], "unigram": [], "kl": []}
    for index in neurons:
        changes: dict[str, list[torch.Tensor]] = {name: [] for name in found}
        condition = Condition("ablated", (SetNeurons(last, (index,), (float(mean[index]),)),))
        for tokens in texts:
            residuals = []
            for under_condition in (BASELINE, condition):
                with torch.no_grad(), under(model, under_condition), model.capture_residual() as captured:
                    model.forward(model.pad([tokens]), logits_to_keep=0)
                residuals.append(captured.residual[0, :-1][torch.tensor(kept(model, tokens))])
            target = torch.tensor(tokens[1:])[torch.tensor(kept(model, tokens))][:, None]
            readout = model.readout
            l0, l1 = (readout.logits(x).double() for x in residuals)
            frozen = readout.logits(residuals[1], readout.denominator(residuals[0])).double()
            back = l1 + ((l0 - l1) @ v / (v @ v))[:, None] * v if unigram is not None else l1
            log_p = [x.log_softmax(-1) for x in (l0, l1, frozen, back)]
            for name, after in zip(("total", "norm", "unigram"), log_p[1:], strict=True):
                changes[name].append((log_p[0] - after).gather(-1, target).abs())
            changes["kl"].append((log_p[0] - log_p[1]) @ p)
        for name, parts in changes.items():
            found[name].append(float(torch.cat(parts).mean()))
    return {name: np.array(column) for name, column in found.items()}
