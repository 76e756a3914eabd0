"""Prompts that only the selector sees, so that those that are evaluated have no say in what is selected.

Units that were chosen for what they do on some prompts do more on these than random ones whatever they are: of 128
neurons with effects of pure noise the largest is "significant" every time (circular analysis; Kriegeskorte, Simmons,
Bellgowan & Baker 2009, Nature Neuroscience 12(5)). The remedy is to select on one part of the data and to test on the
other. Prompts of one fact are not independent, and so the parts are made of whole facts (``Prompt.cluster``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import HarnessError
from harness.files.wording import agree, counted
from harness.plugin import border
from harness.plugin.records import Prepared, Prompt, Step

if TYPE_CHECKING:
    from harness.running.plan import Plan

HOLD_OUT = 0.3
"""Share of the facts that only the selector sees, by default where it would look at the prompts that are evaluated."""

FEWEST = 2
"""Facts on either side: one has no spread."""


def split(plan: Plan, prepared: Prepared) -> Prepared:
    """The prompts of a run: those that its selector sees apart from those that are evaluated, where it takes that.

    A task that holds prompts out itself is left its own split.

    Raises:
        HarnessError: a part would have fewer than two facts, or both the task and the user hold out.
    """
    from harness.statistics import derive_seed

    asked = plan.spec.hold_out
    if prepared.held_out:
        if asked:
            raise HarnessError(
                f"--hold_out: the task {plan.task.name} holds out prompts for selectors itself (see its parameters); "
                "leave --hold_out out."
            )
        return prepared
    share = asked if asked is not None else HOLD_OUT if border.reads_prompts(plan.selector) else 0.0
    if not share:
        return prepared
    groups = _apart(prepared.prompts)
    n = round(share * len(groups)) if asked is not None else max(round(share * len(groups)), FEWEST)
    if min(n, len(groups) - n) < FEWEST:
        raise HarnessError(
            f"--hold_out: {share:g} of {counted(len(groups), 'independent item')} for selector {plan.selector.name} "
            f"leaves fewer than {FEWEST} on one side; take more data, another share, or --hold_out 0, with which a "
            "selector that looks at prompts sees those that are evaluated and the run is exploratory."
        )
    # Ranked by name, not by place: runs whose models know other facts hold out the same ones, and can be paired.
    seed = derive_seed(plan.spec.seed, "hold_out")
    ranked = sorted(groups, key=lambda group: derive_seed(seed, group[0]))
    held = {cluster for group in ranked[:n] for cluster in group}
    seen = tuple(prompt for prompt in prepared.prompts if prompt.cluster in held)
    left = tuple(prompt for prompt in prepared.prompts if prompt.cluster not in held)
    why = f"the others, of {n} of {counted(len(groups), 'independent item')}, are held out: only the selector sees them"
    return replace(
        prepared, prompts=left, held_out=seen, steps=(*prepared.steps, Step("hold out", len(left), len(seen), why))
    )


def _apart(prompts: Sequence[Prompt]) -> list[list[str]]:
    """Names of the clusters, those together that share a prompt: two facts may be asked for in the same words."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    clusters = {name: i for i, name in enumerate(dict.fromkeys(prompt.cluster for prompt in prompts))}
    texts = {tokens: i for i, tokens in enumerate(dict.fromkeys(prompt.tokens for prompt in prompts), len(clusters))}
    edges = [clusters[prompt.cluster] for prompt in prompts], [texts[prompt.tokens] for prompt in prompts]
    size = len(clusters) + len(texts)
    n, label = connected_components(coo_array((np.ones(len(prompts)), edges), shape=(size, size)), directed=False)
    groups: list[list[str]] = [[] for _ in range(n)]
    for name, i in clusters.items():
        groups[label[i]].append(name)
    return [sorted(group) for group in groups]


def exploratory(plan: Plan, prepared: Prepared) -> str | None:
    """Why verdicts on these prompts are exploratory, in a sentence; None where the selector has seen none of them."""
    selector = plan.selector
    if border.reads_prompts(selector) and not prepared.held_out:
        return (
            f"The selector {selector.name} looked at the prompts that are evaluated: what it finds there is no finding "
            f"yet; --hold_out {HOLD_OUT:g} keeps that share of the facts for the selector alone."
        )
    if seen := border.seen(selector, prepared.prompts):
        return (
            f"The selector {selector.name} has seen {seen} of the {counted(len(prepared.prompts), 'prompt')} that "
            f"{agree(len(prepared.prompts), 'is', 'are')} evaluated, among texts of its own: what it finds there is no "
            "finding yet; evaluate on other texts."
        )
    return None
