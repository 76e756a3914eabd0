"""Arrays are written piece by piece as the library writes them whole, and are read where they lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from roles import conditions
from safetensors.numpy import save

from harness.conditions.conditions import Selection
from harness.errors import HarnessError
from harness.plugin.records import Outcomes, Prompt, Series
from harness.results import arrays as module
from harness.results.arrays import DTYPES, Mapped, write_arrays
from harness.results.folder import RunFolder

NAMES = st.sampled_from(["entropy", "series loss", 'a "b"\\\n\x01é', "z", "10"])
SHAPES = st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple)


@given(st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(DTYPES)), SHAPES)), st.booleans())
def test_files_are_those_of_the_library(tmp_path_factory: pytest.TempPathFactory, kinds: dict, labels: bool) -> None:
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("arrays") / "x.safetensors"
    given = {name: rng.integers(0, 2, shape).astype(DTYPES[kind]) for name, (kind, shape) in kinds.items()}
    metadata = {"outcomes": '{"é": "\\n"}'} if labels else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WRITTEN_AT_ONCE", 16)
        write_arrays(path, given, metadata)
    assert path.read_bytes() == save(given, metadata)
    read = Mapped(path)
    assert set(read) == set(given)
    for name, array in given.items():
        assert read[name].dtype == array.dtype and np.array_equal(read[name], array)
        assert np.array_equal(read.whole()[name], array)
        assert not array.size or not read[name].flags.writeable


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_arrays(path, {"entropy": np.zeros((2, 3))})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(HarnessError, match=r"x\.safetensors: cannot be read"):
        Mapped(path)


def parts(n: int) -> list[Outcomes]:
    """Two parts of one run, which found other categories and did not observe the same."""
    rng = np.random.default_rng(1)
    made = []
    for i, words in enumerate((("b", "unused", "a"), ("c", "a"))):
        prompts = tuple(Prompt(f"p{i}{j}", "x", (1,), f"c{i}{j}") for j in range(n))
        values = {
            "entropy": rng.random((5, n)).astype(np.float32),
            "k": rng.random((5, n, 2)),
            "word": rng.choice([-1, 0, len(words) - 1], (5, n)).astype(np.int8),
        }
        if i:
            values["late"] = rng.integers(0, 9, (5, n)).astype(np.int16)
        series = {"loss": Series(("baseline",), rng.random((1, n, 3 + i)).astype(np.float32))}
        made.append(Outcomes(conditions(3), prompts, values, (), {"word": words}, series, ("word",)))
    alone = [replace(x, role="alone" if row == 3 else x.role) for row, x in enumerate(made[0].conditions)]
    return [replace(x, conditions=tuple(alone)) for x in made]


def test_what_stays_on_the_disk_is_what_is_joined_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITTEN_AT_ONCE", 16)
    folder = RunFolder(tmp_path / "run")
    folder.open(fresh=False)
    kept = []
    for start, part in zip((0, 4), parts(4), strict=True):
        folder.save_part(start, part)
        kept.append(folder.on_disk(start, part))
        again = folder.load_part(start, part.prompts, part.conditions)
        assert again is not None and again.arrays().keys() == part.arrays().keys()
    selection = Selection((), "nothing")
    whole, on_disk = Outcomes.join(parts(4)).split(selection), folder.join(kept, selection)
    assert whole.categories == on_disk.categories == {"word": ("a", "b", "c")}
    assert whole.alone.units == on_disk.alone.units and len(whole.alone.units) == 1
    for name, array in whole.arrays().items():
        found = on_disk.arrays()[name]
        assert found.dtype == array.dtype and np.array_equal(found, array, equal_nan=array.dtype.kind == "f"), name
        assert not found.flags.owndata and not found.flags.writeable
