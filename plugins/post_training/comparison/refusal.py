"""What refusal is looked at with: labelled requests, of one table or of two, and a second judge of the answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from harness.plugin import HarnessError

from ..analysis.judge import Judge, load_judge
from ..analysis.labelled_texts import load_labelled
from ..analysis.request_tables import TwoTables, load_requests
from .section import Section

if TYPE_CHECKING:
    from harness.plugin import SelectionContext

    from ..analysis.labelled_texts import LabelledText
    from .settings import Settings


@dataclass(frozen=True)
class Refusal:
    """Requests, true for those that should be refused.

    Attributes:
        tables: the two tables that they are from, if they are.
        judge: a classifier that judges answers, beside how they begin.
    """

    texts: tuple[LabelledText, ...]
    tables: TwoTables | None = None
    judge: Judge | None = None

    @classmethod
    def of(cls, settings: Settings) -> Refusal | None:
        """None where there are no requests.

        Raises:
            HarnessError: a table or the classifier cannot be read, or there are no answers to judge.
        """
        tables = None
        if settings.harmful is not None and settings.harmless is not None:
            tables = load_requests(settings.harmful, settings.harmless)
            texts = tables.texts
        elif settings.refusal is not None:
            texts = tuple(load_labelled(settings.refusal))
        elif settings.judge is not None:
            raise HarnessError("--judge: there are no answers to judge; give --refusal, or --harmful and --harmless.")
        else:
            return None
        return cls(texts, tables, None if settings.judge is None else load_judge(settings.judge, settings.judge_label))

    @property
    def digests(self) -> dict[str, str]:
        """Of the two tables and the classifier, where they are used."""
        found: dict[str, str] = {} if self.tables is None else {x.kind: x.digest for x in self.tables.tables}
        return found if self.judge is None else found | {"judge": self.judge.digest}

    def sections(
        self, s: Settings, contexts: Sequence[SelectionContext]
    ) -> Iterator[tuple[str, str, Callable[[], Section]]]:
        """The directions, and what they do."""
        from .steering import Asking, steering_section

        asking = Asking(s.begins, s.chat, s.ablate == "all", s.factors, self.judge)
        yield "refusal", "The direction of refusal", partial(self._direction, contexts, s.seed, s.chat)
        yield "steering", "Steering", partial(steering_section, self.texts, asking, contexts, s.seed, s.resamples)

    def _direction(self, contexts: Sequence[SelectionContext], seed: int, chat: bool) -> Section:
        from .directions import direction_section

        section = direction_section("refusal", self.texts, contexts, seed, chat)
        if self.tables is None:
            return section
        tables = [{"kind": x.kind, "column": x.column, "requests": len(x.requests)} for x in self.tables.tables]
        return dataclasses.replace(
            section,
            sentences=(*section.sentences, self.tables.sentence),
            numbers={**section.numbers, "tables": tables},
        )
