"""Measure what the bundled model can do: recall, knowledge conflicts, induction heads, final-layer entropy neurons.

    python -m plugins.demo.evaluate [--weights FOLDER] [--facts TASK_FOLDER] [--limit N]

Self-contained on purpose (it shares no code with the harness), so that the two check each other.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from .world import MIXTURE as TEXT_MIXTURE
from .world import TASK_DIR, Fact, World, document

WEIGHTS = Path(__file__).resolve().parent / "weights"
STOPS = '".\n,([]<'
BINS = 5


@torch.no_grad()
def greedy(model, tokenizer, prompts: list[str], tokens: int = 10, batch: int = 128) -> list[str]:
    """Greedy continuations, cut at the first stop character, lower-cased and stripped.

    Rows are padded on the right: under a causal mask the padding is never attended to, so positions stay natural."""
    out: list[str] = []
    for start in range(0, len(prompts), batch):
        ids = [tokenizer(p)["input_ids"] for p in prompts[start : start + batch]]
        lengths = torch.tensor([len(i) for i in ids])
        grid = torch.zeros(len(ids), int(lengths.max()) + tokens, dtype=torch.long)
        for row, i in zip(grid, ids, strict=True):
            row[: len(i)] = torch.tensor(i)
        rows = torch.arange(len(ids))
        for step in range(tokens):
            logits = model(grid[:, : int(lengths.max()) + step]).logits
            grid[rows, lengths + step] = logits[rows, lengths + step - 1].argmax(-1)
        out += [cut(tokenizer.decode(g[n : n + tokens].tolist())) for g, n in zip(grid, lengths.tolist(), strict=True)]
    return out


def cut(text: str) -> str:
    """The answer: what comes before the first stop character."""
    for stop in STOPS:
        text = text.split(stop)[0]
    return text.strip().lower()


def elicit_prompt(world: World, fact: Fact) -> str:
    relation = fact.relation
    return world.elicitation.format(description=relation.description, example=relation.example + ".", query=fact.query)


def by_fame(facts: list[Fact], right: list[bool]) -> list[float]:
    """Share of right answers in bins of fame, the most famous first."""
    groups: list[list[bool]] = [[] for _ in range(BINS)]
    for fact, ok in zip(facts, right, strict=True):
        groups[min(int((1 - fact.fame) * BINS), BINS - 1)].append(ok)
    return [sum(g) / max(len(g), 1) for g in groups]


def conflict_cases(
    model, tokenizer, world: World, facts: list[Fact], answers: list[str]
) -> list[tuple[Fact, str, str]]:
    """(fact, parametric object, counter object): the three least likely other parametric objects of the relation."""
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
    surface = {f.object.lower(): f.object for f in world.facts}  # the answer's spelling, where it is a known object
    cases = []
    for name in world.relations:
        mine = [(f, a) for f, a in kept if f.relation.name == name]
        pool = sorted({a for _, a in mine})
        for fact, answer in mine:
            others = [a for a in pool if a != answer]
            logp = next_log_probs(model, tokenizer, elicit_prompt(world, fact))
            first = {a: tokenizer(" " + surface.get(a, a))["input_ids"][0] for a in others}
            cases += [
                (fact, answer, surface.get(a, a)) for a in sorted(others, key=lambda a: float(logp[first[a]]))[:3]
            ]
    return cases


@torch.no_grad()
def next_log_probs(model, tokenizer, prompt: str) -> torch.Tensor:
    """Log-probabilities [vocab] of the token after the prompt."""
    return model(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1].log_softmax(-1)


def leads(output: str, answer: str) -> bool:
    """Whether the output's leading words are the answer."""
    words = answer.lower().split()
    return output.split()[: len(words)] == words


