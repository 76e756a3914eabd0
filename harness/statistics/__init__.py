"""Statistics of measures: p-values against controls, intervals over prompts, tests of transition tables.

There are two sources of variance. *Which neurons?* is answered by the controls: the treated value is ranked among the
values of random sets (:func:`permutation_test`). *Which prompts?* is answered by resampling facts, the prompts of one
fact together (:func:`bootstrap_interval`, :func:`paired_bootstrap`). Everything here is a pure function of arrays; what
is not defined (no controls, an empty cell, a spread of 0) is None, never NaN. scipy.stats and statsmodels are imported
inside functions because importing them is slow.
"""

from harness.statistics.bootstrap import Interval, binomial_interval, bootstrap_interval, paired_bootstrap
from harness.statistics.measure import AnyMeasure, Functional, Measure
from harness.statistics.permutation import PermutationTest, adjust, control_summary, effect_sizes, permutation_test
from harness.statistics.seeds import derive_seed, generator
from harness.statistics.tables import ChiSquare, McNemar, TableTests, conversion_ratios, table_tests, transition_table
from harness.statistics.verdicts import MeasureSummary, Verdict, summarise, verdict

__all__ = [
    "AnyMeasure",
    "ChiSquare",
    "Functional",
    "Interval",
    "McNemar",
    "Measure",
    "MeasureSummary",
    "PermutationTest",
    "TableTests",
    "Verdict",
    "adjust",
    "binomial_interval",
    "bootstrap_interval",
    "control_summary",
    "conversion_ratios",
    "derive_seed",
    "effect_sizes",
    "generator",
    "paired_bootstrap",
    "permutation_test",
    "summarise",
    "table_tests",
    "transition_table",
    "verdict",
]
