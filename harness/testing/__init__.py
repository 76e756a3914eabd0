"""For the tests of plugins: tiny models that need no download, and a check of what each kind of component promises.

A test of an author's selector is two lines::

    def test_it_keeps_the_promises_of_a_selector():
        check_selector(Loudest, top=3)

Every check makes the component from its parameters, runs it on a tiny random model (``on=demo_model()``: on the bundled
one), returns what it gave, for further assertions, and raises an AssertionError with a sentence that names the promise
that was broken. ``tiny_models`` makes the models, ``models`` gives them and the bundled one; checks are in
``selectors_and_interventions``, ``units``, ``tasks_and_metrics``, ``corpora_and_models``, ``reporters`` and
``executors``, with what
all share in ``common``.
"""

from harness.testing.corpora_and_models import check_corpus, check_model_loader
from harness.testing.executors import check_executor
from harness.testing.models import demo_model, prompts_of, tiny_model
from harness.testing.reporters import check_reporter, demo_run
from harness.testing.selectors_and_interventions import check_intervention, check_selector
from harness.testing.tasks_and_metrics import check_metric, check_task, demo_outcomes
from harness.testing.units import check_unit

__all__ = [
    "check_corpus",
    "check_executor",
    "check_intervention",
    "check_metric",
    "check_model_loader",
    "check_reporter",
    "check_selector",
    "check_task",
    "check_unit",
    "demo_model",
    "demo_outcomes",
    "demo_run",
    "prompts_of",
    "tiny_model",
]
