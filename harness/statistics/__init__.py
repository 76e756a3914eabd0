"""Statistics of measures: p-values against controls, intervals over prompts, tests of transition tables, two runs.

There are two sources of variance. *Which neurons?* is answered by the controls: the treated value is ranked among the
values of random sets (:func:`permutation_test`), all primary measures of a run together (:func:`step_down_min_p`).
*Which prompts?* is answered by drawing facts, the prompts of one fact together (:func:`interval_of`). Everything
here is a pure function of arrays; what is not defined (no controls, an empty cell, a spread of 0) is None, never NaN.
scipy.stats and statsmodels are imported inside functions because importing them is slow.

``measure`` and ``functionals``: functions of sums over prompts; ``summary``: all that a record says of one. Which
neurons: ``permutation``, ``stepdown`` (several measures), ``selective`` (many runs). Which prompts: ``intervals``,
``bootstrap``, ``clusters``. ``tables`` and ``margins`` test tables of transitions, ``comparison`` two runs on the same
prompts, ``power`` says what could have been found, ``verdicts`` what all of this means in words, ``specific``
what of it is confidence. ``blocks``: a few conditions at a time. ``discoveries``: sets of units beside chance.
``seeds``: one for each component.
"""

from harness.statistics.blocks import Each
from harness.statistics.bootstrap import Interval
from harness.statistics.clusters import design_effect, korn_graubard
from harness.statistics.comparison import (
    Discordant,
    Overlap,
    SwapTest,
    chance_overlap,
    mcnemar,
    paired_intervals,
    swap_test,
)
from harness.statistics.intervals import interval_of
from harness.statistics.margins import MarginShift, MarginTest, margin_test
from harness.statistics.measure import CONTROLS, TREATED, Aggregated, AnyMeasure, Functional, Measure
from harness.statistics.permutation import PermutationTest, adjust, control_summary, effect_sizes, permutation_test
from harness.statistics.power import Needed, Spread, detectable, needed
from harness.statistics.seeds import derive_seed, generator
from harness.statistics.selective import Selective, controls_needed, selective_findings
from harness.statistics.specific import conclusion
from harness.statistics.stepdown import ALPHA, critical_rank, step_down_min_p
from harness.statistics.summary import MeasureSummary, summarise
from harness.statistics.tables import (
    ChiSquare,
    McNemar,
    TableTests,
    conversion_ratios,
    moves,
    stuart_maxwell,
    table_tests,
    transition_table,
)
from harness.statistics.verdicts import VERDICTS, Circumstances, Family, Verdict, family_of, reachable, verdict

__all__ = [
    "ALPHA",
    "CONTROLS",
    "TREATED",
    "VERDICTS",
    "Aggregated",
    "AnyMeasure",
    "ChiSquare",
    "Circumstances",
    "Discordant",
    "Each",
    "Family",
    "Functional",
    "Interval",
    "MarginShift",
    "MarginTest",
    "McNemar",
    "Measure",
    "MeasureSummary",
    "Needed",
    "Overlap",
    "PermutationTest",
    "Selective",
    "Spread",
    "SwapTest",
    "TableTests",
    "Verdict",
    "adjust",
    "chance_overlap",
    "conclusion",
    "control_summary",
    "controls_needed",
    "conversion_ratios",
    "critical_rank",
    "derive_seed",
    "design_effect",
    "detectable",
    "effect_sizes",
    "family_of",
    "generator",
    "interval_of",
    "korn_graubard",
    "margin_test",
    "mcnemar",
    "moves",
    "needed",
    "paired_intervals",
    "permutation_test",
    "reachable",
    "selective_findings",
    "step_down_min_p",
    "stuart_maxwell",
    "summarise",
    "swap_test",
    "table_tests",
    "transition_table",
    "verdict",
]
