"""What components may hand back of a run: outcomes, measurements, figures and tables.

The functions look at records and run nothing; :mod:`harness.plugin.border` makes the calls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.conditions.conditions import Condition
from harness.files.wording import counted
from harness.plugin.handed import ROW_KEYS, a, as_json, expect, instance, locked, members, numbers, refuse, text, twice
from harness.plugin.records import NAME, Figure, Frame, Measurement, Outcomes, Prompt, Series, Table

# -- outcomes ----------------------------------------------------------------------------------------------------------


def outcomes(found: Any, prompts: Sequence[Prompt], conditions: Sequence[Condition], who: str) -> Outcomes:
    """Outcomes of just these conditions and prompts."""
    seen = instance(found, Outcomes, who)
    names = [condition.name for condition in conditions]
    given = [condition.name for condition in members(seen.conditions, Condition, who, "conditions of the outcomes")]
    expect(
        given == names,
        who,
        f"gave outcomes of {counted(len(given), 'condition')} ({', '.join(given[:3])} ...), "
        f"expected {len(names)} ({', '.join(names[:3])} ...), in their order",
    )
    same = [prompt.id for prompt in seen.prompts] == [prompt.id for prompt in prompts]
    expect(same, who, "gave outcomes of other prompts than it was asked for")
    instance(seen.values, Mapping, who, "gave as values")
    shape = (len(names), len(prompts))
    for name, array in seen.values.items():
        text(name, who, "the name of an outcome")
        fine = not name.startswith(("alone ", "series ")) and name not in ROW_KEYS
        expect(fine, who, f'calls an outcome "{name}", which files of outcomes have for something else')
        instance(array, np.ndarray, who, f'gave as the outcome "{name}"')
        expect(array.dtype.kind in "biuf", who, f'gave the outcome "{name}" of type {array.dtype}, expected numbers')
        expect(array.shape[:2] == shape, who, f'gave the outcome "{name}" of shape {array.shape}, expected {shape}')
        if array.dtype.kind == "f" and np.isinf(array).any():
            row, column, *_ = np.argwhere(np.isinf(array))[0]
            refuse(who, f'gave an infinite "{name}" of prompt "{prompts[column].id}" under {names[row]}')
    _answers(seen, who)
    _categories(seen, who)
    _series(seen, who)
    as_json(seen.details, who, "details")
    return replace(seen, conditions=tuple(conditions))


def _answers(seen: Outcomes, who: str) -> None:
    members(seen.answers, tuple, who, "answers")
    n = len(seen.prompts)
    expect(len(seen.answers) <= len(seen.conditions), who, "gave answers of more conditions than there are")
    for condition, answers in zip(seen.conditions, seen.answers, strict=False):
        under = f"under {condition.name}"
        expect(len(answers) == n, who, f"gave {counted(len(answers), 'answer')} {under} to {counted(n, 'prompt')}")
        for answer in answers:
            expect(isinstance(answer, str), who, f"gave {a(answer)} as an answer {under}, expected text")


def _categories(seen: Outcomes, who: str) -> None:
    instance(seen.categories, Mapping, who, "gave as categories")
    for name, words in seen.categories.items():
        expect(name in seen.values, who, f'gave categories of "{name}", which it did not observe')
        for word in members(words, str, who, f'categories of "{name}"'):
            text(word, who, f'a category of "{name}"', empty=True)
        codes = seen.values[name]
        expect(codes.dtype.kind in "iu", who, f'gave categories of "{name}", which holds {codes.dtype}, not codes')
        if codes.size and not -1 <= int(codes.min()) <= int(codes.max()) < len(words):
            wrong = int(codes.min() if codes.min() < -1 else codes.max())
            refuse(who, f'gave the code {wrong} of "{name}", which has {len(words)} categories')
    for name in members(seen.found, str, who, "found"):
        expect(name in seen.categories, who, f'found "{name}", of which it gave no categories')


def _series(seen: Outcomes, who: str) -> None:
    instance(seen.series, Mapping, who, "gave as series")
    for name, series in seen.series.items():
        text(name, who, "the name of a series")
        instance(series, Series, who, f'gave as the series "{name}"')
        members(series.rows, str, who, f'rows of the series "{name}"')
        values = instance(series.values, np.ndarray, who, f'gave as values of the series "{name}"')
        fine = values.dtype.kind == "f" and values.ndim == 3
        fine = fine and values.shape[:2] == (len(series.rows), len(seen.prompts))
        expect(
            fine,
            who,
            f'gave the series "{name}" as {values.dtype} {values.shape}, expected floats '
            f"({len(series.rows)}, {len(seen.prompts)}, tokens)",
        )


# -- measurements ------------------------------------------------------------------------------------------------------


def measurement(found: Any, seen: Outcomes, who: str) -> Measurement:
    """Measures of every condition and prompt, tables of counts, and what is to be shown."""
    from harness.statistics import Aggregated, Functional, Measure

    made = instance(found, Measurement, who)
    members(made.measures, (Measure, Functional, Aggregated), who, "measures")
    again = twice([measure.name for measure in made.measures])
    expect(again is None, who, f'gave two measures called "{again}"')
    for measure in made.measures:
        _measure(measure, seen, who)
    for table in members(made.tables, Table, who, "tables"):
        _table(table, len(seen.rows("control")), who)
    members(made.frames, Frame, who, "frames")
    members(made.figures, Figure, who, "figures")
    for remark in members(made.remarks, str, who, "remarks"):
        text(remark, who, "a remark")
    if made.broken is not None:
        text(made.broken, who, "broken")
    return made


def _measure(measure: Any, seen: Outcomes, who: str) -> None:
    from harness.statistics import Each

    for about in ("name", "title"):
        text(getattr(measure, about), who, f"the {about} of a measure")
    named = f'the measure "{measure.name}"'
    for about in ("unit", "description"):
        text(getattr(measure, about), who, f"{about} of {named}", empty=True)
    for about in ("scale", "null"):
        number = getattr(measure, about, 0.0)
        fine = isinstance(number, int | float | np.number) and not math.isinf(number)
        fine = fine and (about == "null" or not math.isnan(number))  # the baseline may have no value
        expect(fine, who, f"gave {a(number)} as {about} of {named}, expected a number")
    shape = (len(seen.conditions), len(seen.prompts))
    for part in ("numerator", "terms", "codes"):
        array = getattr(measure, part, None)
        if array is not None:
            array = array if isinstance(array, Each) else np.asarray(array)
            expect(array.dtype.kind in "biuf", who, f"gave {named} of type {array.dtype}, expected numbers")
            found = array.shape[:2]
            expect(found == shape, who, f"gave {named} of {found} conditions and prompts, expected {shape}")
    codes = getattr(measure, "codes", None)
    if codes is not None and codes.size and not -1 <= int(codes.min()) <= int(codes.max()) < len(measure.items):
        refuse(who, f"gave {named} codes that are no places among its {counted(len(measure.items), 'item')}")
    values = numbers(measure.values, shape[:1], who, f"values of {named}")
    expect(not np.isinf(values.astype(float)).any(), who, f"gave {named} an infinite value")


def _table(table: Table, n_controls: int, who: str) -> None:
    text(table.name, who, "the name of a table")
    text(table.title, who, f'the title of the table "{table.name}"')
    k = len(members(table.categories, str, who, f'categories of the table "{table.name}"'))
    numbers(table.treated, (k, k), who, f'the table "{table.name}"')
    numbers(table.controls, (n_controls, k, k), who, f'the controls of the table "{table.name}"')


def shown(found: Any, who: str, taken: dict[tuple[type, str], str], cls: Any = (Figure, Frame)) -> tuple[Any, ...]:
    """Figures and tables with names that are fit for files and not ``taken`` by another component."""
    for item in members(found, cls, who, "figures"):
        what = "the table" if isinstance(item, Frame) else "the figure"
        fine = isinstance(item.name, str) and NAME.fullmatch(item.name) is not None
        expect(fine, who, f"calls {what[4:]} {a(item.name)}: a name has only letters, digits, - and _")
        text(item.title, who, f"the title of {what} {item.name}")
        columns = item.columns if isinstance(item, Frame) else item.data
        instance(columns, Mapping, who, f"gave as columns of {what} {item.name}")
        for name, column in columns.items():
            text(name, who, f"the name of a column of {what} {item.name}")
            sized = isinstance(column, Sequence | np.ndarray) and not isinstance(column, str) and np.ndim(column) < 2
            expect(sized, who, f'gave {a(column)} as the column "{name}" of {what} {item.name}, expected a list')
        lengths = {len(column) for column in columns.values()}
        expect(len(lengths) < 2, who, f"gave {what} {item.name} columns of different lengths")
        if isinstance(item, Figure):
            expect(callable(item.draw), who, f"gave {what} {item.name} without a function that draws it")
            fine = isinstance(item.size, tuple | list) and len(item.size) == 2
            fine = fine and all(isinstance(x, int | float) and 0 < x <= 100 for x in item.size)
            expect(bool(fine), who, f"gave {what} {item.name} the size {a(item.size)}, expected two numbers of inches")
        key = (type(item), item.name.lower())  # some file systems do not tell A.png from a.png
        expect(key not in taken, who, f"calls {what} {item.name}, as {taken.get(key)} does")
        taken[key] = who
    return tuple(found)


def locked_outcomes(seen: Outcomes) -> Outcomes:
    """The same outcomes with arrays that cannot be written to: several metrics look at them."""
    values = {name: locked(array) for name, array in seen.values.items()}
    alone = {name: locked(array) for name, array in seen.alone.values.items()}
    series = {name: Series(x.rows, locked(x.values)) for name, x in seen.series.items()}
    return replace(seen, values=values, series=series, alone=replace(seen.alone, values=alone))
