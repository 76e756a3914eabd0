"""Tables of facts, ours or anybody's, with a column mapping; :mod:`harness.files.rows` reads them."""

from __future__ import annotations

import ast
import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, suggest
from harness.files.templates import fill

COLUMNS = ("relation", "subject", "object")
"""What a table of facts must have, under these names or others (a column mapping)."""

OPTIONAL_COLUMNS = ("prompt", "group", "aliases")
"""What it may have: the fact's own query, with ``{}`` for its subject; its relation's group; other names of its object.
"""


@dataclass(frozen=True)
class Relation:
    """A relation: the group it belongs to, how it is asked for, and its one-shot example.

    Attributes:
        query: template that ends just before the object; it may use every column of a fact.
        description: what kind of object is wanted ("the name of a city"); "the subject" in it stands for the subject.
        example: the one-shot statement, without a full stop.
        echoes: strings that an answer must not merely echo (the example's subject and object).
    """

    name: str
    group: str
    query: str
    description: str
    example: str
    echoes: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """One row.

    Attributes:
        line: its place in the file.
        columns: all its columns under their own names.
        prompt: its own query, with ``{}`` for the subject; None: the relation's.
        aliases: other names of the object.
    """

    line: int
    relation: Relation
    subject: str
    object: str
    columns: Mapping[str, Any]
    prompt: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def query(self) -> str:
        """The statement up to its object."""
        if self.prompt is not None:
            return self.prompt.replace("{}", self.subject).strip()
        return render(self.relation.query, {**self.columns, "subject": self.subject}, f"line {self.line}")

    @property
    def description(self) -> str:
        return self.relation.description.replace("the subject", self.subject)


def render(template: str, columns: Mapping[str, Any], where: str) -> str:
    """Fill a template's ``{column}`` places.

    Raises:
        HarnessError: the template names a column that is not there, or a brace in it stands alone.
    """
    return fill(template, columns, where).strip()


def at(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or of a nested one (``requested_rewrite.target_true.str``); None where there is none."""
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def text_at(row: Mapping[str, Any], column: str, where: str) -> str:
    """The text in a column.

    Raises:
        HarnessError: there is none; names the place and the row's columns.
    """
    value = at(row, column)
    if not isinstance(value, str) or not value.strip():
        has = "it is missing" if value is None else f"it is {value!r}"
        raise HarnessError(
            f'{where}: expected text in the column "{column}", but {has}. '
            f"The row has the columns {', '.join(map(str, row)) or 'none'}."
        )
    return value


def _listed(value: Any) -> Any:
    """A list that is written as text, ``'["a", "b"]'``, as a list; everything else as it is."""
    if isinstance(value, str) and value.strip().startswith("["):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError):
            return ast.literal_eval(value.strip())
    return value


def names_at(row: Mapping[str, Any], column: str, where: str) -> tuple[str, ...]:
    """The object and its other names: one text, or a list of texts.

    Raises:
        HarnessError: there is none.
    """
    names = _listed(at(row, column))
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) and name.strip() for name in names):
        return tuple(name.strip() for name in names)
    return (text_at(row, column, where).strip(),)


def _aliases(value: Any, where: str) -> tuple[str, ...]:
    """Other names of an object: a list of texts, or one text with ``|`` between them; nothing where there are none."""
    value = _listed(value)
    names = value.split("|") if isinstance(value, str) else [] if value is None else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise HarnessError(
            f"{where}: expected other names as a list of texts, or as text with | between, got {value!r}."
        )
    return tuple(name.strip() for name in names if name.strip())


def read_facts(
    rows: Iterator[tuple[int, dict[str, Any]]],
    relations: Mapping[str, Relation],
    columns: Mapping[str, str],
    source: str,
    duplicates: str,
) -> list[Fact]:
    """Check every row and make facts of them.

    Raises:
        HarnessError: a missing or empty column, an unknown relation, the same question twice, or no rows at all.
    """
    facts: list[Fact] = []
    asked: dict[tuple[str, str], int] = {}
    for line, row in rows:
        where = f"{source}, line {line}"
        values: dict[str, str] = {}
        for name in ("relation", "subject"):
            values[name] = text_at(row, columns.get(name, name), where)
        known, *others = names_at(row, columns.get("object", "object"), where)
        relation = relations.get(values["relation"])
        if relation is None:
            raise HarnessError(
                f'{where}: the relation "{values["relation"]}" is not defined.'
                f"{suggest(values['relation'], relations)} Defined are: {', '.join(list(relations)[:12])} ..."
            )
        fact = Fact(
            line,
            relation,
            values["subject"].strip(),
            known,
            row,
            text_at(row, columns["prompt"], where) if "prompt" in columns else None,
            (*others, *_aliases(at(row, columns.get("aliases", "aliases")), where)),
        )
        key = (relation.name, (fact.subject if duplicates == "rephrased" else fact.query).lower())
        if key in asked:
            if duplicates != "error":
                continue
            raise HarnessError(
                f'{where}: the question "{fact.query}" stands already in line {asked[key]}; '
                "remove one of them, or pass duplicates=drop to keep the first."
            )
        asked[key] = line
        facts.append(fact)
    if not facts:
        raise HarnessError(f"{source}: there are no facts in it.")
    return facts


def file_digest(paths: Sequence[Path]) -> str:
    """sha256 over the contents of files, in order."""
    total = hashlib.sha256()
    for path in paths:
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
