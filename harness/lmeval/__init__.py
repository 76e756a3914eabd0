"""The harness for users of lm-eval: our tasks, and a model under an intervention.

``tasks``: a task whose prompts are made with the model that is evaluated; ``prepared``: prompts that were written
beforehand, for any lm-eval and any model. ``model``: lm-eval's ``--model harness``; ``tokens``: what each of
its texts begins with.
"""

from __future__ import annotations

WRITTEN_FOR = "0.4.13"
"""The version of lm-eval that this package is tested with."""


def register() -> None:
    """Make ``harness`` known to lm-eval as a model, without importing torch; done twice it is done once."""
    import lm_eval.models  # noqa: F401  # lm-eval registers its own models only while it knows none
    from lm_eval.api.registry import model_registry

    if "harness" not in model_registry:
        model_registry.register("harness", target="harness.lmeval.model:HarnessLM")
