"""Sentences that the terminal and the page share."""

from __future__ import annotations

from .attribution import Attribution

LENS = (
    "Increases are nats of the target's log-probability: log F(r + c) - log F(r), c what a component writes beside the "
    "residual stream r, F the unembedding behind the final norm with the last position's denominator. log p: of the "
    "target in the residual stream that enters a layer, read likewise; with all increases it leads to the model's own."
)

QUERY = (
    "Shares of the value neurons' pre-activations (norms held), weighted by their increases; with the constant they "
    "sum to 1."
)


def heading(found: Attribution) -> str:
    """The sentence and its next token."""
    return f'"{found.sentence.text}" -> "{found.target}", {found.sentence.model.name}'


def standing(found: Attribution) -> str:
    """How likely the target is, and what the model predicts."""
    target = f'"{found.target}": log p {found.log_p:.3f}'
    if found.rank == 1:
        return f"{target}, the model's own prediction"
    first = found.predicted.iloc[0]
    return f'{target}, rank {found.rank}; the model predicts "{first["token"]}" (log p {first["log_p"]:.3f})'


def share(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f}%"
