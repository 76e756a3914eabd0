"""The knowledge conflict as an lm-eval task: elicit what the model knows, contradict it, ask again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.lmeval.tasks import ModelTask
from harness.plugin.components import Task as Component

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.engine.engine import Engine
    from harness.model.model import Model
    from harness.plugin.records import Prompt

SHOWN = ("relation", "group", "subject", "object", "parametric_object", "counter_object")


class Task(ModelTask):
    """Prompts of the component ``knowledge_conflict``; what the untouched model answers decides what they are."""

    component = "knowledge_conflict"

    @staticmethod
    def items(task: Component) -> int:
        return len(task.facts())  # type: ignore[attr-defined]

    @staticmethod
    def row(model: Model, prompt: Prompt) -> dict[str, Any]:
        return {"id": prompt.id, "text": prompt.text, **{name: prompt.fields[name] for name in SHOWN}}

    @staticmethod
    def beyond(engine: Engine, condition: Condition, prompts: Sequence[Prompt]) -> dict[str, list[float]]:
        """Entropy of the first answer token, nats: no request of lm-eval asks for a distribution."""
        made = engine.generate([prompt.tokens for prompt in prompts], [condition], 1)
        return {"entropy": made.entropy[0].tolist()}
