"""Statistics of measures: p-values against controls, intervals over prompts, tests of transition tables, two runs.

There are two sources of variance. *Which neurons?* is answered by the controls: the treated value is ranked among the
values of random sets (:func:`permutation_test`). *Which prompts?* is answered by resampling facts, the prompts of one
fact together (:func:`bootstrap_interval`, :func:`paired_bootstrap`). Everything here is a pure function of arrays; what
is not defined (no controls, an empty cell, a spread of 0) is None, never NaN. scipy.stats and statsmodels are imported
inside functions because importing them is slow.
"""

from harness.statistics.bootstrap import Interval, binomial_interval, bootstrap_interval, paired_bootstrap
from harness.statistics.comparison import (
    Discordant,
    Overlap,
    SwapTest,
    chance_overlap,
    mcnemar,
    paired_intervals,
    swap_test,
)
from harness.statistics.margins import MarginShift, MarginTest, margin_test
from harness.statistics.measure import Aggregated, AnyMeasure, Functional, Measure
from harness.statistics.permutation import PermutationTest, adjust, control_summary, effect_sizes, permutation_test
from harness.statistics.seeds import derive_seed, generator
from harness.statistics.selective import ALPHA, Selective, controls_needed, selective_findings
from harness.statistics.tables import ChiSquare, McNemar, TableTests, conversion_ratios, table_tests, transition_table
from harness.statistics.verdicts import MeasureSummary, Verdict, summarise, verdict

__all__ = [
    "ALPHA",
    "Aggregated",
    "AnyMeasure",
    "ChiSquare",
    "Discordant",
    "Functional",
    "Interval",
    "MarginShift",
    "MarginTest",
    "McNemar",
    "Measure",
    "MeasureSummary",
    "Overlap",
    "PermutationTest",
    "Selective",
    "SwapTest",
    "TableTests",
    "Verdict",
    "adjust",
    "binomial_interval",
    "bootstrap_interval",
    "chance_overlap",
    "control_summary",
    "controls_needed",
    "conversion_ratios",
    "derive_seed",
    "effect_sizes",
    "generator",
    "margin_test",
    "mcnemar",
    "paired_bootstrap",
    "paired_intervals",
    "permutation_test",
    "selective_findings",
    "summarise",
    "swap_test",
    "table_tests",
    "transition_table",
    "verdict",
]
