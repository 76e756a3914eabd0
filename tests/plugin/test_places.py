"""Layers as users write them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from harness.errors import HarnessError
from harness.plugin.places import AnyLayers, layers_in


class Holder(BaseModel):
    layers: AnyLayers


@pytest.mark.parametrize(
    ("given", "kept", "layers"),
    [
        (3, 3, [3]),
        ("3", 3, [3]),
        ("-1", -1, [11]),
        ("8-10", ("8-10",), [8, 9, 10]),
        ("8-10,2", ("8-10", 2), [2, 8, 9, 10]),
        (["8-10", "2", 9, -1], ("8-10", 2, 9, -1), [2, 8, 9, 10, 11]),
        ([3], (3,), [3]),
        ("0-0", ("0-0",), [0]),
    ],
)
def test_ranges_hold_both_of_their_ends(given: Any, kept: Any, layers: list[int]) -> None:
    found = Holder(layers=given).layers
    assert found == kept
    assert layers_in(found, 12, "it") == layers
    assert Holder.model_validate(Holder(layers=given).model_dump(mode="json")).layers == kept


@pytest.mark.parametrize("given", ["", [], "a", "3-", "9-8", "1:3", "1.5", None, "1-2-3"])
def test_what_names_no_layers_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError, match="a range such as 8-12"):
        Holder(layers=given)


@pytest.mark.parametrize(("given", "layer"), [("3", 3), ("0-3", 3), ([0, -4], -4)])
def test_layers_that_the_model_has_not_are_named(given: Any, layer: int) -> None:
    with pytest.raises(HarnessError, match=rf"^it: layer {layer} does not exist; the model has 3 layers \(0 to 2\)\.$"):
        layers_in(Holder(layers=given).layers, 3, "it")
