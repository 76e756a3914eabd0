"""Sparse autoencoders and transcoders: their latents as units, read from the folders that SAELens saves.

``folders`` finds a dictionary, ``configuration`` reads what it is, ``dictionary`` encodes and decodes, ``access`` reads
and edits latents in a model's passes, ``latents`` makes units of them, ``reading`` and ``quality`` measure what they
do, ``selectors`` choose. ``train`` is a script that trains small ones, such as the one in ``data``.
"""

from __future__ import annotations

from harness.plugin import Selector, Unit, hookimpl

from .latents import Latent
from .selectors import NamedLatents, TopLatents


@hookimpl
def harness_units() -> list[type[Unit]]:
    return [Latent]


@hookimpl
def harness_selectors() -> list[type[Selector]]:
    return [TopLatents, NamedLatents]
