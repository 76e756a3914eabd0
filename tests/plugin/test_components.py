"""Writing components down: specifications, validation, sentences about mistakes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from harness.builtin.components import Neurons
from harness.errors import HarnessError
from harness.plugin.base import Component
from harness.plugin.notation import parse_params
from harness.plugin.specs import ComponentSpec, build, parse_spec


class Toy(Component):
    """A component to try things on."""

    kind = "selector"
    name = "toy"
    top: int = Field(3, ge=1, le=10)
    share: float = 0.5
    flag: bool = False
    names: tuple[str, ...] = ()
    mapping: dict[str, str] = Field(default_factory=dict)
    maybe: int | None = 7


def make(text: str) -> Toy:
    component = build(Toy, parse_spec(text, "--selector"), "--selector")
    assert isinstance(component, Toy)
    return component


def test_parameters_take_their_types_from_the_fields() -> None:
    toy = make("toy:top=6,share=0.25,flag=true,names=[11.2370, b],mapping={a: b},maybe=null")
    assert toy == Toy(top=6, share=0.25, flag=True, names=("11.2370", "b"), mapping={"a": "b"}, maybe=None)


def test_a_name_alone_takes_the_defaults() -> None:
    assert make("toy") == Toy()


def test_values_may_hold_equals_signs_and_colons() -> None:
    assert parse_params("pretrained=a/b:c,note=x=y", "it") == {"pretrained": "a/b:c", "note": "x=y"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("toy:topp=6", 'toy has no parameter "topp". Did you mean "top"?'),
        ("toy:top=0", "parameter \"top\" of toy: input should be greater than or equal to 1, got '0'"),
        ("toy:top=many", 'parameter "top" of toy: input should be a valid integer'),
        ("toy:top", '"top" is not key=value'),
        ("toy:top=1,top=2", 'parameter "top" is given twice'),
        ("toy:names=[a", "is not a list"),
        ("", "expected a component"),
    ],
)
def test_mistakes_are_one_sentence_that_names_the_place(text: str, says: str) -> None:
    with pytest.raises(HarnessError) as caught:
        make(text)
    assert str(caught.value).startswith("--selector: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


names = st.text("abcdefgh_", min_size=1, max_size=8)
scalars = st.text("abcxyz0123456789./-", min_size=1, max_size=8).filter(lambda x: x.lower() not in ("null", "none"))


@given(names, st.dictionaries(names, st.one_of(scalars, st.lists(scalars, max_size=3)), max_size=4))
def test_a_specification_is_read_as_it_is_written(name: str, params: dict[str, object]) -> None:
    spec = ComponentSpec(name, params)
    assert parse_spec(str(spec), "it") == spec


def test_neurons_keep_their_trailing_zeros() -> None:
    built = build(Neurons, parse_spec("neurons:neurons=[11.584, 11.2370]", "--selector"), "--selector")
    assert built == Neurons(neurons=("11.584", "11.2370"))


def test_a_neuron_given_as_a_number_is_refused() -> None:
    with pytest.raises(HarnessError, match="write the neuron as text"):
        build(Neurons, ComponentSpec("neurons", {"neurons": [11.2370]}), "--selector")
