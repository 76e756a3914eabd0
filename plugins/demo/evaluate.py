"""Measure what the bundled model can do: recall, knowledge conflicts, induction heads, final-layer entropy neurons.

    python -m harness_plugins.demo.evaluate [--weights FOLDER] [--facts TASK_FOLDER] [--limit N]

Self-contained on purpose (it shares no code with the harness), so that the two check each other.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from .world import TASK_DIR, Fact, World, document

WEIGHTS = Path(__file__).resolve().parent / "weights"
STOPS = '".\n,([]<'
BINS = 5


# --- recall and conflicts --------------------------------------------------------------------------------------------


@torch.no_grad()
def greedy(model: Any, tokenizer: Any, prompts: list[str], tokens: int = 10, batch: int = 128) -> list[str]:
    """Greedy continuations, cut at the first stop character, lower-cased and stripped.

    Rows are padded on the right: under a causal mask the padding is never attended to, so positions stay natural."""
    stops = torch.tensor([any(c in tokenizer.decode([i]) for c in STOPS) for i in range(model.config.vocab_size)])
    out: list[str] = []
    for start in range(0, len(prompts), batch):
        ids = [tokenizer(p)["input_ids"] for p in prompts[start : start + batch]]
        lengths = torch.tensor([len(i) for i in ids])
        longest = int(lengths.max())
        grid = torch.zeros(len(ids), longest + tokens, dtype=torch.long)
        for row, i in zip(grid, ids, strict=True):
            row[: len(i)] = torch.tensor(i)
        rows, done = torch.arange(len(ids)), torch.zeros(len(ids), dtype=torch.bool)
        for step in range(tokens):
            hidden = model.base_model(grid[:, : longest + step], use_cache=False).last_hidden_state
            grid[rows, lengths + step] = unembed(model, hidden[rows, lengths + step - 1]).argmax(-1)
            done |= stops[grid[rows, lengths + step]]
            if done.all():
                break
        out += [cut(tokenizer.decode(g[n : n + tokens].tolist())) for g, n in zip(grid, lengths.tolist(), strict=True)]
    return out


@torch.no_grad()
def next_log_probs(model: Any, tokenizer: Any, prompts: list[str], batch: int = 128) -> torch.Tensor:
    """Log-probabilities [prompts, vocab] of the token after each prompt."""
    out = []
    for start in range(0, len(prompts), batch):
        ids = [torch.tensor(tokenizer(p)["input_ids"]) for p in prompts[start : start + batch]]
        grid = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        ends = torch.tensor([len(i) - 1 for i in ids])
        hidden = model.base_model(grid, use_cache=False).last_hidden_state
        out.append(unembed(model, hidden[torch.arange(len(ids)), ends]).log_softmax(-1))
    return torch.cat(out)


def unembed(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Logits [..., vocab] of normalised residual vectors [..., d]."""
    logits: torch.Tensor = model.get_output_embeddings()(hidden)
    return logits


def cut(text: str) -> str:
    """The answer: what comes before the first stop character."""
    for stop in STOPS:
        text = text.split(stop)[0]
    return text.strip().lower()


def leads(output: str, answer: str) -> bool:
    """Whether the output's leading words are the answer."""
    words = answer.lower().split()
    return output.split()[: len(words)] == words


def by_fame(facts: list[Fact], right: list[bool]) -> list[float]:
    """Share of right answers in bins of fame, the most famous first."""
    groups: list[list[bool]] = [[] for _ in range(BINS)]
    for fact, ok in zip(facts, right, strict=True):
        groups[min(int((1 - fact.fame) * BINS), BINS - 1)].append(ok)
    return [sum(g) / max(len(g), 1) for g in groups]


class Case(NamedTuple):
    """One conflict: the fact, the model's own answer, and the object that the context states instead."""

    fact: Fact
    parametric: str
    counter: str


def conflict_cases(model: Any, tokenizer: Any, world: World, facts: list[Fact], answers: list[str]) -> list[Case]:
    """Every usable fact against the three least likely other parametric objects of its relation."""
    groups: dict[str, set[str]] = {}
    for fact, answer in zip(facts, answers, strict=True):
        for entity in (fact.subject.lower(), answer):
            groups.setdefault(entity, set()).add(fact.relation.group)
    kept = []
    for fact, answer in zip(facts, answers, strict=True):
        subject, example = fact.subject.lower(), fact.relation.example.lower()
        echo = example.endswith(" " + answer) and answer != fact.object.lower()
        shared = len(groups[subject]) > 1 or len(groups[answer]) > 1
        if answer and answer not in subject and subject not in answer and not echo and not shared:
            kept.append((fact, answer))
    spelt = {f.object.lower(): f.object for f in world.facts}  # where the answer is a known object
    log_probs = next_log_probs(model, tokenizer, [world.elicit(fact) for fact, _ in kept])
    cases = []
    for (fact, answer), row in zip(kept, log_probs, strict=True):
        others = sorted({spelt.get(a, a) for f, a in kept if f.relation is fact.relation and a != answer})
        others.sort(key=lambda a: float(row[first_token(tokenizer, a)]))
        cases += [Case(fact, spelt.get(answer, answer), a) for a in others[:3]]
    return cases


