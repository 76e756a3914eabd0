"""What a paper claims, and by which rule a run confirms or misses it: the registers that ``harness claims`` reads.

A plugin lays the claims of its paper beside its modules, in a ``claims.yaml``::

    paper: {name: stolfo2024, title: Confidence Regulation Neurons in Language Models, by: Stolfo et al. 2024,
            url: https://arxiv.org/abs/2406.16254}
    claims:
      norm-mediated:
        says: Most of the effect of entropy neurons is through the final norm.
        source: section 3.2, figure 2e
        published: {gpt2: about 0.8}          # in the paper's words, by the registry's name of the model
        runs: [confidence-mediation, real-mediation]   # of the registry; the first that is there is the test
        rule: {kind: interval, measure: mediation.norm_mediated, above: 0.5}

and hands the file over with the hook ``harness_claims``. It is read when claims are asked for, and not before.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import HarnessError, suggest
from harness.files.yaml import Document, load_yaml
from harness.statistics.verdicts import Word

MeasureName = Annotated[str, Field(pattern=r"^[^.\s]+\.\S.*$", description="METRIC.MEASURE, as in the record")]
Counts = Annotated[tuple[tuple[Annotated[int, Field(ge=0)], ...], ...], Field(min_length=2)]
Published = Annotated[dict[str, float], Field(min_length=1, description="the published number, by model")]


class _Written(BaseModel):
    """A piece of a register. Scalars of the YAML file are text until this reads them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Rule(_Written):
    """What confirms a claim, and what misses it."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What confirms it, in words."""


# -- rules that a run answers ------------------------------------------------------------------------------------------


class VerdictRule(_Rule):
    """The verdict of a primary measure is the expected one; with ``side``, its value lies there of the controls' mean.

    Another verdict misses the claim, but for those that say nothing: inconclusive, cannot tell, model broken.
    """

    kind: Literal["verdict"]
    measure: MeasureName
    word: Word = "more than random"
    side: Literal["above", "below"] | None = None

    @property
    def words(self) -> str:
        return self.word + (f", {self.side} the mean of the random sets" if self.side else "")


class IntervalRule(_Rule):
    """The 95% interval of a measure lies beyond a bound; one that lies on the other side of it misses the claim.

    ``of``: the treated value, or its difference from the mean of the controls.
    """

    kind: Literal["interval"]
    measure: MeasureName
    of: Literal["value", "difference"] = "value"
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> IntervalRule:
        if (self.above is None) == (self.below is None):
            raise ValueError("expected one of above and below")
        return self

    @property
    def words(self) -> str:
        what = "95% interval" + (" of the difference from random sets" if self.of == "difference" else "")
        return f"{what} {f'above {self.above:g}' if self.above is not None else f'below {self.below:g}'}"


class NumberRule(_Rule):
    """The published number lies in the 95% interval of our value."""

    kind: Literal["number"]
    measure: MeasureName
    published: Published

    @property
    def words(self) -> str:
        return "the published number in our 95% interval"


class SelectionRule(_Rule):
    """The run selects the neurons of a published list (``harness_published_neurons``), and no others."""

    kind: Literal["selection"]
    lists: Annotated[dict[str, str], Field(min_length=1, description="name of the list, by model")]

    @property
    def words(self) -> str:
        return "the published neurons and no others"


RunRule = VerdictRule | IntervalRule | NumberRule | SelectionRule

# -- rules that published numbers answer, without a run ----------------------------------------------------------------


class RecountRule(_Rule):
    """A conversion ratio, or the global transition score, of the counts is the published percentage."""

    kind: Literal["recount"]
    quantity: str = Field(description="a category's ratio, CKCR, or GTS")
    published: Published
    places: int = Field(3, ge=0, le=6, description="decimals that are compared: the last may differ by one")

    @property
    def words(self) -> str:
        return f"the counts give the published {self.quantity}"


class MovesRule(_Rule):
    """More prompts moved into a category than out of it: exact McNemar's test, Holm over the categories."""

    kind: Literal["moves"]
    into: str
    models: Annotated[tuple[str, ...], Field(min_length=1)]

    @property
    def words(self) -> str:
        return f"more prompts into {self.into} than out of it, exact McNemar with Holm's correction"


class MarginsRule(_Rule):
    """The categories are not as frequent after as before: Stuart-Maxwell's test, prompts taken for independent."""

    kind: Literal["margins"]
    models: Annotated[tuple[str, ...], Field(min_length=1)]

    @property
    def words(self) -> str:
        return "Stuart-Maxwell, p <= 0.05"


class QuantileRule(_Rule):
    """What lies at the published quantile among ``controls`` random sets is found when all models are tested together.

    p = (b + 1) / (m + 1), one-sided, b the sets that are not below it; Holm over the models.
    """

    kind: Literal["quantile"]
    controls: int = Field(ge=1)
    published: Published

    @property
    def words(self) -> str:
        return "p = (b + 1) / (m + 1) <= 0.05 with Holm's correction over the models"


