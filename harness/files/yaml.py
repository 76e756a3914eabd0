"""YAML for people who make mistakes: scalars stay text, duplicate keys and cycles are refused, errors know their line.

Keeping scalars as text until a pydantic model validates them means that neuron 11.2370 does not become 11.237 and that
``no`` stays a word. Aliases (``*name``) and merge keys (``<<: *name``) are followed; how large a file may be, how deep,
and how much its aliases may make of it is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from harness.errors import HarnessError

MOST_BYTES = 2**23
MOST_PLACES = 200_000
"""Values that a file may hold once its aliases are followed."""
DEEPEST = 50

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """A YAML file as plain data, and the line of each of its places (``("runs", "demo", "seed") -> 12``)."""

    path: Path
    data: Any
    lines: dict[Place, int]

    def where(self, *place: str | int) -> str:
        """``registry.yaml, line 12 (runs.demo.seed)``; the nearest enclosing place that has a line."""
        known = place
        while known and known not in self.lines:
            known = known[:-1]
        dotted = ".".join(map(str, place))
        return f"{self.path}, line {self.lines.get(known, 1)}" + (f" ({dotted})" if dotted else "")


def load_yaml(path: Path) -> Document:
    """Read a YAML file whose top is a mapping.

    Raises:
        HarnessError: unreadable file, YAML error, duplicate key, alias cycle or another top: names file and line.
    """
    return _document(path, _read(path))


@lru_cache(maxsize=16)
def _document(path: Path, text: str) -> Document:
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise HarnessError(f"{path}, line {line}: this is not valid YAML: {error.problem}.") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: characters that there are not
        raise HarnessError(f"{path}: this is not valid YAML: {error}.") from error
    reader = _Reader(path)
    data = reader.plain(root, (), ()) if root is not None else {}
    if not isinstance(data, dict):
        raise HarnessError(f"{path}, line 1: expected a mapping (key: value) at the top.")
    return Document(path, data, reader.lines)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: cannot be read ({_reason(error)}).") from error
    if len(data) > MOST_BYTES:
        raise HarnessError(f"{path}: it is larger than {MOST_BYTES // 2**20} MiB, which no file of this kind is.")
    return text


class _Loader(yaml.SafeLoader):
    """Refuses what is nested too deeply before Python does."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # PyYAML's, whose stubs leave it out
            raise yaml.composer.ComposerError(None, None, f"more than {DEEPEST} levels lie within each other", mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Reader:
    """Makes plain data of YAML's nodes, and keeps the line of each place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Place, int] = {}
        self._places = 0

    def plain(self, node: yaml.Node, place: Place, above: tuple[int, ...]) -> Any:
        """The data of a node, which stands at ``place`` and within the nodes ``above`` (by id)."""
        line = node.start_mark.line + 1
        self.lines.setdefault(place, line)
        above = self._within(node, above)
        self._places += 1
        if self._places > MOST_PLACES:
            raise self._error(node, f"with its aliases (*name) followed, the file holds more than {MOST_PLACES} values")
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, (*place, i), above) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            mapping: dict[str, Any] = {}
            for name, (key, value) in self._pairs(node, above).items():
                self.lines[(*place, name)] = key.start_mark.line + 1
                mapping[name] = self.plain(value, (*place, name), above)
            return mapping
        plain = node.tag.endswith(":null") and not getattr(node, "style", None)
        return None if plain else self._text(node)

    def _pairs(self, node: yaml.MappingNode, above: tuple[int, ...]) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key and value by name: the mapping's own, then those that it merges (``<<``) and has not itself."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "a key must be text")
            name = self._text(key)
            if name in own or (merged and key.tag.endswith(":merge")):
                raise self._error(key, f'the key "{name}" stands here twice')
            if key.tag.endswith(":merge"):
                merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
                if not merged or not all(isinstance(x, yaml.MappingNode) for x in merged):
                    raise self._error(key, "<< merges a mapping, or a list of mappings")
            else:
                own[name] = key, value
        for other in merged:
            assert isinstance(other, yaml.MappingNode)
            own = {**self._pairs(other, self._within(other, above)), **own}
        return own

    def _within(self, node: yaml.Node, above: tuple[int, ...]) -> tuple[int, ...]:
        if id(node) in above:
            raise self._error(node, "an alias refers to a place that contains it (a cycle)")
        return (*above, id(node))

    def _text(self, node: yaml.Node) -> str:
        text = str(node.value)
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise self._error(node, f"{text!a} holds half a character, which is no text")
        return text

    def _error(self, node: yaml.Node, why: str) -> HarnessError:
        return HarnessError(f"{self.path}, line {node.start_mark.line + 1}: {why}.")


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "it is not UTF-8 text"
