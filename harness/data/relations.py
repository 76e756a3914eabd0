"""Relations: from the task's definition, from a table of their own, or from the facts themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.data import Relation, render
from harness.data.facts import at, names_at, text_at
from harness.plugin import HarnessError

WANTED = "the missing words"
"""What is asked for where nobody has described the object."""


def read_relations(
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    columns: Mapping[str, str],
    query: str | None,
    example: str | None,
) -> dict[str, Relation]:
    """Relations by name, from (place, columns) of each.

    Args:
        columns: column mapping. query: template that replaces each relation's own. example: template of the one-shot
            statement from the relation's columns; None: the column "example" holds its subject and object.

    Raises:
        HarnessError: a relation lacks a column; names the place.
    """
    relations = (_relation(row, where, columns, query, example) for where, row in rows)
    return {relation.name: relation for relation in relations}


def _relation(
    row: Mapping[str, Any], where: str, columns: Mapping[str, str], query: str | None, example: str | None
) -> Relation:
    def column(name: str) -> str:
        value = at(row, columns.get(name, name))
        if not isinstance(value, str) or not value.strip():
            raise HarnessError(f'{where}: a relation needs "{columns.get(name, name)}".')
        return value

    query, shown = query or column("query"), row.get("example")
    if example is not None:
        statement, echoes = render(example, row, where), [str(v) for k, v in row.items() if "example" in k]
    elif isinstance(shown, Mapping) and {"subject", "object"} <= set(shown):
        statement = f"{render(query, shown, where)} {shown['object']}"
        echoes = [shown["subject"], shown["object"]]
    else:
        raise HarnessError(f'{where}: a relation needs "example" with subject and object.')
    return Relation(
        name=column("relation"),
        group=column("group"),
        query=query,
        description=column("description"),
        example=statement.rstrip("."),
        echoes=tuple(text.strip().lower() for text in echoes),
    )


def relations_of_facts(
    rows: Iterable[tuple[int, Mapping[str, Any]]], columns: Mapping[str, str], query: str | None, source: str
) -> tuple[dict[str, Relation], frozenset[int]]:
    """Relations made of a table of facts: the first fact of each is its one-shot example.

    Returns:
        The relations by name, and the lines of their examples, which are not to be asked. A relation's group is the
        mapped column "group" of its first fact; without one all relations are one group.

    Raises:
        HarnessError: neither a query nor a column "prompt" is given, or a row lacks a column.
    """
    if query is None and "prompt" not in columns:
        raise HarnessError(
            "relations=facts needs to know how a fact is asked for: map the column of its "
            "prompt, columns={prompt: ...}, or give a query."
        )
    relations: dict[str, Relation] = {}
    lines = set()
    for line, row in rows:
        where = f"{source}, line {line}"
        name, subject = (text_at(row, columns.get(x, x), where) for x in ("relation", "subject"))
        shown = names_at(row, columns.get("object", "object"), where)[0]
        if name in relations:
            if subject.strip().lower() == relations[name].echoes[0]:  # the example, once more or in other words
                lines.add(line)
            continue
        if "prompt" in columns:
            asked = text_at(row, columns["prompt"], where).replace("{}", subject).strip()
        else:
            asked = render(str(query), {**row, "subject": subject}, where)
        group = text_at(row, columns["group"], where) if "group" in columns else "facts"
        echoes = (subject.strip().lower(), shown.lower())
        relations[name] = Relation(name, group, query or "", WANTED, f"{asked} {shown}".rstrip("."), echoes)
        lines.add(line)
    return relations, frozenset(lines)
