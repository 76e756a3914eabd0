"""How parameters are written: what is read is what was written, whatever the text holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.plugin.notation import parse_params, parse_value, write_params, write_value
from harness.plugin.specs import ComponentSpec, parse_spec

# -- what is meant by what is written ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"Q, {text} A:"', "Q, {text} A:"),
        ("'Q, {text} A:'", "Q, {text} A:"),
        ("{query}", "{query}"),
        ('"{query}"', "{query}"),
        ("'{query}'", "{query}"),
        ("{subject} is a", "{subject} is a"),
        ("{} is the capital of", "{} is the capital of"),
        ("{subject}: {object}", "{subject}: {object}"),
        ("[INST] {text} [/INST]", "[INST] {text} [/INST]"),
        ("{subject: head, object: tail}", {"subject": "head", "object": "tail"}),
        ('{"a, b": "c: d", e: [f, g]}', {"a, b": "c: d", "e": ["f", "g"]}),
        ("{a: {b: c}}", {"a": {"b": "c"}}),
        ("{}", {}),
        ("[]", []),
        ("[11.584,11.2370]", ["11.584", "11.2370"]),
        ("[a, \"b, c\", 'd']", ["a", "b, c", "d"]),
        ("[a,]", ["a"]),
        ("[{subject}, x]", ["{subject}", "x"]),
        ("it's", "it's"),
        ("'it''s'", "it's"),
        ('"a \\"b\\" \\\\ \\n \\u00e9"', 'a "b" \\ \n é'),
        ('""', ""),
        ("null", None),
        ("none", None),
        ('"none"', "none"),
        ("[null, b]", [None, "b"]),
        ("text:path=a.txt", "text:path=a.txt"),
        ("  a b  ", "a b"),
        ("a]b", "a]b"),
    ],
)
def test_a_value(text: str, value: Any) -> None:
    assert parse_value(text, "it") == value
    assert parse_params(f"key={text},other=1", "it") == {"key": value, "other": "1"}


def test_a_component_within_a_component_is_quoted_or_a_mapping() -> None:
    inner = {"path": "a, b.txt", "column": "x"}
    quoted = parse_spec("""mediation:corpus='text:path="a, b.txt",column=x',length=64""", "--task")
    mapped = parse_spec("""mediation:corpus={name: text, path: "a, b.txt", column: x},length=64""", "--task")
    for spec in (quoted, mapped):
        assert spec.params["length"] == "64"
        assert parse_spec(spec.params["corpus"], "corpus") == ComponentSpec("text", inner)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('template=Q, {text} A:"', 'a value that holds a comma goes in quotes: key="one, two"'),
        ('a="b" c', 'behind the quotes of "b"'),
        ('a="b', 'the quotes of "b are not closed'),
        ("a='b", "the quotes of 'b are not closed"),
        ('a="\\q"', "hold an unknown escape"),
        ('a="\\ud800"', "hold half a character"),
        ("a=[b", 'is not a list: "[" is not closed'),
        ("a=x[b", '"[" is not closed'),
        ("a=[b,,c]", "has an empty place"),
        ("a={b: c, d}", "is not a mapping"),
        ('a={"b" c}', 'needs ":" after "b"'),
        ("a={b: 1, b: 2}", '"b" stands twice'),
        ("a=1,a=2", 'parameter "a" is given twice'),
        ("data=", '"data=" has no value'),
        ("=3", "is not key=value"),
        ("a=" + "[" * 100_000, "more than 20 lists"),
        ("a=" + "{b: " * 100_000, "more than 20 lists"),
    ],
)
def test_mistakes_are_one_sentence(text: str, says: str) -> None:
    with pytest.raises(HarnessError) as caught:
        parse_params(text, "--task")
    assert str(caught.value).startswith("--task: ")
    assert says in str(caught.value)
    assert len(str(caught.value)) < 300


# -- written and read --------------------------------------------------------------------------------------------------

texts = st.text(max_size=12) | st.text("\"'{}[],:=\\ \n\t.aé\u2028none", max_size=8)
values = st.recursive(
    texts | st.none(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)


@given(values)
def test_a_value_is_read_as_it_is_written(value: Any) -> None:
    assert parse_value(write_value(value), "it") == value


@given(st.dictionaries(texts.filter(bool), values, max_size=4), st.lists(texts, max_size=3))
def test_parameters_are_read_as_they_are_written(params: dict[str, Any], bare: list[str]) -> None:
    written = {"": bare, **params} if bare else params
    assert parse_params(write_params(written), "it", bare=True) == written


@given(st.text("abcdefgh_", min_size=1), st.dictionaries(texts.filter(bool), values, max_size=4))
def test_components_within_components_are_read_as_they_are_written(name: str, params: dict[str, Any]) -> None:
    spec = ComponentSpec("outer", {"corpus": str(ComponentSpec(name, params)), "other": params})
    read = parse_spec(str(spec), "it")
    assert read == spec
    assert parse_spec(read.params["corpus"], "it") == ComponentSpec(name, params)


@given(texts)
def test_any_text_is_read_or_refused_in_a_sentence(text: str) -> None:
    try:
        parse_params(text, "it", bare=True)
    except HarnessError as error:
        assert str(error).startswith("it: ")
