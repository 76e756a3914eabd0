"""Many conditions at the price of one, for edits of the last layer's neurons.

Such an edit changes nothing but the last residual vector: keys, values and every earlier layer depend on the tokens
alone. So the model runs once per distinct token prefix, and every condition is evaluated there:

    x_c      = x + delta_c @ w_out            delta_c: the change of the edited neurons' activations
    logits_c = (W (x - c) + delta_c @ (W w_out^T)) / denominator(x_c) + b      W: W_U times the final norm's gain

which costs one base vector and a few precomputed columns of W w_out^T instead of a pass through the unembedding.
Generation walks a tree of prefixes that forks only where two conditions choose different tokens.

Whatever does not fit (earlier layers, overlapping edits, a norm after the MLP, half precision) is run with hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.conditions import SetNeurons
from harness.engine import Generations, HookEngine, Progress, Scores, batches
from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.conditions import Condition
    from harness.model import Batch, Model

BLOCK_BYTES = 8 * 2**20
"""Size of one block of logits: small enough to stay in a processor's cache, large enough to amortise a call."""


class ClosedFormEngine(HookEngine):
    """Equals :class:`HookEngine` to float32 precision, and is chosen by itself wherever it is valid."""

    name = "closed_form"

    def path(self, conditions: Sequence[Condition]) -> str:
        """How these conditions are run: ``closed_form``, or ``hooks`` where the closed form is not valid."""
        return "closed_form" if fits(self.model, conditions) else "hooks"

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
        """Greedy continuations; see :meth:`HookEngine.generate`."""
        if not fits(self.model, conditions):
            return super().generate(prompts, conditions, max_new_tokens, stop, choices, progress)
        asked = np.array(choices, dtype=np.int64) if choices else np.zeros((len(prompts), 0), np.int64)
        shape = (len(conditions), len(prompts))
        tokens = np.full((*shape, max_new_tokens), -1, np.int64)
        entropy, chosen = np.zeros(shape), np.zeros((*shape, asked.shape[1]))
        readouts = FinalLayer(self.model, conditions)
        for rows in batches(prompts, self.batch_size):
            made = _generate_tree(readouts, [prompts[row] for row in rows], asked[rows], max_new_tokens, stop)
            tokens[:, rows], entropy[:, rows], chosen[:, rows] = made.tokens, made.entropy, made.choices
            if progress:
                progress(len(rows) * len(conditions))
        return Generations(tokens, entropy, chosen)

    @torch.no_grad()
    def score(
        self, prompts: Sequence[Sequence[int]], conditions: Sequence[Condition], progress: Progress | None = None
    ) -> Scores:
        """Loss, entropy and rank of every token but the first; see :meth:`HookEngine.score`."""
        if not fits(self.model, conditions):
            return super().score(prompts, conditions, progress)
        lengths = np.array([len(tokens) for tokens in prompts])
        first = np.concatenate([[0], np.cumsum(lengths - 1)])
        shape = (len(conditions), int(first[-1]))
        loss, uncertainty, rank = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64)
        readouts = FinalLayer(self.model, conditions)
        for rows in batches(prompts, self.batch_size):
            batch = self.model.pad([list(prompts[row]) for row in rows])
            x, activations, _ = readouts.run(batch)
            predicting = batch.attention_mask[:, :-1].bool()  # every real position but the last of each prompt
            target = batch.input_ids[:, 1:][predicting]
            place = np.concatenate([np.arange(first[row], first[row + 1]) for row in rows])
            for block in readouts.blocks(x[:, :-1][predicting], activations[:, :-1][predicting]):
                found = summary(block.logits)
                right = found.log_probs(block.logits, target[None, :, None].expand(len(block.logits), -1, 1))
                own = block.logits.gather(-1, target[None, :, None].expand(len(block.logits), -1, 1))
                cells = np.ix_(np.arange(block.start, block.stop), place)
                loss[cells] = -right[..., 0].double().cpu().numpy()
                uncertainty[cells] = found.entropy.double().cpu().numpy()
                rank[cells] = ((block.logits >= own).sum(-1) - 1).cpu().numpy()
            if progress:
                progress(len(rows) * len(conditions))
        prompt = np.repeat(np.arange(len(prompts)), lengths - 1)
        position = np.concatenate([np.arange(1, n) for n in lengths]) if len(lengths) else np.zeros(0, np.int64)
        return Scores(prompt, position, loss, uncertainty, rank)


