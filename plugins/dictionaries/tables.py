"""Tables of a dictionary's quality and of the selected latents."""

from __future__ import annotations

from typing import Any

from harness.plugin import Frame, Selection

SAID = {
    "tokens": "tokens",
    "l0": "L0: active latents a token",
    "fvu": "FVU: variance that is not explained",
    "loss": "loss of the model (nats a token)",
    "loss_spliced": "loss with the reconstruction instead",
    "loss_zeroed": "loss with zeros instead",
    "recovered": "share of the loss that is recovered",
    "dead": "latents that are never active",
}


def dictionary_table(selection: Selection) -> Frame:
    """How well the dictionary fits the model."""
    about, quality = selection.details["dictionary"], selection.details["quality"]
    return Frame(
        "dictionary",
        f"The dictionary {about['name']} ({about['architecture']}, {about['hook']}, {about['d_sae']} latents) on the "
        "sequences that the selector looked at, without their first tokens",
        {"quantity": list(SAID.values()), "value": [float(quality[key]) for key in SAID]},
    )


def latent_table(selection: Selection) -> Frame:
    """The selected latents with their scores, and the tokens that they promote."""
    row = {unit: i for i, unit in enumerate(selection.candidates)}
    rows = [row[unit] for unit in selection.units]
    columns: dict[str, list[Any]] = {"latent": [str(unit) for unit in selection.units]}
    columns |= {name: [float(values[i]) for i in rows] for name, values in selection.scores.items()}
    promoted = selection.details["promoted"]
    if promoted:
        texts = [promoted[str(unit)] for unit in selection.units]
        columns["promoted"] = ["  ".join(repr(text.strip() or text)[1:-1] for text in found) for found in texts]
    return Frame("latents", "The selected latents, and the tokens whose logits their decoder rows raise most", columns)
