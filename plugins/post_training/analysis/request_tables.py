"""Harmful and harmless requests from two tables: AdvBench and Alpaca, as Du et al. take them, or any like them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from harness.data.token_sequences import half
from harness.files.digests import files_digest, texts_digest
from harness.files.paths import expand
from harness.files.rows import is_file, read_rows
from harness.plugin import HarnessError, counted

from .labelled_texts import LabelledText

Kind = Literal["harmful", "harmless"]

COLUMNS = ("instruction", "prompt", "goal", "request", "text")
"""Where a table may have its requests; of several columns the first of these. ``text`` is last: in Alpaca it is the
whole of instruction and answer."""

MORE = "input"
"""Alpaca's column of what an instruction is about. Where it is not empty, the instruction alone is no request."""


@dataclass(frozen=True)
class Table:
    """The requests of one table, each once, in its order.

    Attributes:
        column: where they stand. digest: sha256 of the file, or of the requests of a dataset of the hub.
    """

    kind: Kind
    column: str
    requests: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class TwoTables:
    """Labelled texts made of two tables.

    Attributes:
        texts: as many harmful (true) as harmless ones in either split; every text is a group of its own.
    """

    tables: tuple[Table, Table]
    texts: tuple[LabelledText, ...]

    @property
    def sentence(self) -> str:
        """What was taken of what there is."""
        had = " and ".join(f"{counted(len(x.requests), f'{x.kind} request')} (column {x.column})" for x in self.tables)
        train, test = (sum(x.split == split for x in self.texts) // 2 for split in ("train", "test"))
        return (
            f"Of {had}, {train} of each are for training and {test} of each held out: a hash of the text decides "
            "which, and those with the least hashes are taken."
        )


def load_requests(harmful: str, harmless: str) -> TwoTables:
    """Two tables as one, with labels and splits.

    A hash of the text gives half of the texts to each split, as in a labelled table without splits; in either the
    larger class is cut to the size of the smaller one, to the texts with the least sha256. No seed has a say.

    Raises:
        HarnessError: a table cannot be read or has no requests, a request is in both, or a split lacks a class.
    """
    tables = (_table("harmful", harmful), _table("harmless", harmless))
    if both := set(tables[0].requests) & set(tables[1].requests):
        raise HarnessError(
            f'--harmless: the request "{min(both):.60}" is in the table of harmful ones, too; keep one of the two.'
        )
    texts: list[LabelledText] = []
    for split in ("train", "test"):
        of = [[x for x in table.requests if (half(x) == "select") == (split == "train")] for table in tables]
        n = min(map(len, of))
        if n == 0:
            kind = tables[0 if not of[0] else 1].kind
            raise HarnessError(f"--{kind}: there are no requests in the split {split}; give a table with more of them.")
        for label, requests in zip((True, False), of, strict=True):
            taken = set(sorted(requests, key=_hash)[:n])
            texts += [LabelledText(text=x, label=label, group=x, split=split) for x in requests if x in taken]
    return TwoTables(tables, tuple(texts))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _table(kind: Kind, source: str) -> Table:
    rows = list(read_rows(source, None, "train", None))
    if not rows:
        raise HarnessError(f"--{kind}: {source} has no rows.")
    column = _column(kind, source, rows[0][1])
    found: dict[str, None] = {}
    for line, row in rows:
        text, more = row.get(column), row.get(MORE)
        if not isinstance(text, str) or not text.strip():
            raise HarnessError(f'--{kind}: {source}, row {line}: expected a request in the column "{column}".')
        if column == "instruction" and isinstance(more, str) and more.strip():
            continue
        found[text.strip()] = None
    if not found:
        raise HarnessError(f'--{kind}: every request of {source} has an "{MORE}" that it is about; none stands alone.')
    requests = tuple(found)
    digest = files_digest([expand(source)]) if is_file(source) and expand(source).is_file() else texts_digest(requests)
    return Table(kind, column, requests, digest)


def _column(kind: Kind, source: str, row: dict[str, object]) -> str:
    column = next((x for x in COLUMNS if x in row), None)
    if column is None:
        raise HarnessError(
            f"--{kind}: {source} has no column of requests: expected one of {', '.join(COLUMNS)}; "
            f"it has {', '.join(map(str, row)) or 'none'}."
        )
    return column