def fits(model: Model, conditions: Sequence[Condition]) -> bool:
    """Whether the closed form is valid: float32, a last MLP that writes straight into the final residual, and edits of
    the last layer's neurons only, no neuron twice in a condition."""
    anatomy = model.anatomy
    straight = anatomy.post_mlp_norms[-1] is None and anatomy.residual_multiplier == 1.0 and anatomy.direct_write
    if model.dtype != torch.float32 or not straight or model.readout.norm_module is None:
        return False
    for condition in conditions:
        edited = [index for edit in condition.edits for index in edit.indices]
        if len(set(edited)) < len(edited) or any(edit.layer != anatomy.n_layers - 1 for edit in condition.edits):
            return False
    return True


@dataclass(frozen=True)
class Block:
    """Logits [stop - start, rows, d_vocab] of some consecutive conditions."""

    start: int
    stop: int
    logits: torch.Tensor


@dataclass(frozen=True)
class Summary:
    """What is needed of a distribution over the vocabulary: best token, normaliser and entropy, each [...]."""

    best: torch.Tensor
    normaliser: torch.Tensor
    entropy: torch.Tensor

    def log_probs(self, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of ``tokens`` [..., n]."""
        return logits.gather(-1, tokens) - self.normaliser[..., None]


def summary(logits: torch.Tensor) -> Summary:
    """Best token, log sum exp and entropy of logits [..., d_vocab] in one sweep.

    With p = softmax(l) and m = max l: H = log Z + m - sum p l = log Z - sum p (l - m), Z = sum exp(l - m).

    Raises:
        HarnessError: the logits are not finite.
    """
    top, best = logits.max(-1, keepdim=True)
    shifted = logits - top
    weights = shifted.exp()
    total = weights.sum(-1)
    # A logit of -inf has weight 0 and contributes 0, not 0 * -inf.
    spread = (weights * shifted.clamp_min(-1e4)).sum(-1)
    normaliser = total.log() + top[..., 0]
    if not torch.isfinite(normaliser).all():
        raise HarnessError("the model's logits are not finite under some condition (NaN or infinity).")
    return Summary(best[..., 0], normaliser, total.log() - spread / total)


class FinalLayer:
    """All conditions' logits from the final residual and the last layer's activations.

    Precomputes, for C conditions of at most k edited neurons: their indices [C, k], and the columns W w_out^T.
    """

    def __init__(self, model: Model, conditions: Sequence[Condition]) -> None:
        self.model, self.conditions = model, conditions
        self.layer = model.anatomy.n_layers - 1
        self.width = max((sum(len(e.indices) for e in c.edits) for c in conditions), default=0)
        readout = model.readout
        self.folded = readout.folded_unembedding(fold=True, centre=False)
        self.constant = readout.folded_bias(centre=False)
        w_out = model.w_out(self.layer).to(self.folded.device)
        if readout.centre_writes:
            w_out = w_out - w_out.mean(1, keepdim=True)
        self.used = sorted({i for c in conditions for e in c.edits for i in e.indices}) or [0]
        place = {index: row for row, index in enumerate(self.used)}
        self.w_out = w_out[self.used]
        self.columns = self.w_out @ self.folded.T
        # Conditions with fewer neurons are filled up with the first one, whose delta is then 0.
        rows = [[place[i] for e in c.edits for i in e.indices] for c in conditions]
        self.indices = torch.tensor([r + [0] * (self.width - len(r)) for r in rows], dtype=torch.long)
        self.filled = torch.tensor([[i < len(r) for i in range(self.width)] for r in rows], dtype=torch.bool)
        self.indices, self.filled = self.indices.to(self.folded.device), self.filled.to(self.folded.device)
        self.values = self._constants()

    def _constants(self) -> torch.Tensor | None:
        """New activations [C, k] where every edit sets constants, else None (then edits are asked one by one)."""
        if not all(isinstance(edit, SetNeurons) for c in self.conditions for edit in c.edits):
            return None
        rows = [[v for e in c.edits if isinstance(e, SetNeurons) for v in e.values] for c in self.conditions]
        return torch.tensor([r + [0.0] * (self.width - len(r)) for r in rows], device=self.folded.device)

    def run(
        self, batch: Batch, past: object = None, use_cache: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, object]:
        """One pass of the untouched model: final residual [batch, pos, d_model], activations of the neurons that some
        condition edits [batch, pos, used], and the cache."""
        with self.model.capture_residual() as captured, self.model.capture_neurons(self.layer) as neurons:
            out = self.model.forward(batch, past=past, logits_to_keep=1, use_cache=use_cache)
        device = self.folded.device
        activations = neurons[self.layer][..., self.used].to(device)
        return captured.residual.to(device), activations, getattr(out, "past_key_values", None)

    def _deltas(self, activations: torch.Tensor, branch: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Change of the edited activations [C, rows, k] under conditions [start, stop), where row r of condition c
        stands on branch[c, r]; activations [branches, used]."""
        now = activations[branch[:, :, None], self.indices[start:stop][:, None, :]]
        if self.values is not None:
            new = self.values[start:stop, None, :]
        else:
            new = now.clone()
            for c, condition in enumerate(self.conditions[start:stop]):
                place = 0
                for edit in condition.edits:
                    end = place + len(edit.indices)
                    new[c, :, place:end] = edit.apply(now[c, :, place:end])
                    place = end
        return torch.where(self.filled[start:stop, None, :], new - now, 0.0)

    def blocks(self, x: torch.Tensor, activations: torch.Tensor, branch: torch.Tensor | None = None) -> Iterator[Block]:
        """Logits of every condition, a block of conditions at a time.

        Args:
            x: final residuals [branches, d_model]. activations: [branches, used].
            branch: int64 [C, rows], the branch that each row of each condition stands on; default: row i on branch i.
        """
        readout = self.model.readout
        centred = x.float() - (x.float().mean(-1, keepdim=True) if readout.centre_writes else 0.0)
        base = centred @ self.folded.T
        own = torch.arange(len(x), device=x.device).expand(len(self.conditions), -1)
        rows = own.shape[1] if branch is None else branch.shape[1]
        if rows == 0:
            return
        step = max(1, BLOCK_BYTES // (4 * rows * base.shape[1]))
        for start in range(0, len(self.conditions), step):
            stop = min(start + step, len(self.conditions))
            at = (own if branch is None else branch)[start:stop]
            delta = self._deltas(activations, at, start, stop)
            logits = base.expand(stop - start, -1, -1) if branch is None else base[at]
            indices = self.indices[start:stop]
            moved = centred[at] + delta @ self.w_out[indices]
            denominator = (moved.square().mean(-1, keepdim=True) + readout.eps).sqrt()
            if readout.norm == "none":
                denominator = torch.ones_like(denominator)
            logits = torch.baddbmm(logits, delta, self.columns[indices])
            logits = torch.addcmul(self.constant, logits, denominator.reciprocal())
            yield Block(start, stop, readout._finish(logits))


def _generate_tree(
    readouts: FinalLayer,
    prompts: Sequence[Sequence[int]],
    asked: np.ndarray,
    max_new_tokens: int,
    stop: frozenset[int],
) -> Generations:
    """Greedy continuations of one batch: a branch for every distinct prefix that some condition has reached.

    ``branch[c, i]`` is the branch on which prompt i of condition c stands. A step evaluates every condition where it
    stands; the new branches are the distinct (branch, token) pairs among the conditions that have not stopped.
    """
    model, n = readouts.model, len(readouts.conditions)
    device = readouts.folded.device
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
        residual, activations, past = readouts.run(batch, past, use_cache=max_new_tokens > 1)
        x, activations = residual[:, -1], activations[:, -1]
        token = torch.empty(n, len(live), dtype=torch.long, device=device)
        for block in readouts.blocks(x, activations, None if step == 0 else branch[:, live]):
            here = slice(block.start, block.stop)
            if step == 0:
                found = summary(block.logits)
                token[here], entropy[here] = found.best, found.entropy.double()
                chosen[here] = found.log_probs(block.logits, wanted.expand(len(block.logits), -1, -1)).double()
            else:
                top, token[here] = block.logits.max(-1)
                if not torch.isfinite(top).all():
                    raise HarnessError("the model's logits are not finite under some condition (NaN or infinity).")
        tokens[:, live, step] = torch.where(done[:, live], -1, token)
        done[:, live] |= torch.isin(token, ends)
        if done.all() or step + 1 == max_new_tokens:
            break
        live = (~done).any(0).nonzero()[:, 0]
        continuing = ~done[:, live]
        size = readouts.folded.shape[0]
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
    from harness.model import Batch

    device = batch.input_ids.device
    parent, token = distinct[:, 0].to(device), distinct[:, 1].to(device)
    past.reorder_cache(parent)  # type: ignore[attr-defined]
    kept = Batch(batch.input_ids[parent], batch.attention_mask[parent], batch.position_ids[parent])
    return kept.extend(token[:, None]), past
