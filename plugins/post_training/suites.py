"""Suites of model pairs: names for comparisons that are made one after another."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from harness.plugin import HarnessError, suggest


class PairSuite(BaseModel):
    """Pairs of a base and a tuned model, by the registry's names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    pairs: tuple[tuple[str, str], ...] = Field(min_length=1)


def pair_suites() -> dict[str, PairSuite]:
    """All suites of pairs by name."""
    import yaml

    text = Path(__file__).with_name("suites.yaml").read_text("utf-8")
    return TypeAdapter(dict[str, PairSuite]).validate_python(yaml.safe_load(text))


def pairs_of(suite: str) -> tuple[tuple[str, str], ...]:
    """The pairs of a suite.

    Raises:
        HarnessError: there is no such suite.
    """
    found = pair_suites()
    if suite not in found:
        raise HarnessError(
            f'--suite: there is no suite of pairs "{suite}".{suggest(suite, found)} There are: {", ".join(found)}.'
        )
    return found[suite].pairs
