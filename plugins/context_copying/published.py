"""The entropy neurons that Tighidet et al. (EMNLP 2025) list for their five models."""

from __future__ import annotations

import json
from importlib.resources import files

from harness.plugin import PublishedNeurons


def published_neurons() -> list[PublishedNeurons]:
    """The lists of ``published_neurons.json``, which says where they are from."""
    text = (files(__package__) / "published_neurons.json").read_text(encoding="utf-8")
    return [
        PublishedNeurons(name, tuple(entry["neurons"]), what="entropy neuron", by="Tighidet et al. (2025)")
        for name, entry in json.loads(text)["lists"].items()
    ]
