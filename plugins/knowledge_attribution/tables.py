"""Tables of attributed components, with the tokens that they promote and suppress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.plugin import Frame

if TYPE_CHECKING:
    from harness.plugin import Selection

SHOWN = 5
"""Promoted and suppressed tokens in a table."""


def words(texts: Sequence[str]) -> str:
    """Tokens side by side, line breaks and the like escaped."""
    return "  ".join(repr(text.strip() or text)[1:-1] for text in texts[:SHOWN])


def token_table(selection: Selection, name: str, column: str, title: str) -> Frame:
    """The selected components with their score and tokens."""
    row = {unit: i for i, unit in enumerate(selection.candidates)}
    tokens = [selection.details["tokens"][str(unit)] for unit in selection.units]
    noun = name.removesuffix("s").split("_")[-1]
    return Frame(
        name,
        f"The selected {name.replace('_', ' ')} by {title}, and the tokens that they promote and suppress",
        {
            noun: [str(unit) for unit in selection.units],
            column: [float(selection.scores[column][row[unit]]) for unit in selection.units],
            "promoted": [words(found["promoted"]) for found in tokens],
            "suppressed": [words(found["suppressed"]) for found in tokens],
        },
    )


def attention_neuron_table(selection: Selection) -> Frame:
    """The attention neurons with the largest increases over all predictions."""
    rows: Sequence[Mapping[str, Any]] = selection.details["attention_neurons"]
    return Frame(
        "attention_neurons",
        "Attention neurons: increase summed over source positions, mean over predictions; the tokens that they read, "
        "promote and suppress",
        {
            **{key: [row[key] for row in rows] for key in ("neuron", "increase", "share_of_prompts")},
            **{key: [words(row[key]) for row in rows] for key in ("reads", "promoted", "suppressed")},
        },
    )


def example_table(selection: Selection) -> Frame:
    """The attention neurons of the first prediction, by source position."""
    example = selection.details["example"]
    rows: Sequence[Mapping[str, Any]] = example["neurons"]
    return Frame(
        "attention_neurons_example",
        f'Attention neurons of one prediction ("{words([example["target"]])}"), by source position',
        {
            **{key: [row[key] for row in rows] for key in ("neuron", "position")},
            "token": [words([row["token"]]) for row in rows],
            "increase": [row["increase"] for row in rows],
            **{key: [words(row[key]) for row in rows] for key in ("promoted", "suppressed")},
        },
    )
