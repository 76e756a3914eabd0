"""Groups of runs made in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.running.execute import Finished, execute_together, loaded
from harness.running.executors import Made, NotMade

if TYPE_CHECKING:
    from harness.model.model import Model
    from harness.plugin.components import ModelLoader
    from harness.running.plan import Plan
    from harness.running.telling import Telling


@dataclass
class Here:
    """Groups made one after another; those that follow one another on one model share it.

    Attributes:
        several: whether there are other runs than one that is refused.
        name: identity of the model that is loaded, or whose loading failed.
    """

    told: Telling
    output: Path
    command: str
    fresh: bool
    several: bool
    name: str = ""
    model: Model | HarnessError | None = None

    def group(self, plans: Sequence[Plan]) -> list[Made]:
        """What became of the runs of a group."""
        not_made: list[NotMade] = []
        finished: list[Finished] = []

        def refuse(error: HarnessError, *refused: Plan) -> None:
            not_made.extend(NotMade(one.spec.name, error) for one in refused)
            if self.several:
                names = ", ".join(one.spec.name for one in refused)
                self.told.note(f"{names}: not made: {error}")

        try:
            finished = execute_together(
                plans,
                self.output,
                self.told,
                self.command,
                self.fresh,
                model=self._model(plans[0].model),
                refuse=lambda one, error: refuse(error, one),
            )
        except HarnessError as error:
            known = {run.name for run in not_made}
            refuse(error, *(one for one in plans if one.spec.name not in known))
        if not_made and not isinstance(self.model, HarnessError):
            self.name, self.model = "", None  # nobody knows how whatever failed has left it
        return [*finished, *not_made]

    def _model(self, loader: ModelLoader) -> Model:
        """The loader's model, which is not asked for again after it could not be loaded."""
        from harness.files.store import canonical

        if self.name != (name := canonical(loader.identity())):
            self.name, self.model = name, None  # one is there at a time
            try:
                self.model = loaded(loader, self.told)
            except HarnessError as error:
                self.model = error
        if isinstance(self.model, HarnessError):
            raise self.model
        assert self.model is not None
        return self.model
