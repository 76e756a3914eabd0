"""harness: find neurons in language models, intervene on them, and measure what changes.

::

    import harness

    run = harness.evaluate("demo", task="knowledge_conflict", selector="entropy", intervention="mean")
    run.measures                      # a row a measure, as a data frame; run.samples, run.neurons, run.controls ...
    harness.load_run("reports/...")   # one that is finished; harness.runs("reports"): all of them
    with harness.condition(model, ...):  # in loops of one's own, on any model of transformers
    harness.run("paper-confidence")   # of the registry; harness.load_model, harness.register

Nothing heavy is imported before a name is used. Authors of plugins import from :mod:`harness.plugin`.
"""

from __future__ import annotations

import lazy_loader
import pluggy

__version__ = "0.1.0"

hookimpl = pluggy.HookimplMarker("harness")
"""Marks a plugin's functions that implement the hooks of :mod:`harness.plugin.hookspecs`."""

__getattr__, _, _lazy = lazy_loader.attach_stub(__name__, __file__)
__all__ = sorted([*_lazy, "__version__", "hookimpl"])  # the stub spells them out


def __dir__() -> list[str]:
    return __all__