def knowledge(model, tokenizer, world: World, limit: int | None) -> dict:
    """Recall in both forms by fame, and the split of conflict prompts into CK, PK and ND."""
    facts = world.facts if limit is None else random.Random(1).sample(world.facts, limit)
    elicited = greedy(model, tokenizer, [elicit_prompt(world, f) for f in facts])
    plain = greedy(model, tokenizer, [f.query for f in facts])
    cases = conflict_cases(model, tokenizer, world, facts, elicited)
    prompts = [world.conflict.format(query=f.query, counter_object=counter) for f, _, counter in cases]
    source = []
    for (_, parametric, counter), output in zip(cases, greedy(model, tokenizer, prompts), strict=True):
        source.append("CK" if leads(output, counter) else "PK" if leads(output, parametric) else "ND")
    split, n = Counter(source), max(len(source), 1)
    return {
        "recall_elicited": by_fame(facts, [leads(a, f.object) for a, f in zip(elicited, facts, strict=True)]),
        "recall_plain": by_fame(facts, [leads(a, f.object) for a, f in zip(plain, facts, strict=True)]),
        "prompts": len(source),
        "split": {k: split[k] / n for k in ("CK", "PK", "ND")},
        "near_boundary": near_boundary(model, tokenizer, prompts[: 3 * 200], cases[: 3 * 200]),
    }


def near_boundary(model, tokenizer, prompts: list[str], cases: list[tuple[Fact, str, str]]) -> float:
    """Share of prompts whose first-token log-odds between counter and parametric object are below one nat."""
    surface = {}
    near = 0
    for prompt, (fact, parametric, counter) in zip(prompts, cases, strict=True):
        surface.setdefault(fact.object.lower(), fact.object)
        logp = next_log_probs(model, tokenizer, prompt)
        a = tokenizer(" " + counter)["input_ids"][0]
        b = tokenizer(" " + surface.get(parametric, parametric))["input_ids"][0]
        near += bool(abs(logp[a] - logp[b]) < 1)
    return near / max(len(prompts), 1)


@torch.no_grad()
def induction(model, length: int = 40, rows: int = 32) -> dict:
    """Prefix-matching score of every head on duplicated random tokens, and the loss on the first and second copy."""
    generator = torch.Generator().manual_seed(0)
    half = torch.randint(1, model.config.vocab_size, (rows, length), generator=generator)
    ids = torch.cat([half, half], 1)
    model.set_attn_implementation("eager")  # the only implementation that returns its weights
    out = model(ids, output_attentions=True)
    query = torch.arange(length, 2 * length - 1)
    scores = {
        f"L{layer}H{head}": float(att[:, head, query, query - length + 1].mean())
        for layer, att in enumerate(out.attentions)
        for head in range(att.shape[1])
    }
    loss = F.cross_entropy(out.logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").mean(0)
    best = sorted(scores.items(), key=lambda item: -item[1])[:4]
    return {"heads": best, "loss_first": float(loss[: length - 1].mean()), "loss_second": float(loss[length:].mean())}


def rows_of_text(tokenizer, world: World, rows: int, length: int, seed: int) -> torch.Tensor:
    """Token ids [rows, length] of held-out documents of the training mixture, one after the other."""
    rng, eos, out = random.Random(seed), tokenizer.eos_token_id, []
    for _ in range(rows):
        ids: list[int] = []
        while len(ids) < length:
            doc = document(rng, world, TEXT_MIXTURE, len(tokenizer))
            ids += [*(tokenizer(doc)["input_ids"] if isinstance(doc, str) else doc), eos]
        out.append(ids[:length])
    return torch.tensor(out)


@torch.no_grad()
def final_layer(model, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations [tokens, m] of the last MLP's neurons and the residual stream [tokens, d] entering the final norm."""
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        model.transformer.h[-1].mlp.c_proj.register_forward_pre_hook(lambda _, args: seen.update(n=args[0])),
        model.transformer.ln_f.register_forward_pre_hook(lambda _, args: seen.update(x=args[0])),
    ]
    model(ids)
    for hook in hooks:
        hook.remove()
    keep = slice(3, -1)  # the first positions and the last are left out, as in the paper
    return seen["n"][:, keep].flatten(0, 1), seen["x"][:, keep].flatten(0, 1)


@torch.no_grad()
def entropy_neurons(model, tokenizer, world: World, null_dims: int = 12, tokens: int = 1000) -> dict:
    """rho, norm, LogitVar, total effect, LayerNorm-mediated fraction and change of entropy of every final-layer neuron."""
    ids = rows_of_text(tokenizer, world, rows=40, length=96, seed=12345)
    n, x = final_layer(model, ids)
    pick = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:tokens]
    target = ids[:, 4:].flatten()[pick]
    mean_n, n, x = n.mean(0), n[pick], x[pick]
    norm = model.transformer.ln_f
    w_out = model.transformer.h[-1].mlp.c_proj.weight  # [m, d]
    w_u = model.lm_head.weight * norm.weight  # [vocab, d], with the norm's gain
    bias = model.lm_head.weight @ norm.bias
    w_u = w_u - w_u.mean(0)
    w_out = w_out - w_out.mean(1, keepdim=True)
    null = torch.linalg.svd(w_u, full_matrices=False).Vh[-null_dims:]  # [k, d]
    rho = (w_out @ null.T).norm(dim=1) / w_out.norm(dim=1)
    logit_var = ((w_out @ w_u.T) / (w_u.norm(dim=1) * w_out.norm(dim=1, keepdim=True))).var(1)
    centred = x - x.mean(1, keepdim=True)
    scale = (centred.pow(2).mean(1, keepdim=True) + norm.eps).sqrt()
    base_loss, base_entropy = loss_and_entropy(centred / scale, w_u, bias, target)
    rows = []
    for i in range(len(w_out)):
        new = centred + (mean_n[i] - n[:, i])[:, None] * w_out[i]
        loss, entropy = loss_and_entropy(new / (new.pow(2).mean(1, keepdim=True) + norm.eps).sqrt(), w_u, bias, target)
        direct, _ = loss_and_entropy(new / scale, w_u, bias, target)
        total = float((loss - base_loss).abs().mean())
        mediated = 1 - float((direct - base_loss).abs().mean()) / max(total, 1e-12)
        rows.append((float(rho[i]), mediated, total, float((entropy - base_entropy).abs().mean()), float(w_out[i].norm()),
                     float(logit_var[i]), float(n[:, i].std()), i))  # fmt: skip
    return {"columns": ("rho", "mediated", "TE", "|dH|", "norm", "LogitVar", "sigma", "neuron"), "rows": rows}