CountRule = RecountRule | MovesRule | MarginsRule | QuantileRule

Rule = Annotated[RunRule | CountRule, Field(discriminator="kind")]

# -- the register ------------------------------------------------------------------------------------------------------

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]


class Paper(_Written):
    """Who claims it. ``name`` is what ``--paper`` takes."""

    name: Name
    title: str
    by: str
    url: str


class Claim(_Written):
    """One sentence of a paper that can come out false.

    ``published``: what the paper gives, in words or numbers, by model. ``models``: the only ones that it is about.
    ``runs``: those of the registry that test it; the first that is there counts.
    ``evidence``: what tests it instead where that is no run (:class:`harness.plugin.Evidence`); ``command``: what
    leaves it, with {model} for the model.
    ``known``: models on which it is known to be missed, and why: this does not fail a build.
    """

    says: str
    source: str
    published: dict[str, str] = Field(default_factory=dict)
    models: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    evidence: str | None = None
    command: str | None = None
    rule: Rule
    known: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_tested(self) -> Claim:
        tested = bool(self.runs) + bool(self.evidence)
        if tested != (not isinstance(self.rule, CountRule)) or bool(self.evidence) != bool(self.command):
            what = (
                "neither runs nor evidence" if isinstance(self.rule, CountRule) else "runs, or evidence and its command"
            )
            raise ValueError(f"expected {what} with a rule of the kind {self.rule.kind}")
        return self


class Claims(_Written):
    """A paper's claims by name; ``tables``: counts of prompts by model, rows before and columns after, as they
    are published or as the published percentages give them."""

    paper: Paper
    categories: tuple[str, ...] = ()
    tables: dict[str, Counts] = Field(default_factory=dict)
    claims: Annotated[dict[Name, Claim], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_tables(self) -> Claims:
        for model, counts in self.tables.items():
            if any(len(row) != len(counts) for row in counts) or len(counts) != len(self.categories):
                raise ValueError(f"expected a square table of {len(self.categories)} categories, of {model}")
        for name, claim in self.claims.items():
            if isinstance(claim.rule, RecountRule | MovesRule | MarginsRule):
                for model in models_of(claim.rule):
                    if model not in self.tables:
                        raise ValueError(f'{name}: there is no table of "{model}".{suggest(model, self.tables)}')
        return self


def models_of(rule: CountRule | NumberRule | SelectionRule) -> tuple[str, ...]:
    """The models whose numbers a rule has."""
    if isinstance(rule, MovesRule | MarginsRule):
        return rule.models
    return tuple(rule.lists if isinstance(rule, SelectionRule) else rule.published)


def read(path: Path) -> Claims:
    """The claims of a file, validated.

    Raises:
        HarnessError: names file, line and place of the first mistake, and the nearest valid name.
    """
    document = load_yaml(path)
    try:
        return Claims.model_validate(document.data)
    except ValidationError as error:
        raise HarnessError(_said(error, document)) from error


def _said(error: ValidationError, document: Document) -> str:
    """One sentence for the first mistake of a register."""
    first = error.errors()[0]
    place = [x for x in first["loc"] if x not in KINDS]
    where, given = document.where(*place), repr(first["input"])
    if first["type"] == "extra_forbidden":
        fields = _keys_at(first["loc"])
        return f'{where}: unknown key "{place[-1]}".{suggest(str(place[-1]), fields)} Expected: {", ".join(fields)}.'
    if first["type"] == "missing":
        return f"{where}: it is missing."
    if first["type"] == "union_tag_invalid":
        kind = str(first["input"].get("kind"))
        return f'{where}: unknown kind "{kind}".{suggest(kind, KINDS)} Expected: {", ".join(KINDS)}.'
    message = re.sub(r"^Value error, ", "", first["msg"])
    got = "" if first["type"] == "value_error" else f", got {given[:60]}"
    if first["type"] == "literal_error":
        got += suggest(str(first["input"]), re.findall("'([^']+)'", first["msg"])).rstrip("?").replace(" Did", "; did")
    return f"{where}: {message[:1].lower()}{message[1:].rstrip('.')}{got}."


RULES: tuple[type[_Rule], ...] = (
    VerdictRule, IntervalRule, NumberRule, SelectionRule, RecountRule, MovesRule, MarginsRule, QuantileRule,
)  # fmt: skip
KINDS = {rule.model_fields["kind"].annotation.__args__[0]: rule for rule in RULES}  # type: ignore[union-attr]
"""The rules by their kinds."""


def _keys_at(place: tuple[int | str, ...]) -> list[str]:
    """The keys that there may be at a place of a register."""
    kinds = [x for x in place if x in KINDS]
    if kinds:
        return list(KINDS[str(kinds[0])].model_fields)
    of: type[_Written] = Claims if len(place) == 1 else Paper if place[0] == "paper" else Claim
    return list(of.model_fields)
