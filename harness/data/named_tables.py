"""Tables of facts by name: where published ones are on the hub, and how their columns are read; and bundled ones.

``data=popqa`` reads its home, the hub, ``data=popqa:FOLDER_OR_FILE`` a copy. A copy may be laid out as on the hub or as
its authors publish it: the first layout whose columns are there is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from harness.errors import suggest
from harness.files.paths import expand
from harness.files.rows import is_file
from harness.plugin import Source


@dataclass(frozen=True)
class Layout:
    """How the rows of a table are read; the attributes mean what those of :class:`~harness.data.FactTable` do.

    Attributes:
        relations: "facts", or the name of a file that comes with the harness or lies beside the facts.
        file: name of the facts' file in its authors' folder.
    """

    columns: Mapping[str, str]
    relations: str = "facts"
    file: str | None = None
    query: str | None = None
    example: str | None = None
    relation_columns: Mapping[str, str] = field(default_factory=dict)

    def fits(self, columns: Iterable[str]) -> bool:
        """Whether a table with these columns is laid out so; of nested ones the outermost is looked for."""
        there = set(columns)
        return all(theirs in there or theirs.split(".")[0] in there for theirs in self.columns.values())

    def relations_of(self, source: str) -> str:
        """The file of relations, for facts that are read from ``source``; or "facts"."""
        if self.relations == "facts":
            return self.relations
        bundled = Path(str(files("harness_tasks") / "knowledge_conflict" / self.relations))
        return str(bundled if bundled.is_file() else expand(source).parent / self.relations)


@dataclass(frozen=True)
class NamedTable:
    """A table: the layout of its home first, then that of other copies.

    Attributes:
        home: where it is read from without a place of a copy: an id on the hub, or a file that comes with the harness.
    """

    about: str
    home: str
    split: str
    layouts: tuple[Layout, ...]


_SIX_KINDS = str(files("harness_tasks") / "target_probability" / "six_kinds.jsonl")

_PLAIN = {"relation": "relation", "subject": "subject", "object": "object"}

NAMED = {
    "pararel": NamedTable(
        "ParaRel (Elazar et al. 2021): of the hub one pattern for each fact; as a folder the facts of Tighidet et al. "
        "2025 with their relation groups: knowledge-probing-data of its repository, or pararel_facts.jsonl and "
        "pararel_relations.json",
        "coastalcph/pararel_patterns",
        "train",
        (
            Layout({**_PLAIN, "prompt": "query"}),
            Layout(
                {**_PLAIN, "phrase": "relation_phrase"},
                relations="pararel_relations.json",
                file="pararel_facts.jsonl",
                query="{subject} {relation_phrase}",
                example="{example_subject} {example_phrase} {example_object}",
                relation_columns={"group": "relation_group", "description": "object_description"},
            ),
            Layout(
                {
                    "relation": "rel_lemma",
                    "subject": "statement_subject",
                    "object": "statement_object",
                    "phrase": "statement_relation",
                },
                relations="relation_groups_by_row_with_rel_gen_desc.csv",
                file="raw_pararel_with_correctly_reformatted_statements.csv",
                query="{subject} {statement_relation}",
                example="{generation_statement_1} {generation_object_1}",
                relation_columns={"group": "relation_group_id", "description": "object_generation_description"},
            ),
        ),
    ),
    "popqa": NamedTable(
        "PopQA (Mallen et al. 2023): 14,267 facts of 16 relations, most about things that few people look up",
        "akariasai/PopQA",
        "test",
        (
            Layout(
                {"relation": "prop", "subject": "subj", "object": "obj", "aliases": "possible_answers"},
                relations="popqa_relations.json",
            ),
        ),
    ),
    "counterfact": NamedTable(
        "CounterFact (Meng et al. 2022): 21,919 facts, each with its own prompt",
        "NeelNanda/counterfact-tracing",
        "train",
        (
            Layout({"relation": "relation_id", "subject": "subject", "object": "target_true", "prompt": "prompt"}),
            Layout(
                {
                    "relation": "requested_rewrite.relation_id",
                    "subject": "requested_rewrite.subject",
                    "object": "requested_rewrite.target_true.str",
                    "prompt": "requested_rewrite.prompt",
                },
                file="counterfact.json",
            ),
        ),
    ),
    "paraconflict": NamedTable(
        "ParaConflict (Li et al. 2025): the facts of its six categories, each with its clean prompt",
        "gaotang/ParaConflict",
        "test",
        (Layout({"relation": "Category", "subject": "Subject", "object": "Answer", "prompt": "Clean Prompt"}),),
    ),
    "six_kinds": NamedTable(
        "364 facts whose answers are languages, capitals, countries, colours, numbers and months, the kinds of Yu & "
        "Ananiadou 2024; bundled",
        _SIX_KINDS,
        "train",
        (Layout(_PLAIN, relations="six_kinds_relations.json"),),
    ),
}
"""Tables by the names that ``data`` knows them by."""


def named(data: str | None) -> tuple[NamedTable, str | None] | None:
    """The table that ``data`` names and the place of a copy (None: the hub); None where it is a file or id itself."""
    name, colon, place = (data or "").partition(":")
    return (NAMED[name], place if colon else None) if name in NAMED else None


def known(data: str) -> str:
    """``data``, unless it is a misspelt name of a table.

    Raises:
        ValueError: names the nearest.
    """
    name, colon, place = data.partition(":")
    if name in NAMED and colon and not place.strip():
        raise ValueError(
            f'after "{name}:" a file, a folder or an id on the hub is expected; "{name}" alone reads its own'
        )
    near = "" if name in NAMED or "/" in name or is_file(data) else suggest(name, NAMED)
    if near:
        raise ValueError(f'"{data}" is no file here, and no table is called so.{near} There are: {", ".join(NAMED)}')
    return data


FactSource = Annotated[Source, AfterValidator(known)]
"""Type of a parameter that says where facts are: ``data: FactSource | None = Field(None, description=...)``."""