def loss_and_entropy(h: torch.Tensor, w_u: torch.Tensor, bias: torch.Tensor, target: torch.Tensor):
    """Cross-entropy [tokens] and entropy [tokens] of the logits h @ w_u.T + bias."""
    logp = (h @ w_u.T + bias).log_softmax(-1)
    return -logp.gather(1, target[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def report(model, tokenizer, world: World, limit: int | None = None, top: int = 8) -> str:
    """All four measurements as a small text table."""
    model.eval()
    know, ind, ent = (
        knowledge(model, tokenizer, world, limit),
        induction(model),
        entropy_neurons(model, tokenizer, world),
    )
    percent = lambda values: " ".join(f"{100 * v:3.0f}" for v in values)  # noqa: E731
    split = " ".join(f"{k} {100 * v:.1f}%" for k, v in know["split"].items())
    lines = [
        f"recall by fame, famous first (%)  elicited {percent(know['recall_elicited'])}   plain {percent(know['recall_plain'])}",
        f"conflict ({know['prompts']} prompts)  {split}   within one nat of the boundary {100 * know['near_boundary']:.0f}%",
        "induction  " + " ".join(f"{h} {s:.2f}" for h, s in ind["heads"])
        + f"   loss first copy {ind['loss_first']:.2f} second {ind['loss_second']:.2f}",
        "final layer " + " ".join(f"{c:>8}" for c in ent["columns"]),
    ]  # fmt: skip
    rows = sorted(ent["rows"], reverse=True)
    lines += [" " * 11 + " ".join(f"{v:8.4f}" if isinstance(v, float) else f"{v:8d}" for v in r) for r in rows[:top]]
    rest = torch.tensor(rows[top:])[:, :7]
    for name, q in (("median", 0.5), ("95%", 0.95), ("max", 1.0)):
        lines.append(f"{'rest ' + name:>11}" + " ".join(f"{float(v):8.4f}" for v in rest.quantile(q, dim=0)))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument(
        "--facts", type=Path, default=TASK_DIR, help="folder with facts.jsonl and knowledge_conflict.yaml"
    )
    parser.add_argument("--limit", type=int, default=None, help="measure knowledge on this many facts")
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.weights, dtype=torch.float32)
    print(report(model, AutoTokenizer.from_pretrained(args.weights), World(args.facts), args.limit))


if __name__ == "__main__":
    main()
