"""Many conditions at the price of one, for edits of the last layer's neurons.

Such an edit changes nothing but the last residual vector: keys, values and every earlier layer depend on the tokens
alone. So the model runs once per distinct token prefix, and every condition is evaluated there in closed form
(:mod:`.final_layer`). Generation walks a tree of prefixes that forks only where two conditions choose different
tokens. What a condition freezes stays as the untouched model has it on the condition's own tokens. Whatever does not
fit (earlier layers, heads, overlapping edits, edits that start late) is run with hooks, many conditions in one pass
(:mod:`harness.engine.batched`).

A model in half precision runs in half precision up to its last residual vector; from there on everything is float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.conditions.frozen import check_conditions
from harness.engine.batched import BatchedEngine
from harness.engine.final_layer import FinalLayer, fits
from harness.engine.hooks import Generations, Progress, Reading, Scores, asked_tokens, batches
from harness.engine.kernels import choose, summarise
from harness.engine.systems import systems

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.model.model import Batch


class ClosedFormEngine(BatchedEngine):
    """Equals :class:`harness.engine.hooks.HookEngine` to float32 precision, and is chosen by itself wherever it is
    valid."""

    name = "closed_form"

    def path(self, conditions: Sequence[Condition]) -> str:
        """How these conditions are run: ``closed_form``, or ``batched`` where the closed form is not valid."""
        return "closed_form" if fits(self.model, conditions) else super().path(conditions)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        conditions: Sequence[Condition],
        max_new_tokens: int,
        stop: frozenset[int] = frozenset(),
        choices: Sequence[Sequence[int]] | None = None,
        progress: Progress | None = None,
    ) -> Generations:
        """Greedy continuations; see :meth:`harness.engine.hooks.HookEngine.generate`."""
        if not fits(self.model, conditions):
            return super().generate(prompts, conditions, max_new_tokens, stop, choices, progress)
        check_conditions(self.model, conditions)
        if max_new_tokens > 1:
            self.model.check_cache()
        asked = asked_tokens(choices, len(prompts))
        made = Generations.empty(len(conditions), len(prompts), max_new_tokens, asked.shape[1])
        final = FinalLayer(self.model, conditions)
        for rows in batches(prompts, self.batch_size):
            part = _generate_tree(final, [prompts[row] for row in rows], asked[rows], max_new_tokens, stop)
            made.tokens[:, rows], made.entropy[:, rows], made.choices[:, rows] = part.tokens, part.entropy, part.choices
            if progress:
                progress(len(rows) * len(conditions))
        return made

    @torch.no_grad()
    def score(
        self,
        prompts: Sequence[Sequence[int]],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
        first: Sequence[int] | None = None,
    ) -> Scores:
        """Loss, entropy, rank and confidence of tokens; see :meth:`harness.engine.hooks.HookEngine.score`."""
        if not fits(self.model, conditions):
            return super().score(prompts, conditions, progress, first)
        check_conditions(self.model, conditions)
        scores = Scores.empty(prompts, len(conditions), first)
        final = FinalLayer(self.model, conditions)
        for rows in batches(prompts, self.batch_size):
            reading = Reading.of(self.model, prompts, rows, first)
            seen, _ = final.run(reading.batch)
            target, place = reading.target.to(final.device), scores.columns(rows)
            for here, system in systems(final, seen.map(reading.at)):
                own = system.gather(target.expand(len(system.at), -1)[..., None])[..., 0]
                found = summarise(system, target)
                scores.loss[here, place] = (found.normaliser - own).double().cpu().numpy()
                scores.entropy[here, place] = found.entropy.double().cpu().numpy()
                scores.rank[here, place] = (found.reached - 1).cpu().numpy()
                scores.top[here, place] = found.top.double().cpu().numpy()
            if progress:
                progress(len(rows) * len(conditions))
        return scores


def _generate_tree(
    final: FinalLayer,
    prompts: Sequence[Sequence[int]],
    asked: np.ndarray,
    max_new_tokens: int,
    stop: frozenset[int],
) -> Generations:
    """Greedy continuations of one batch: a branch for every distinct prefix that some condition has reached.

    ``branch[c, i]`` is the branch on which prompt i of condition c stands. A step evaluates every condition where it
    stands; the new branches are the distinct (branch, token) pairs among the conditions that have not stopped.
    """
    model, n = final.model, final.n
    device = final.device
    batch = model.pad([list(tokens) for tokens in prompts])
    wanted = torch.as_tensor(asked, device=device)
    ends = torch.tensor(sorted(stop), dtype=torch.long, device=device)
    branch = torch.arange(len(prompts), device=device).expand(n, -1)
    live = torch.arange(len(prompts), device=device)  # prompts that some condition still continues
    done = torch.zeros(n, len(prompts), dtype=torch.bool, device=device)
    tokens = torch.full((n, len(prompts), max_new_tokens), -1, device=device)
    entropy = torch.zeros(n, len(prompts), dtype=torch.float64, device=device)
    chosen = torch.zeros(n, len(prompts), asked.shape[1], dtype=torch.float64, device=device)
    past: object = None
    for step in range(max_new_tokens):
        seen, past = final.run(batch, past, use_cache=max_new_tokens > 1)
        token = torch.empty(n, len(live), dtype=torch.long, device=device)
        for here, system in systems(final, seen[:, -1], None if step == 0 else branch[:, live]):
            if step == 0:
                found = summarise(system)
                token[here], entropy[here] = found.best, found.entropy.double()
                asked_here = wanted.expand(len(system.at), -1, -1)
                chosen[here] = (system.gather(asked_here) - found.normaliser[..., None]).double()
            else:
                token[here] = choose(system)
        tokens[:, live, step] = torch.where(done[:, live], -1, token)
        done[:, live] |= torch.isin(token, ends)
        if done.all() or step + 1 == max_new_tokens:
            break
        live = (~done).any(0).nonzero()[:, 0]
        continuing = ~done[:, live]
        size = final.n_tokens
        pairs = branch[:, live] * size + tokens[:, live, step]  # one number: sorting rows is slow
        distinct, inverse = torch.unique(pairs[continuing], return_inverse=True)
        standing = torch.zeros_like(branch[:, live])  # a condition that has stopped stands anywhere: it is not read
        standing[continuing] = inverse
        branch = branch.clone()
        branch[:, live] = standing
        batch, past = _fork(batch, past, torch.stack([distinct // size, distinct % size], -1))
    return Generations(tokens.cpu().numpy(), entropy.cpu().numpy(), chosen.cpu().numpy())


def _fork(batch: Batch, past: object, distinct: torch.Tensor) -> tuple[Batch, object]:
    """The batch and cache of new branches, given as (parent branch, token) [branches, 2]."""
    from harness.model.model import Batch

    device = batch.input_ids.device
    parent, token = distinct[:, 0].to(device), distinct[:, 1].to(device)
    if torch.equal(parent, torch.arange(len(batch.input_ids), device=device)):  # no fork, no end: as in most steps
        return batch.extend(token[:, None]), past
    past.reorder_cache(parent)  # type: ignore[attr-defined]
    kept = Batch(batch.input_ids[parent], batch.attention_mask[parent], batch.position_ids[parent])
    return kept.extend(token[:, None]), past
