"""Claims that published numbers answer by themselves: counts of prompts before and after, places among random sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.errors import HarnessError, suggest
from harness.plugin.claims import Claims, CountRule, MarginsRule, MovesRule, QuantileRule, RecountRule
from harness.results.claims import Judged
from harness.statistics import ALPHA, adjust, conversion_ratios, moves, stuart_maxwell


def recount(rule: CountRule, claims: Claims, model: str, where: str) -> Judged:
    """A claim's rule on the published numbers of one model.

    Raises:
        HarnessError: there is no such quantity or category; names the nearest.
    """
    if isinstance(rule, QuantileRule):
        return _quantile(rule, model)
    table = np.array(claims.tables[model])
    match rule:
        case RecountRule():
            return _ratio(rule, table, claims.categories, model, where)
        case MovesRule():
            return _moves(rule, table, claims.categories, where)
        case MarginsRule():
            return _margins(table)


def _ratio(rule: RecountRule, table: np.ndarray, categories: Sequence[str], model: str, where: str) -> Judged:
    ratios = conversion_ratios(table, categories)
    _known(rule.quantity, ratios, where, "quantity")
    ours, published = ratios[rule.quantity], rule.published[model]
    if ours is None:
        return Judged(outcome="cannot be tested", why="the counts leave nothing that could convert", unit="%")
    alike = [name for name, x in ratios.items() if x is not None and abs(x - published) < 10**-rule.places]
    own = Judged(outcome="confirmed", why="the counts give the published number", value=ours, unit="%")
    if rule.quantity in alike:
        return own
    other = f"; the published number is their {alike[0]}" if alike else ""
    why = f"the published {published:g}% is not what the counts give{other}"
    return own.says("missed", why)


def _moves(rule: MovesRule, table: np.ndarray, categories: Sequence[str], where: str) -> Judged:
    _known(rule.into, categories, where, "category")
    found = moves(table)[categories.index(rule.into)]
    told = f"{found.into} prompts moved into {rule.into} and {found.out} out of it, exact McNemar p = {found.p:.2g}"
    p = found.p if found.p_holm is None else found.p_holm
    told += f" ({p:.2g} with Holm's correction over categories)"
    if p > ALPHA:
        return Judged(outcome="cannot be tested", why=f"underpowered: {told}")
    return Judged(outcome="confirmed" if found.into > found.out else "missed", why=told)


def _margins(table: np.ndarray) -> Judged:
    found = stuart_maxwell(table)
    told = f"Stuart-Maxwell: chi-square {found.statistic:.3g} with {found.df} degrees of freedom"
    if found.p is None:
        return Judged(outcome="cannot be tested", why=f"{told}: fewer than two categories occur")
    told += f", p = {found.p:.2g}"
    if found.p > ALPHA:
        return Judged(outcome="cannot be tested", why=f"underpowered: {told}")
    return Judged(outcome="confirmed", why=told)


def _quantile(rule: QuantileRule, model: str) -> Judged:
    m = rule.controls
    p = [(m * (1 - x / 100) + 1) / (m + 1) for x in rule.published.values()]
    holm = dict(zip(rule.published, adjust(p, "holm"), strict=True))[model]
    own = dict(zip(rule.published, p, strict=True))[model]
    assert holm is not None  # no p is missing
    told = (
        f"p = {own:.3g}, {holm:.3g} with Holm's correction over {len(p)} models; {m} control sets cannot give less "
        f"than {1 / (m + 1):.3g}, {len(p) / (m + 1):.3g} with the correction"
    )
    if holm > ALPHA:
        return Judged(outcome="cannot be tested", why=f"underpowered: {told}")
    return Judged(outcome="confirmed", why=told)


def _known(name: str, known: Sequence[str] | dict[str, float | None], where: str, what: str) -> None:
    if name not in known:
        raise HarnessError(f'{where}: unknown {what} "{name}".{suggest(name, known)} There are: {", ".join(known)}.')