def first_token(tokenizer: Any, answer: str) -> int:
    """The first token of an answer that follows a prompt."""
    return int(tokenizer(" " + answer)["input_ids"][0])


@dataclass(frozen=True)
class Knowledge:
    """Recall in both forms, the most famous fifth first, and what conflict prompts are followed by; all shares in 0..1.

    `near`: prompts whose first-token log-odds between counter and parametric object are below one nat."""

    recall_elicited: list[float]
    recall_plain: list[float]
    prompts: int
    split: dict[str, float]
    near: float


def knowledge(model: Any, tokenizer: Any, world: World, limit: int | None = None, seed: int = 1) -> Knowledge:
    """Measure on all facts, or on a seeded sample of `limit` of them."""
    facts = world.facts if limit is None else random.Random(seed).sample(world.facts, limit)
    elicited = greedy(model, tokenizer, [world.elicit(f) for f in facts])
    plain = greedy(model, tokenizer, [f.query for f in facts])
    cases = conflict_cases(model, tokenizer, world, facts, elicited)
    prompts = [world.conflict.format(query=case.fact.query, counter_object=case.counter) for case in cases]
    source = [
        "CK" if leads(output, case.counter) else "PK" if leads(output, case.parametric) else "ND"
        for case, output in zip(cases, greedy(model, tokenizer, prompts), strict=True)
    ]
    near = 0
    for case, row in zip(cases, next_log_probs(model, tokenizer, prompts), strict=True):
        odds = row[first_token(tokenizer, case.counter)] - row[first_token(tokenizer, case.parametric)]
        near += bool(abs(odds) < 1)
    split, n = Counter(source), max(len(source), 1)
    return Knowledge(
        by_fame(facts, [leads(a, f.object) for a, f in zip(elicited, facts, strict=True)]),
        by_fame(facts, [leads(a, f.object) for a, f in zip(plain, facts, strict=True)]),
        len(source),
        {k: split[k] / n for k in ("CK", "PK", "ND")},
        near / n,
    )


# --- induction heads -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Induction:
    """Prefix-matching score of every head, and the loss (nats) on the first and second copy of random tokens."""

    scores: dict[str, float]
    loss_first: float
    loss_second: float


