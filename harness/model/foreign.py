"""Models that other libraries have wrapped: TransformerLens, nnsight. The causal language model inside.

nnsight leaves the modules as they are and calls them. A ``TransformerBridge`` puts modules of its own around
them and takes attention apart; its parts are found in the same modules put back together (:func:`unbridged`), and
edits are made where the bridge itself runs them.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

from torch import nn

from harness.errors import HarnessError
from harness.model.anatomy import Anatomy

WRAPPERS = {"nnsight": "_module", "transformer_lens": "original_model"}
"""Where each library's object holds the ``transformers`` model."""


class Inside(NamedTuple):
    """What is in a wrapper.

    Attributes:
        hf: a ``transformers`` model; its modules are those that run, but for the containers in ``ran``.
        tokenizer: the wrapper's, or None.
        runs: the model that the wrapper runs.
        ran: what the wrapper runs in the place of a module of ``hf``; empty where it runs ``hf`` itself.
    """

    hf: Any
    tokenizer: Any
    runs: Any
    ran: dict[nn.Module, nn.Module]


def inside(model: Any) -> Inside:
    """The ``transformers`` model in a wrapper, or the one that is given.

    Raises:
        HarnessError: it is none, and no library's that is known wraps one.
    """
    # By the library of any base class: people subclass nnsight's.
    library = next((x.__module__.partition(".")[0] for x in type(model).__mro__[:-1] if _known(x)), "transformers")
    if getattr(model, "dispatched", True) is False:
        raise HarnessError("nnsight has not read the model's weights yet: load it with dispatch=True.")
    found = getattr(model, WRAPPERS[library], None) if library in WRAPPERS else model
    if not (isinstance(found, nn.Module) and hasattr(found, "get_output_embeddings")):
        raise HarnessError(
            f"a {type(model).__name__} is no causal language model of transformers, nor one that nnsight or a "
            "TransformerBridge of TransformerLens has wrapped."
        )
    tokenizer = None if library == "transformers" else getattr(model, "tokenizer", None)
    if library != "transformer_lens":
        return Inside(found, tokenizer, found, {})
    if getattr(model, "compatibility_mode", False):
        raise HarnessError(
            "a TransformerBridge in compatibility mode runs weights that are folded and centred, by steps of its own: "
            "hand over one without enable_compatibility_mode()."
        )
    ran: dict[nn.Module, nn.Module] = {}
    return Inside(unbridged(found, ran), tokenizer, found, ran)


def _known(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in WRAPPERS


def unbridged(bridge: nn.Module, ran: dict[nn.Module, nn.Module], _seen: dict[int, nn.Module] | None = None) -> Any:
    """The modules that a ``TransformerBridge`` was made of, put together as they were.

    Modules without children are the same objects, so that weights are shared and hooks on them are hooks on the
    bridge's; containers are copies without hooks. ``ran`` is filled: copy -> what the bridge calls in its place.
    """
    seen = {} if _seen is None else _seen
    original = bridge
    while (within := getattr(original, "original_component", None)) is not None:
        original = within
    if id(original) in seen:
        return seen[id(original)]
    children = original._modules
    if not children:
        seen[id(original)] = original
        return original
    made = copy.copy(original)
    seen[id(original)] = made
    for name in [name for name in vars(made) if name.endswith(("_hooks", "_hooks_with_kwargs"))]:
        made.__dict__[name] = OrderedDict()
    made.__dict__.pop("forward", None)  # the bridge's, on the instance
    made._modules = {name: None if child is None else unbridged(child, ran, seen) for name, child in children.items()}
    ran[made] = bridge
    return made


def moved(anatomy: Anatomy, ran: dict[nn.Module, nn.Module]) -> Anatomy:
    """The anatomy with what runs in the place of each module."""

    def place(x: Any) -> Any:
        if isinstance(x, nn.Module):
            return ran.get(x, x)
        if isinstance(x, tuple):
            return tuple(map(place, x))
        if is_dataclass(x) and not isinstance(x, type):
            return replace(x, **{field.name: place(getattr(x, field.name)) for field in fields(x) if field.init})
        return x

    return replace(anatomy, **{field.name: place(getattr(anatomy, field.name)) for field in fields(anatomy)})
