"""How many prompts a run's passes have: the number that is asked for, or as many as fit (``batch_size: auto``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from harness.engine.batch_sizes import halving, most, out_of_memory, tries
from harness.errors import SystemRefused
from harness.files.wording import counted
from harness.running.shared_passes import observe
from harness.running.spec import AUTO, RunSpec, default

if TYPE_CHECKING:
    from harness.engine.engine import Engine, Progress
    from harness.model.model import Model
    from harness.plugin.records import Outcomes, Prompt
    from harness.running.plan import Listener, Stage

T = TypeVar("T")
P = ParamSpec("P")

CONTROLS = 16
"""Control sets that a number of prompts is tried with, where all of them are not run at once: more than fill a pass."""


class Fit:
    """Does a run's work with as many prompts in a pass as are asked for.

    With ``auto`` everything is done again with half as many where a device's memory does not suffice. How long prompts
    are is not known before they are made: until then passes have what they have where nobody says. ``auto:N`` cuts the
    run's prompts into N stretches and finds a number for each.

    Attributes:
        engine: whose ``batch_size`` it is.
        smallest: the fewest prompts that a pass was found to hold; None where a number is asked for, or none was found.
    """

    def __init__(self, engine: Engine, asked: int | str, told: Listener) -> None:
        self.engine, self._asked, self._told = engine, asked, told
        self.smallest: int | None = None
        self._found: tuple[object, int] = (None, 0)

    @classmethod
    def of(cls, spec: RunSpec, model: Model, told: Listener) -> Self:
        """With the engine that a run asks for."""
        from harness.engine.closed_form import ClosedFormEngine
        from harness.engine.hooks import HookEngine

        size = spec.batch_size if isinstance(spec.batch_size, int) else default("batch_size")
        return cls({"auto": ClosedFormEngine, "hooks": HookEngine}[spec.engine](model, size), spec.batch_size, told)

    @property
    def auto(self) -> bool:
        return isinstance(self._asked, str)

    def __call__(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``work`` returns; with ``auto``, done again with smaller batches while memory does not suffice.

        Raises:
            SystemRefused: memory does not suffice for the number that is asked for, or for one prompt in a pass.
        """
        try:
            found = halving([self.engine] if self.auto else [], lambda: work(*args, **kwargs))
        except Exception as error:
            if out_of_memory(error):
                raise SystemRefused(self._too_many()) from error
            raise
        if self.smallest is not None:
            self.smallest = min(self.smallest, self.engine.batch_size)
        return found

    def _too_many(self) -> str:
        size, where = self.engine.batch_size, self.engine.model.device
        less = "dtype=bfloat16, or device_map=auto" if size == 1 else f"fewer, or --batch_size {AUTO}"
        return f"--batch_size: the memory of {where} does not hold {counted(size, 'prompt')} in a pass; take {less}."

    def begin(self, prompts: Sequence[Prompt]) -> None:
        """Prompts are there: passes have as many as are worth trying from here on, if nobody has said."""
        if self.auto:
            longest = max(len(prompt.tokens) for prompt in prompts)
            self.engine.batch_size = most(self.engine.model, longest, len(prompts))

    def observe(
        self, stages: Sequence[Stage], parts: Sequence[Sequence[Prompt]], number: int, advance: Progress
    ) -> list[Outcomes]:
        """Outcomes of some runs on one of the parts that their prompts are run in; see
        :func:`harness.running.shared_passes.observe`."""
        if self.auto:
            self._find(stages, parts, number)
        told = 0

        def attempt() -> list[Outcomes]:
            done = 0

            def step(n: int) -> None:  # what is done again is not told again
                nonlocal done, told
                done += n
                if done > told:
                    advance(done - told)
                    told = done

            return observe(stages, self.engine, parts[number], step)

        return self(attempt)

    def _find(self, stages: Sequence[Stage], parts: Sequence[Sequence[Prompt]], number: int) -> None:
        """Find how many prompts of the part's stretch fit into a pass, unless it is known.

        On a CPU the number is reckoned; elsewhere the longest prompts are run under some of the conditions.
        """
        n_stretches = int(str(self._asked).partition(":")[2] or 1)
        stretch = number * n_stretches // len(parts)
        if self._found[0] is parts and self._found[1] == stretch:
            return
        own = [x for i, part in enumerate(parts) if i * n_stretches // len(parts) == stretch for x in part]
        self.begin(own)
        own.sort(key=lambda prompt: -len(prompt.tokens))
        if tries(self.engine.model):
            with self._told.stage("looking for the largest batch that fits"):
                some = [_tried(stage, self.engine) for stage in stages]
                self(observe, some, self.engine, own[: self.engine.batch_size], lambda n: None)
        size = self.engine.batch_size
        self._found = parts, stretch
        self.smallest = size if self.smallest is None else min(self.smallest, size)
        what = f"--batch_size {self._asked}: {counted(size, 'prompt')} in a pass"
        self._told.tell(f"{what}; the longest has {counted(len(own[0].tokens), 'token')}")


def _tried(stage: Stage, engine: Engine) -> Stage:
    """A run under as many of its conditions as say how much memory all of them take."""
    if engine.path(stage.conditions) == "closed_form":  # all at once
        return stage
    controls = [condition for condition in stage.conditions if condition.role == "control"]
    spared = set(map(id, controls[CONTROLS:]))
    return replace(stage, conditions=tuple(x for x in stage.conditions if id(x) not in spared))
