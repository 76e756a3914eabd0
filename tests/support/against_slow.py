"""Runs against the slow implementation: every number of a run that it can compute must agree with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from slow_confidence import (
    Effects,
    Slow,
    area,
    calibration_error,
    clipped,
    effects,
    entropy,
    held,
    kept,
    log_softmax,
)
from slow_temperature import tempered
from small_runs import measures, prompts, record, samples, table

TOLERANCE = 2e-5
"""Nats, shares and correlations; the runs are in float32."""


def dropped_tokens(tokenizer: Any) -> set[int]:
    """Special tokens, and the newline where it is one token."""
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    return {*tokenizer.all_special_ids, *(newline if len(newline) == 1 else [])}


def frequencies(tokenizer: Any, documents: list[str], d_vocab: int) -> np.ndarray:
    """Counts + 1 of the tokens of documents, as probabilities [d_vocab]."""
    ids = np.concatenate([tokenizer(text, add_special_tokens=False)["input_ids"] for text in documents]).astype(int)
    counts = np.bincount(ids, minlength=d_vocab) + 1
    return counts / counts.sum()


def selected(folder: Path) -> list[int]:
    """Indices of the selected neurons."""
    return [int(row["neuron"].split(".")[1]) for row in record(folder)["selection"]["neurons"]]


def mediation_agrees(folder: Path, hf: Any, tokenizer: Any, p_freq: np.ndarray) -> None:
    """A run of mediation with frequency=true and mean ablation: of the selection, and of each neuron alone."""
    slow, sequences, dropped = Slow(hf), prompts(folder), dropped_tokens(tokenizer)
    layer, v = len(slow.down) - 1, np.log(p_freq) - np.log(p_freq).mean()
    means = slow.means(sequences, layer)

    def ablate(neurons: list[int]) -> Effects:
        return effects(slow, sequences, dropped, {layer: held(neurons, means[neurons])}, v)

    found, own = measures(folder), ablate(selected(folder))
    _agree(found, "total_effect", own.total)
    _agree(found, "frozen_norm_effect", own.direct_norm)
    _agree(found, "frozen_unigram_effect", own.direct_frequency)
    _agree(found, "norm_mediated", 1 - own.direct_norm / own.total, 1e-3)
    _agree(found, "frequency_mediated", 1 - own.direct_frequency / own.total, 1e-3)
    _agree(found, "entropy_change", own.entropy_change)
    _agree(found, "entropy_effect", float(np.abs(entropy(own.after) - entropy(own.before)).mean()))
    _agree(found, "loss_change", float((own.loss_after - own.loss).mean()))
    _agree(found, "kl", float((np.exp(own.before) * (own.before - own.after)).sum(-1).mean()))
    _agree(found, "changed", 100 * own.changed, 1e-9)
    kl = own.kl_unigram(own.after, p_freq) - own.kl_unigram(own.before, p_freq)
    _agree(found, "kl_unigram_change", float(kl.mean()))
    for row, log_p, loss in (("baseline", own.before, own.loss), ("value", own.after, own.loss_after)):
        confidence, right = np.exp(log_p.max(-1)), log_p.argmax(-1) == own.target
        pairs = confidence.tolist(), right.tolist()
        expected = {
            "loss": loss.mean(),
            "entropy": entropy(log_p).mean(),
            "reciprocal_rank": own.reciprocal_rank(log_p),
            "confidence": confidence.mean(),
            "right": right.mean(),
            "brier": ((confidence - right) ** 2).mean(),
            "ece": calibration_error(*pairs, bins=15),
            "auroc": area(*pairs, bins=50),
        }
        for name, value in expected.items():
            _agree(found, name, float(value), row=row)
        assert abs(found["auroc"][row] - area(*pairs)) < 0.02  # the bins cost little
    neurons = table(folder, "neurons")
    for i, name in enumerate(neurons["neuron"]):
        alone = ablate([int(name.split(".")[1])])
        expected = {
            "total_effect": alone.total,
            "direct_effect": alone.direct_norm,
            "direct_effect_frequency": alone.direct_frequency,
            "entropy_change": alone.entropy_change,
            "changed_share": alone.changed,
            "reciprocal_rank_change": alone.reciprocal_rank(alone.after) - alone.reciprocal_rank(alone.before),
        }
        for column, value in expected.items():
            np.testing.assert_allclose(neurons[column][i], value, atol=TOLERANCE, err_msg=f"{name} {column}")


def correlation_agrees(folder: Path, hf: Any, tokenizer: Any, p_freq: np.ndarray) -> None:
    """A run of unigram_entropy under mean ablation."""
    slow, sequences, dropped = Slow(hf), prompts(folder), dropped_tokens(tokenizer)
    layer, neurons = len(slow.down) - 1, selected(folder)
    changes = {layer: held(neurons, slow.means(sequences, layer)[neurons])}
    own = effects(slow, sequences, dropped, changes, np.log(p_freq) - np.log(p_freq).mean())
    kl = [own.kl_unigram(log_p, p_freq) for log_p in (own.before, own.after)]
    spread = [entropy(log_p) for log_p in (own.before, own.after)]
    found = measures(folder)
    _agree(found, "r_entropy_kl", float(np.corrcoef(kl[0], spread[0])[0, 1]), row="baseline")
    _agree(found, "r_entropy_kl", float(np.corrcoef(kl[1], spread[1])[0, 1]))
    _agree(found, "r_changes", float(np.corrcoef(kl[1] - kl[0], spread[1] - spread[0])[0, 1]), 1e-3)
    _agree(found, "kl_unigram_change", float((kl[1] - kl[0]).mean()))
    at_equal = own.kl_unigram(tempered(own.before, own.after), p_freq)
    # Where a prediction is nearly certain, its entropy in float32 hardly determines the temperature.
    _agree(found, "kl_unigram_tempered", float((at_equal - kl[0]).mean()), 3e-4)
    _agree(found, "kl_unigram_beyond", float((kl[1] - at_equal).mean()), 3e-4)


def induction_agrees(folder: Path, hf: Any, n_counted: int | None = None) -> None:
    """A run of an induction task under clip_mean: what happens from the repeat on, and that nothing happens before it.

    Args:
        n_counted: how many predictions of the repeat count; all by default.
    """
    slow, rows = Slow(hf), samples(folder)
    sequences = [row["input_ids"] for row in rows]
    neurons = [tuple(map(int, row["neuron"].split("."))) for row in record(folder)["selection"]["neurons"]]
    spans = [(row["begin"], row["split"]) for row in rows]
    means = {layer: slow.means(sequences, layer, spans) for layer in {layer for layer, _ in neurons}}
    before, after, loss, loss_after, right, first = [], [], [], [], [], []
    curves = []
    for tokens, (_, split) in zip(sequences, spans, strict=True):
        changes = {
            layer: clipped(own := [i for at, i in neurons if at == layer], means[layer][own], split) for layer in means
        }
        log_p, log_q = (log_softmax(slow.run(tokens, edits).logits[:-1]) for edits in (None, changes))
        places, target = np.arange(len(tokens) - 1), np.array(tokens[1:])
        first.append(np.abs(log_q[:split] - log_p[:split]).max())
        inside = places[split:] if n_counted is None else places[split : split + n_counted]
        before.append(entropy(log_p[inside]))
        after.append(entropy(log_q[inside]))
        loss.append(-log_p[inside, target[inside]])
        loss_after.append(-log_q[inside, target[inside]])
        right.append(log_q[inside].argmax(-1) == target[inside])
        curves.append((entropy(log_p), entropy(log_q)))
    assert max(first) == 0.0  # of the reference itself
    pooled = [np.concatenate(x) for x in (before, after, loss, loss_after, right)]
    found = measures(folder)
    _agree(found, "entropy", float(pooled[1].mean()))
    _agree(found, "entropy", float(pooled[0].mean()), row="baseline")
    _agree(found, "entropy_change", float((pooled[1] - pooled[0]).mean()))
    _agree(found, "entropy_change_share", float(100 * (pooled[1].sum() / pooled[0].sum() - 1)), 1e-3)
    _agree(found, "loss", float(pooled[3].mean()))
    _agree(found, "loss_change", float((pooled[3] - pooled[2]).mean()))
    _agree(found, "right", float(100 * pooled[4].mean()), 1e-6)
    if (folder / "tables" / "entropy_by_position.csv").is_file():
        shown = table(folder, "entropy_by_position")
        for row, column in zip(np.array(curves).mean(0), ("baseline_mean", "treated_mean"), strict=True):
            np.testing.assert_allclose(shown[column], row[shown["position"].astype(int) - 1], atol=1e-4, err_msg=column)


def _agree(
    found: dict[str, dict[str, Any]], name: str, expected: float, tolerance: float = TOLERANCE, row: str = "value"
) -> None:
    assert abs(found[name][row] - expected) < tolerance, f"{name} ({row}): {found[name][row]}, expected {expected}"


def counted(sequences: list[list[int]], tokenizer: Any) -> int:
    """How many predictions of the sequences count."""
    return sum(len(kept(tokens, dropped_tokens(tokenizer))) for tokens in sequences)
