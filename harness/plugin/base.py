"""What every component is: an immutable set of validated parameters.

A component is a pydantic model. Its fields are its parameters: their types, bounds, defaults and descriptions are what
``harness list NAME`` prints, what a specification is validated by, and what the result record stores.
Modules that define components must not import torch, transformers or datasets at the top: listing must stay instant.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, model_validator

if TYPE_CHECKING:
    from harness.model.model import Model

Kind = Literal["model", "corpus", "selector", "intervention", "task", "metric", "reporter", "executor"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PLURALS: dict[Kind, str] = {kind: "corpora" if kind == "corpus" else f"{kind}s" for kind in KINDS}


@dataclass(frozen=True)
class InputFile:
    """Marks a parameter that is the path of a file: its content is part of a run's identity.

    Attributes:
        find: from what users write to the file, where a name stands for one.
    """

    find: Callable[[str], Path] = Path


class Component(BaseModel, abc.ABC):
    """Base of all components: an immutable set of validated parameters.

    Class attributes:
        name: what users type; unique within its kind.
        version: raise it when results of the same parameters change; it is part of a run's identity.
        positional, later: see below.
        kind: set by the base class of each kind, in :mod:`harness.plugin.components`, ``reporters`` and ``executors``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    positional: ClassVar[str | None] = None
    """The parameter that values without a name belong to: ``lm_eval:arc_easy`` is ``lm_eval:tasks=[arc_easy]``."""
    later: ClassVar[frozenset[str]] = frozenset()
    """Own parameters that a later version has brought: where they are left at their defaults, runs depend on nothing
    more than they did before, and are still the same runs."""
    kind: ClassVar[Kind]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Whole numbers fit 64 bits: what they are handed to has no larger ones."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ValueError(f"expected a number of at most 64 bits in {name}")
        return self

    @classmethod
    def summary(cls) -> str:
        """First sentence of the docstring."""
        return inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")

    def check(self, model: Model) -> None:
        """Refuse a model that the parameters do not fit: layers, numbers of units, positions, files.

        Called once the model is loaded and before any prompt is made. Components that are parameters are asked by
        themselves. By default nothing is refused.

        Raises:
            HarnessError: names the parameter, and what the model has.
        """

    def identity(self) -> dict[str, Any]:
        """What a run depends on: name, version and every parameter with its value."""
        later = {name for cls in type(self).__mro__ for name in cls.__dict__.get("later", ())}
        new = {name for name in later if getattr(self, name) == type(self).model_fields[name].default}
        params = self.model_dump(mode="json", exclude=new)
        nested = {key: value for key in params if isinstance(value := getattr(self, key), Component)}
        return {
            "name": self.name,
            "version": self.version,
            "params": params | {key: value.identity() for key, value in nested.items()},
        }

    def inputs(self) -> dict[str, str]:
        """sha256 of the data that parameters point to, by parameter: of corpora, and of files marked ``InputFile``.

        Raises:
            HarnessError: a file cannot be read.
        """
        found: dict[str, str] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, Component):
                found |= {f"{name}.{key}": digest for key, digest in value.inputs().items()}
            elif isinstance(value, str) and (marks := [x for x in field.metadata if isinstance(x, InputFile)]):
                from harness.files.digests import files_digest

                found[name] = files_digest([marks[0].find(value)])
        return found
