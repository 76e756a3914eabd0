"""Records of older schemas, lifted to today's: each step takes a record of one schema and gives one of the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.errors import HarnessError
from harness.results.record import SCHEMA_VERSION

Json = dict[str, Any]

_VERDICTS_OF_2 = {
    "supported": "more than random",
    "less than random neurons": "less than random",
    "not distinguishable from random neurons": "inconclusive",
    "underpowered": "cannot tell",
}
"""Today's words for verdicts of schema 2."""

_NEW_IN_3 = ("n_clusters", "design_effect", "ci_undefined", "difference_undefined", "p_magnitude")
_NEW_OF_PRIMARY_IN_3 = (
    "p_adjusted", "margin", "detectable", "detectable_above", "detectable_below", "detectable_limit",
    "detectable_controls",
)  # fmt: skip
"""What schema 2 did not compute of a measure."""


def _from_2(old: Json) -> Json:
    """Schema 3 adjusts p by Westfall and Young, has other rules for verdicts, and says what a run could have found.

    What was not computed is None; verdicts stay, in today's words.
    """
    selection, family, n = old["selection"], old["family"], old["controls"]["n"]
    return old | {
        "selection": {"intervention_title": f"{selection['intervention']} ablation"} | selection,
        "measures": [_measure_from_2(measure) for measure in old["measures"]],
        "family": family | {"alpha": 0.05, "rows": n + 1, "smallest": min(1.0, 2 * max(family["size"], 1) / (n + 1))},
        "remarks": [
            *old["remarks"],
            "this record is of schema 2: p is corrected by Holm alone, and verdicts are those of that time",
        ],
    }


def _measure_from_2(measure: Json) -> Json:
    if not measure["primary"]:
        return dict.fromkeys(_NEW_IN_3) | measure
    verdict = _VERDICTS_OF_2.get(measure["verdict"], measure["verdict"])
    return dict.fromkeys((*_NEW_IN_3, *_NEW_OF_PRIMARY_IN_3)) | measure | {"verdict": verdict}


STEPS: Mapping[int, Callable[[Json], Json]] = {2: _from_2}
"""By the schema that a step takes."""


def lifted(data: Any, where: str) -> Json:
    """``data``, a record as it was read, as one of today's schema.

    Raises:
        HarnessError: it is no record, or one of a schema that cannot be read; begins with ``where``.
    """
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise HarnessError(f"{where}: this is no record of schema {SCHEMA_VERSION}; make the run again.")
    if version > SCHEMA_VERSION:
        raise HarnessError(
            f"{where}: this record is of schema {str(version)[:20]}, and this version of the harness knows schemas up "
            f"to {SCHEMA_VERSION}; use a newer harness."
        )
    if version < min(STEPS, default=SCHEMA_VERSION):
        raise HarnessError(
            f"{where}: this record is of schema {version}, which this version of the harness no longer reads; make "
            "the run again."
        )
    while version < SCHEMA_VERSION:
        try:
            data = STEPS[version](data)
        except (KeyError, TypeError, AttributeError) as error:
            raise HarnessError(
                f"{where}: this record of schema {version} is not as such records are; the file is damaged."
            ) from error
        version += 1
        data = data | {"schema_version": version}
    found: Json = data
    return found
