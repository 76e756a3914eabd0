"""A component that keeps its promises, for tests to break, and the sentence with which a check fails.

It imports nothing heavy at the top, as modules of components must not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import Field

from harness.conditions.conditions import Selection
from harness.conditions.units import Neuron
from harness.plugin.components import SelectionContext, Selector


def broken(check: Callable[..., Any], cls: type, *arguments: Any, **params: Any) -> str:
    """The sentence with which a check fails."""
    with pytest.raises(AssertionError) as caught:
        check(cls, *arguments, **params)
    return str(caught.value)


class Good(Selector):
    """The first neurons of the last layer."""

    name = "good"
    top: int = Field(2, ge=1, description="number of neurons")

    def select(self, context: SelectionContext) -> Selection:
        layer, n = context.model.anatomy.n_layers - 1, context.model.anatomy.d_mlp
        every = tuple(Neuron(layer, i) for i in range(n))
        return Selection(every[: self.top], f"the first {self.top}", every, {"index": np.arange(n)})
