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

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from harness.engine.batched import BatchedEngine
from harness.engine.choosing import choose
from harness.engine.engine import Runner
from harness.engine.final_layer import FinalLayer, fits
from harness.engine.generations import GenerationRequest, Generations
from harness.engine.kernels import summarise
from harness.engine.scores import TokenScores
from harness.engine.systems import systems
from harness.engine.tempering import Tempered
from harness.engine.watched import watching
from harness.model.model import Batch

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.engine.final_layer import Observed
    from harness.engine.scores import ScoreRequest

TEMPERED_AT_ONCE = 64
"""Places whose logits are held for their temperatures."""


class ClosedFormRunner:
    """All conditions from passes of the untouched model."""

    def __init__(self, final: FinalLayer) -> None:
        self.final = final

    def score(self, reading: ScoreRequest) -> Iterator[tuple[Sequence[int], TokenScores]]:
        seen, _ = self.final.run(reading.batch)
        target, seen = reading.target.to(self.final.device), seen.map(reading.at)
        tempered = self._tempered(seen) if reading.tempered else None
        for here, system in systems(self.final, seen):
            own = system.gather(target.expand(len(system.at), -1)[..., None])[..., 0]
            found = summarise(system, target)
            yield (
                range(self.final.n)[here],
                TokenScores(found.normaliser - own, found.entropy, found.reached - 1, found.top, tempered),
            )

    def _tempered(self, seen: Observed) -> Tempered:
        """The untouched model at some places [N], at every temperature; the places in parts, for their logits."""
        parts = []
        for places in torch.arange(len(seen.residual)).split(TEMPERED_AT_ONCE):
            base = self.final.base(seen[places.to(self.final.device)])
            here = torch.arange(len(places), device=self.final.device)[None]
            parts += [Tempered.of(logits[0]) for _, logits in self.final.untouched.system(base, here).blocks()]
        return Tempered.cat(parts)

    def generate(self, request: GenerationRequest) -> Iterator[tuple[Sequence[int], Generations]]:
        """A branch for every distinct prefix that some condition has reached.

        ``branch[c, i]`` is the branch on which prompt i of condition c stands. A step evaluates every condition where
        it stands; the new branches are the distinct (branch, token) pairs among the conditions that have not stopped.
        """
        final, batch, steps = self.final, request.batch, request.max_new_tokens
        n, rows, device = final.n, len(batch.input_ids), final.device
        wanted = torch.as_tensor(request.choices, device=device)
        ends = request.ends().to(device)
        branch = torch.arange(rows, device=device).expand(n, -1)
        live = torch.arange(rows, device=device)  # prompts that some condition still continues
        done = torch.zeros(n, rows, dtype=torch.bool, device=device)
        tokens = torch.full((n, rows, steps), -1, device=device)
        entropy, top = torch.zeros(2, n, rows, dtype=torch.float64, device=device)
        chosen = torch.zeros(n, rows, wanted.shape[1], dtype=torch.float64, device=device)
        past: object = None
        for step in range(steps):
            if step == 0:
                with watching(final.model, request.watched, rows) as values:
                    seen, past = final.run(batch, past, use_cache=steps > 1)
                watched, tempered = values(), self._tempered(seen[:, -1]) if request.tempered else None
            else:
                seen, past = final.run(batch, past, use_cache=True)
            token = torch.empty(n, len(live), dtype=torch.long, device=device)
            for here, system in systems(final, seen[:, -1], None if step == 0 else branch[:, live]):
                if step == 0:
                    found = summarise(system)
                    token[here], entropy[here], top[here] = found.best, found.entropy.double(), found.top.double()
                    asked_here = wanted.expand(len(system.at), -1, -1)
                    chosen[here] = (system.gather(asked_here) - found.normaliser[..., None]).double()
                else:
                    token[here] = choose(system)
            tokens[:, live, step] = torch.where(done[:, live], -1, token)
            done[:, live] |= torch.isin(token, ends)
            if done.all() or step + 1 == steps:
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
        said, spread, asked, confidence = (array.cpu().numpy() for array in (tokens, entropy, chosen, top))
        yield range(n), Generations(said, spread, asked, confidence, tempered, watched)


def _fork(batch: Batch, past: object, distinct: torch.Tensor) -> tuple[Batch, object]:
    """The batch and cache of new branches, given as (parent branch, token) [branches, 2]."""
    device = batch.input_ids.device
    parent, token = distinct[:, 0].to(device), distinct[:, 1].to(device)
    if torch.equal(parent, torch.arange(len(batch.input_ids), device=device)):  # no fork, no end: as in most steps
        return batch.extend(token[:, None]), past
    past.reorder_cache(parent)  # type: ignore[attr-defined]
    kept = Batch(batch.input_ids[parent], batch.attention_mask[parent], batch.position_ids[parent])
    return kept.extend(token[:, None]), past


class ClosedFormEngine(BatchedEngine):
    """Equals :class:`harness.engine.hooks.HookEngine` to float32 precision, and is chosen by itself wherever it is
    valid."""

    name = "closed_form"

    def path(self, conditions: Sequence[Condition]) -> str:
        """How these conditions are run: ``closed_form``, or ``batched`` where the closed form is not valid."""
        return self.name if fits(self.model, conditions) else BatchedEngine.name

    def runners(self, conditions: Sequence[Condition]) -> Iterable[tuple[Sequence[int], Runner]]:
        if not fits(self.model, conditions):
            return super().runners(conditions)
        return [(range(len(conditions)), ClosedFormRunner(FinalLayer(self.model, conditions)))]
