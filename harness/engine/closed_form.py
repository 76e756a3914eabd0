"""Many conditions at the price of one, for edits of the last layer's neurons.

Such an edit changes nothing but the last residual vector: keys, values and every earlier layer depend on the tokens
alone. So the model runs once per distinct token prefix, and every condition is evaluated there in closed form
(:mod:`.condition_blocks`). Generation walks a tree of prefixes that forks only where two conditions choose different
tokens. What a condition freezes stays as the untouched model has it on the condition's own tokens. An edit at one
token changes what is predicted there and nothing else: where conditions do not act (their positions), all of them are
the untouched model, which is evaluated once. Whatever does not fit (earlier layers, heads, overlapping edits) is run
with hooks, many conditions in one pass (:mod:`harness.engine.batched`).

A model in half precision runs in half precision up to its last residual vector; from there on everything is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch

from harness.conditions.placed import where_all
from harness.conditions.positions import EVERYWHERE, Positions
from harness.engine.batched import BatchedEngine
from harness.engine.choosing import choose
from harness.engine.engine import Runner
from harness.engine.final_layer import FinalLayer, fits
from harness.engine.generations import GenerationRequest, Generations
from harness.engine.hooks import acting
from harness.engine.kernels import System, summarise
from harness.engine.scores import TokenScores
from harness.engine.systems import systems
from harness.engine.tempering import Tempered
from harness.engine.watched import watching
from harness.model.model import Batch

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.conditions.positions import Layout
    from harness.engine.final_layer import Observed
    from harness.engine.scores import ScoreRequest

Places: TypeAlias = "slice | torch.Tensor"
"""Some of N places: all, or those of a mask, bool [N]."""

TEMPERED_AT_ONCE = 64
"""Places whose logits are held for their temperatures."""


class ClosedFormRunner:
    """All conditions from passes of the untouched model.

    Args:
        positions: where those conditions act that edit anything.
    """

    def __init__(self, final: FinalLayer, positions: Positions = EVERYWHERE) -> None:
        self.final, self.positions = final, positions

    def score(self, reading: ScoreRequest) -> Iterator[tuple[Sequence[int], TokenScores]]:
        seen, _ = self.final.run(reading.batch)
        target, seen = reading.target.to(self.final.device), seen.map(reading.at)
        tempered = self._tempered(seen) if reading.tempered else None

        def told(system: System, places: Places) -> tuple[torch.Tensor, ...]:
            own = system.gather(target[places].expand(len(system.at), -1)[..., None])[..., 0]
            found = summarise(system, target[places])
            return found.normaliser - own, found.entropy, found.reached - 1, found.top

        acts = self._acts(reading.layout, reading.batch.position_ids[:, -reading.keep :])
        acts = None if acts is None else acts[reading.predicting.to(self.final.device)]
        for here, said in self._at_places(seen, acts, told):
            loss, entropy, rank, top = said
            yield range(self.final.n)[here], TokenScores(loss, entropy, rank, top, tempered)

    def _at_places(
        self, seen: Observed, acts: torch.Tensor | None, told: Callable[[System, Places], tuple[torch.Tensor, ...]]
    ) -> Iterator[tuple[slice, tuple[torch.Tensor, ...]]]:
        """What all conditions say at some places [N], some conditions at a time. Where they do not act that is what the
        untouched model says, which is made once.

        Args:
            acts: bool [N]; None: they act everywhere.
            told: arrays [C, n, ...] of the logits at n of the places.
        """
        if acts is None or acts.all():
            for here, system in systems(self.final, seen):
                yield here, told(system, slice(None))
            return
        untouched = told(self._untouched(seen[~acts]), ~acts)
        if not acts.any():
            yield slice(0, self.final.n), tuple(x.expand(self.final.n, *x.shape[1:]) for x in untouched)
            return
        for here, system in systems(self.final, seen[acts]):
            parts = zip(untouched, told(system, acts), strict=True)
            yield here, tuple(_put_together(before, after, acts) for before, after in parts)

    def _acts(self, layout: Layout, token: torch.Tensor) -> torch.Tensor | None:
        """Whether edits act at tokens [n_prompts, n] of the prompts, counted from the first of each; None: at all."""
        if self.positions.everywhere:
            return None
        return acting(torch.from_numpy(self.positions.mask(layout)), token.to(self.final.device))

    def _untouched(self, seen: Observed) -> System:
        """The untouched model's logits at some places [N]."""
        here = torch.arange(len(seen.residual), device=self.final.device)
        return self.final.untouched.system(self.final.base(seen), here[None])

    def _tempered(self, seen: Observed) -> Tempered:
        """The untouched model at some places [N], at every temperature; the places in parts, for their logits."""
        parts = []
        for places in torch.arange(len(seen.residual), device=self.final.device).split(TEMPERED_AT_ONCE):
            parts += [Tempered.of(logits[0]) for _, logits in self._untouched(seen[places]).blocks()]
        return Tempered.cat(parts)

    def generate(self, request: GenerationRequest) -> Iterator[tuple[Sequence[int], Generations]]:
        """A branch for every distinct prefix that some condition has reached.

        ``branch[c, i]`` is the branch on which prompt i of condition c stands. A step evaluates every condition where
        it stands; the new branches are the distinct (branch, token) pairs among the conditions that have not stopped.
        """
        final, batch, steps = self.final, request.batch, request.max_new_tokens
        n, rows, device = final.n, len(batch.input_ids), final.device
        ends = request.ends().to(device)
        branch = torch.arange(rows, device=device).expand(n, -1)
        live = torch.arange(rows, device=device)  # prompts that some condition still continues
        done = torch.zeros(n, rows, dtype=torch.bool, device=device)
        tokens = torch.full((n, rows, steps), -1, device=device)
        past: object = None
        for step in range(steps):
            if step == 0:
                with watching(final.model, request.watched, rows) as values:
                    seen, past = final.run(batch, past, use_cache=steps > 1)
                watched, tempered = values(), self._tempered(seen[:, -1]) if request.tempered else None
                token, *first = self._first(seen[:, -1], request)
            else:
                seen, past = final.run(batch, past, use_cache=True)
                token = self._next(seen[:, -1], branch[:, live], step - 1)
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
        said, entropy, asked, top = (array.cpu().numpy() for array in (tokens, *first))
        yield range(n), Generations(said, entropy, asked, top, tempered, watched)

    def _first(self, seen: Observed, request: GenerationRequest) -> tuple[torch.Tensor, ...]:
        """The first new token of every condition and prompt [n, n_prompts], and of the distribution that it is of
        (float64) the entropy, the log-probabilities of the request's choices [..., n_choices], and the largest."""
        wanted = torch.as_tensor(request.choices, device=self.final.device)

        def told(system: System, places: Places) -> tuple[torch.Tensor, ...]:
            found = summarise(system)
            asked = system.gather(wanted[places].expand(len(system.at), -1, -1)) - found.normaliser[..., None]
            return found.best, found.entropy.double(), asked.double(), found.top.double()

        acts = self._acts(request.layout, request.batch.position_ids[:, -1:])
        parts = list(self._at_places(seen, None if acts is None else acts[:, 0], told))
        return tuple(torch.cat(column) for column in zip(*(said for _, said in parts), strict=True))

    def _next(self, seen: Observed, branch: torch.Tensor, place: int) -> torch.Tensor:
        """The next token where each condition stands on each prompt, ``branch`` [n, n_prompts], at the generated token
        ``place``."""
        if not self.positions.generated_at(place):
            return choose(self._untouched(seen))[0, branch]
        token = torch.empty_like(branch)
        for here, system in systems(self.final, seen, branch):
            token[here] = choose(system)
        return token


def _put_together(untouched: torch.Tensor, edited: torch.Tensor, acts: torch.Tensor) -> torch.Tensor:
    """Arrays [C, N, ...] of all places from those where conditions act [C, n, ...] and the others [1, N - n, ...]."""
    whole = edited.new_empty(len(edited), len(acts), *edited.shape[2:])
    whole[:, acts], whole[:, ~acts] = edited, untouched.expand(len(edited), *untouched.shape[1:])
    return whole


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
        return [
            (members, ClosedFormRunner(FinalLayer(self.model, [conditions[c] for c in members]), positions))
            for positions, members in _by_positions(conditions).items()
        ]


def _by_positions(conditions: Sequence[Condition]) -> dict[Positions, list[int]]:
    """The numbers of the conditions by where they act, mostly all in one place; untouched ones go with the first."""
    acting: dict[Positions, list[int]] = {}
    for c, condition in enumerate(conditions):
        if condition.edits:
            acting.setdefault(where_all(condition) or EVERYWHERE, []).append(c)  # of those that fit all act alike
    first = next(iter(acting), EVERYWHERE)
    acting[first] = sorted([*acting.get(first, []), *(c for c, x in enumerate(conditions) if x.untouched)])
    return acting
