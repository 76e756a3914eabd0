"""What takes long tells of itself: the time left, and how long it takes in all before it is over."""

from __future__ import annotations

import io

import numpy as np
import pytest
from engines import some_conditions
from families import tiny

from harness.effects.sweep import effects
from harness.engine.closed_form import ClosedFormEngine
from harness.files.terminal import Terminal
from harness.plugin.components import SelectionContext
from harness.progress import shares
from harness.report import progress
from harness.report.progress import ConsoleReporter, duration
from harness.testing import demo_model


class Clock:
    """A clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_stage_of_more_than_a_minute_says_so_after_its_first_steps(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, text = Clock(monkeypatch), io.StringIO()
    reporter = ConsoleReporter(Terminal(file=text, force_terminal=terminal, width=100, color_system=None))
    with reporter.stage("comparing"), reporter.stage("patching", 600) as advance:
        advance(1)
        assert "in all" not in text.getvalue()  # one step in no time tells nothing
        clock.now += 16
        advance(2)  # 3 of 600 in 16 s
        assert "patching: about 53 min in all" in text.getvalue()
        clock.now += 16
        advance(3)
    assert text.getvalue().count("in all") == 1
    if not terminal:
        assert "patching: 6 of 600, about 3168 s left" in text.getvalue()


def test_a_short_stage_says_nothing_of_the_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, text = Clock(monkeypatch), io.StringIO()
    with ConsoleReporter(Terminal(file=text)).stage("scoring", 10) as advance:
        clock.now += 5
        advance(1)
    assert "in all" not in text.getvalue() and "scoring: 5.0 s" in text.getvalue()


def test_durations_in_words() -> None:
    assert [duration(x) for x in (61, 3180, 7200, 9000)] == ["1 min", "53 min", "2.0 h", "2.5 h"]


def test_shares_add_up_to_all_steps() -> None:
    told: list[int] = []
    share = shares(told.append, 10)
    for _ in range(7):
        share(1 / 7)
    assert sum(told) == 10 and len(told) == 7


def test_a_sweep_tells_of_itself_while_it_runs() -> None:
    model = tiny("llama")
    prompts = [np.random.default_rng(i).integers(3, 250, 9).tolist() for i in range(6)]
    conditions, told = some_conditions(model, 0, n=19)[1:], list[int]()
    effects(model, prompts, conditions, memory_bytes=200_000, progress=told.append)
    assert len(told) > 3 and sum(told) == len(prompts) * len(conditions)


def test_a_selector_that_measures_effects_has_stages_with_steps() -> None:
    from harness_plugins.confidence_regulation.selectors.token_frequency import TokenFrequency
    from harness_plugins.demo.corpus import WorldTexts

    seen: dict[str, tuple[int | None, int]] = {}

    class Recorder:
        def __init__(self, title: str, total: int | None = None) -> None:
            self.title, self.total, self.done = title, total, 0

        def __enter__(self) -> Recorder:
            return self

        def __exit__(self, *error: object) -> None:
            seen[self.title] = self.total, self.done

        def __call__(self, n: int) -> None:
            self.done += n

    model = demo_model()
    context = SelectionContext(model, ClosedFormEngine(model), [], 0, stage=Recorder)  # type: ignore[arg-type]
    TokenFrequency.model_validate({"corpus": WorldTexts.model_validate({}), "sequences": 2, "length": 16}).select(
        context
    )
    (_, passed), (title, (total, done)) = seen.items()
    assert passed == (2, 2)
    assert title.startswith(f"effects of {model.anatomy.d_mlp} neurons") and total == done == 2 * model.anatomy.d_mlp
