"""YAML for people who make mistakes: scalars stay text, duplicate keys and cycles are refused, errors know their line.

Keeping scalars as text until a pydantic model validates them means that neuron 11.2370 does not become 11.237 and that
``no`` stays a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.errors import HarnessError

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
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: cannot be read ({_reason(error)}).") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise HarnessError(f"{path}, line {line}: this is not valid YAML: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise HarnessError(f"{path}: this is not valid YAML: {error}.") from error
    lines: dict[Place, int] = {}
    data = _plain(root, (), lines, path, ()) if root is not None else {}
    if not isinstance(data, dict):
        raise HarnessError(f"{path}, line 1: expected a mapping (key: value) at the top.")
    return Document(path, data, lines)


def _plain(node: yaml.Node, place: Place, lines: dict[Place, int], path: Path, above: tuple[int, ...]) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(place, line)
    if id(node) in above:
        raise HarnessError(f"{path}, line {line}: an alias refers to a place that contains it (a cycle).")
    above = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*place, i), lines, path, above) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value)
            if name in mapping:
                raise HarnessError(f'{path}, line {key.start_mark.line + 1}: the key "{name}" stands here twice.')
            lines[(*place, name)] = key.start_mark.line + 1
            mapping[name] = _plain(value, (*place, name), lines, path, above)
        return mapping
    plain = node.tag.endswith(":null") and not getattr(node, "style", None)
    return None if plain else node.value


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "it is not UTF-8 text"
