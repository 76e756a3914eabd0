"""What inspect_ai finds by its entry point: the name ``harness``; nothing heavy until a model of it is asked for."""

from __future__ import annotations

from typing import Any

from inspect_ai.model import ModelAPI, modelapi


@modelapi("harness")  # type: ignore[untyped-decorator]  # an extra has no types here
def harness() -> type[ModelAPI]:
    """A model of the harness: ``harness/demo``, ``harness/openai-community/gpt2``, a folder, one of the registry."""
    from inspect_ai._util.error import PrerequisiteError

    from harness.errors import HarnessError
    from harness.inspectai.model import HarnessAPI

    class Provided(HarnessAPI):
        """What inspect shows of an error that a person can mend is its sentence."""

        def __init__(self, *args: Any, **given: Any) -> None:
            try:
                super().__init__(*args, **given)
            except HarnessError as error:
                raise PrerequisiteError(str(error)) from error

    return Provided
