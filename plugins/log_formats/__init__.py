"""Runs in the files of other programs: lm-eval's results, inspect_ai's logs.

``told``: what of a run either of them can hold. ``lm_eval_results``, ``inspect_log``: how.
"""

from __future__ import annotations

from harness.plugin import Reporter, hookimpl

from .inspect_log import InspectLog
from .lm_eval_results import LmEvalResults


@hookimpl
def harness_reporters() -> list[type[Reporter]]:
    return [LmEvalResults, InspectLog]
