"""A table of facts and the relations that they are asked by: the bundled one, or anybody's with a column mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from harness.data.facts import Fact, file_digest, read_facts
from harness.data.named_tables import named
from harness.data.relations import read_relations, relations_of_facts
from harness.errors import HarnessError, not_there
from harness.files.paths import expand
from harness.files.rows import Row, hub_rows, is_file, read_rows
from harness.files.yaml import Document, load_yaml


def required(document: Document, *place: str) -> Any:
    """A required place of a task's definition.

    Raises:
        HarnessError: it is not there.
    """
    value: Any = document.data
    for key in place:
        if not isinstance(value, dict) or key not in value:
            raise HarnessError(f'{document.where(*place)}: the task definition needs "{".".join(place)}".')
        value = value[key]
    return value


@dataclass(frozen=True)
class FactTable:
    """Where facts and their relations are read from; without anything, the bundled facts.

    Attributes:
        data: a .jsonl, .csv, .tsv or .json file, a dataset id on the hub, or the name of a published table
            (:mod:`harness.data.named_tables`), alone or with the place of a copy; None: what the definition names.
        relations: a file of relations; "facts": they are made of the facts themselves; None: those of the definition.
        definition: YAML with ``relations`` and ``dataset_kwargs.data_files``; None: the bundled one.
        columns, relation_columns: the tables' own names of columns, by ours.
        query, example: templates for all relations, of the question and of the one-shot statement.
        subset, split, revision: of a dataset on the hub.
        duplicates: what to do when a question stands there twice; "rephrased": drop the second, and whatever else asks
            a subject for the same relation in other words.
    """

    data: str | None = None
    relations: str | None = None
    definition: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    relation_columns: Mapping[str, str] = field(default_factory=dict)
    query: str | None = None
    example: str | None = None
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    duplicates: Literal["error", "drop", "rephrased"] = "error"

    def document(self) -> Document:
        """The definition."""
        bundled = files("harness_tasks") / "knowledge_conflict" / "definition.yml"
        return load_yaml(Path(self.definition) if self.definition else Path(str(bundled)))

    def data_digest(self) -> str:
        """sha256 over the files that are read; of a dataset of the hub nothing is.

        Raises:
            HarnessError: a file is not there.
        """
        table, document = self.laid_out(), self.document()
        places = [table._source(document), *([table.relations] if table.relations not in (None, "facts") else [])]
        local = [expand(place) for place in places if place is not None and is_file(place)]
        if named(self.data):  # a folder's files are those of the hub
            local = [x for path in local for x in (sorted(path.rglob("*.*")) if path.is_dir() else [path])]
        missing = next((path for path in local if not path.is_file()), None)
        if missing:
            raise HarnessError(f"{missing}: {not_there(missing)}.")
        return file_digest([document.path, *local])

    def laid_out(self) -> FactTable:
        """The table with the layout of a published one, where ``data`` names it; what is given explicitly stays.

        Raises:
            HarnessError: the copy cannot be read, or has none of the layouts.
        """
        found = named(self.data)
        if found is None:
            return self
        table, source = found[0], found[1] or found[0].home
        folder = expand(source)
        if found[1] is not None and "/" not in source and not folder.exists():  # an id on the hub has an owner
            name = str(self.data).partition(":")[0]
            copies = " or ".join(layout.file for layout in table.layouts if layout.file)
            raise HarnessError(
                f'data={self.data}: there is no "{source}" here, a copy of {name}'
                f"{f' with {copies} in it' if copies else ''}; data={name} reads the hub."
            )
        inside = (folder / layout.file for layout in table.layouts if layout.file)
        if folder.is_dir():
            source = str(next((path for path in inside if path.is_file()), folder))
        layout, split = table.layouts[0], table.split if self.split == "train" else self.split
        if is_file(source):
            _, row = next(_rows(source, self.subset, split, self.revision), (0, {}))
            fitting = next((layout for layout in table.layouts if layout.fits(row)), None)
            if fitting is None:
                raise HarnessError(
                    f"{source}: it is not laid out like {table.home} (columns {', '.join(layout.columns.values())}); "
                    f"it has the columns {', '.join(row) or 'none'}. Pass it as data, with its columns."
                )
            layout = fitting
        return replace(
            self,
            data=source,
            split=split,
            relations=self.relations or layout.relations_of(source),
            columns={**layout.columns, **self.columns},
            relation_columns={**layout.relation_columns, **self.relation_columns},
            query=self.query or layout.query,
            example=self.example or layout.example,
            duplicates="rephrased" if self.duplicates == "error" else self.duplicates,
        )

    def facts(self) -> list[Fact]:
        """Read and check the table.

        Raises:
            HarnessError: names the file and the line of the first mistake.
        """
        return self.laid_out()._facts()

    def _facts(self) -> list[Fact]:
        document = self.document()
        source = self._source(document)
        rows = list(_rows(source, self.subset, self.split, self.revision))
        examples: frozenset[int] = frozenset()
        if self.relations == "facts":
            relations, examples = relations_of_facts(rows, self.columns, self.query, source)
        else:
            if self.relations is not None:
                listed = [(f"{self.relations}, line {i}", x) for i, x in read_rows(self.relations, None, "train", None)]
            else:
                listed = [(document.where("relations", i), x) for i, x in enumerate(required(document, "relations"))]
            relations = read_relations(listed, self.relation_columns, self.query, self.example)
        asked = ((line, row) for line, row in rows if line not in examples)
        return read_facts(asked, relations, self.columns, source, self.duplicates)

    def _source(self, document: Document) -> str:
        """Path or hub id of the facts."""
        if self.data is not None:
            return self.data
        return str(document.path.parent / required(document, "dataset_kwargs", "data_files"))


def _rows(source: str, subset: str | None, split: str, revision: str | None) -> Iterator[Row]:
    """The rows of a file, of a dataset of the hub, or of a folder with one."""
    read = hub_rows if expand(source).is_dir() else read_rows
    return read(source, subset, split, revision)