@torch.no_grad()
def induction(model: Any, length: int = 40, rows: int = 32) -> Induction:
    """Run `rows` spans of `length` random tokens, each twice. A score is the mean attention, in the second copy, to the
    token after the previous occurrence of the present one."""
    generator = torch.Generator().manual_seed(0)
    half = torch.randint(1, model.config.vocab_size, (rows, length), generator=generator)
    ids = torch.cat([half, half], 1)
    model.set_attn_implementation("eager")  # the only implementation that returns its weights
    out = model(ids, output_attentions=True)
    query = torch.arange(length, 2 * length - 1)
    scores = {
        f"L{layer}H{head}": float(attention[:, head, query, query - length + 1].mean())
        for layer, attention in enumerate(out.attentions)
        for head in range(attention.shape[1])
    }
    loss = F.cross_entropy(out.logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").mean(0)
    return Induction(scores, float(loss[: length - 1].mean()), float(loss[length:].mean()))


# --- entropy neurons -------------------------------------------------------------------------------------------------


class Neuron(NamedTuple):
    """One final-layer neuron.

    rho: share of its centred output weights' norm that lies in the unembedding's null space. effect: mean |change of
    loss| in nats when it is set to its mean; mediated: the part of it that is gone when the norm's scale is frozen;
    entropy: mean |change of entropy| in nats. norm: of the centred output weights. logit_var: variance over the
    vocabulary of its normalised direct logits. sigma: standard deviation of its activation."""

    rho: float
    mediated: float
    effect: float
    entropy: float
    norm: float
    logit_var: float
    sigma: float
    neuron: int


def rows_of_text(tokenizer: Any, world: World, rows: int, length: int, seed: int) -> torch.Tensor:
    """Token ids [rows, length] of fresh documents of the training mixture, one after the other."""
    rng, out = random.Random(seed), []
    for _ in range(rows):
        ids: list[int] = []
        while len(ids) < length:
            ids += [*document(rng, world, tokenizer.backend_tokenizer), tokenizer.eos_token_id]
        out.append(ids[:length])
    return torch.tensor(out)


@torch.no_grad()
def final_layer(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations [tokens, m] of the last MLP's neurons and the residual stream [tokens, d] entering the final norm."""
    seen: dict[str, torch.Tensor] = {}
    core = model.gpt_neox
    hooks = [
        core.layers[-1].mlp.dense_4h_to_h.register_forward_pre_hook(lambda _, args: seen.update(n=args[0])),
        core.final_layer_norm.register_forward_pre_hook(lambda _, args: seen.update(x=args[0])),
    ]
    model(ids)
    for hook in hooks:
        hook.remove()
    keep = slice(3, -1)  # the first positions and the last are left out, as in the paper
    return seen["n"][:, keep].flatten(0, 1), seen["x"][:, keep].flatten(0, 1)


@torch.no_grad()
def entropy_neurons(model: Any, tokenizer: Any, world: World, null_dims: int = 12, tokens: int = 1000) -> list[Neuron]:
    """Every final-layer neuron, the one with the highest rho first; effects are means over `tokens` tokens of text."""
    ids = rows_of_text(tokenizer, world, rows=40, length=96, seed=12345)
    n, x = final_layer(model, ids)
    pick = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:tokens]
    target = ids[:, 4:].flatten()[pick]
    mean_n, n, x = n.mean(0), n[pick], x[pick]
    norm, unembedding = model.gpt_neox.final_layer_norm, model.get_output_embeddings().weight
    w_u = unembedding * norm.weight  # [vocab, d], with the norm's gain
    bias = unembedding @ norm.bias
    w_u = w_u - w_u.mean(0)
    w_u = w_u - w_u.mean(1, keepdim=True)  # what it reads is centred: the constant direction is part of its null space
    w_out = model.gpt_neox.layers[-1].mlp.dense_4h_to_h.weight.T  # [m, d]
    w_out = w_out - w_out.mean(1, keepdim=True)
    null = torch.linalg.svd(w_u, full_matrices=False).Vh[-null_dims:]  # [k, d]
    rho = (w_out @ null.T).norm(dim=1) / w_out.norm(dim=1)
    logit_var = ((w_out @ w_u.T) / (w_u.norm(dim=1) * w_out.norm(dim=1, keepdim=True))).var(1)
    x = x - x.mean(1, keepdim=True)
    scale = (x.pow(2).mean(1, keepdim=True) + norm.eps).sqrt()
    base_loss, base_entropy = loss_and_entropy(x / scale, w_u, bias, target)
    neurons = []
    for i, w in enumerate(w_out):
        new = x + (mean_n[i] - n[:, i])[:, None] * w
        new_scale = (new.pow(2).mean(1, keepdim=True) + norm.eps).sqrt()
        loss, entropy = loss_and_entropy(new / new_scale, w_u, bias, target)
        direct, _ = loss_and_entropy(new / scale, w_u, bias, target)
        total = float((loss - base_loss).abs().mean())
        mediated = 1 - float((direct - base_loss).abs().mean()) / max(total, 1e-12)
        change = float((entropy - base_entropy).abs().mean())
        measured = (mediated, total, change, float(w.norm()), float(logit_var[i]), float(n[:, i].std()))
        neurons.append(Neuron(float(rho[i]), *measured, i))
    return sorted(neurons, reverse=True)


def loss_and_entropy(
    h: torch.Tensor, w_u: torch.Tensor, bias: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy [tokens] and entropy [tokens] of the logits h @ w_u.T + bias."""
    logp = (h @ w_u.T + bias).log_softmax(-1)
    return -logp.gather(1, target[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


# --- report ----------------------------------------------------------------------------------------------------------


def report(model: Any, tokenizer: Any, world: World, limit: int | None = None, top: int = 8) -> str:
    """All four measurements as a small text table."""
    model.eval()
    know, heads = knowledge(model, tokenizer, world, limit), induction(model)
    best = sorted(heads.scores.items(), key=lambda item: -item[1])[:4]
    split = " ".join(f"{k} {100 * v:.1f}%" for k, v in know.split.items())
    lines = [
        f"recall by fame, famous first (%)  elicited {percents(know.recall_elicited)}   "
        f"plain {percents(know.recall_plain)}",
        f"conflict ({know.prompts} prompts)  {split}   within one nat of the boundary {100 * know.near:.0f}%",
        f"induction  {' '.join(f'{h} {s:.2f}' for h, s in best)}   "
        f"loss first copy {heads.loss_first:.2f} second {heads.loss_second:.2f}",
        "final layer " + " ".join(f"{name:>9}" for name in Neuron._fields),
    ]
    neurons = entropy_neurons(model, tokenizer, world)
    lines += [" " * 11 + " ".join(f"{v:9.4f}" for v in n[:-1]) + f"{n.neuron:10d}" for n in neurons[:top]]
    rest = torch.tensor([n[:-1] for n in neurons[top:]])
    for name, q in (("median", 0.5), ("95%", 0.95), ("max", 1.0)):
        lines.append(f"{'rest ' + name:>11}" + " ".join(f"{float(v):9.4f}" for v in rest.quantile(q, dim=0)))
    return "\n".join(lines)


def percents(shares: list[float]) -> str:
    return " ".join(f"{100 * share:3.0f}" for share in shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--facts", type=Path, default=TASK_DIR, help="folder with facts.jsonl and definition.yml")
    parser.add_argument("--limit", type=int, default=None, help="measure knowledge on this many facts")
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.weights, dtype=torch.float32)
    print(report(model, AutoTokenizer.from_pretrained(args.weights), World(args.facts), args.limit))


if __name__ == "__main__":
    main()
