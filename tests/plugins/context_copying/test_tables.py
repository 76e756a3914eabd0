"""Tables of the context-copying metrics: cells, groups of relations, ways to match, percentiles of the selected."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from conflicts import CK, HAND, ND, PK, observed, outcomes
from harness_plugins.context_copying.metrics.answer_matching import Matching
from harness_plugins.context_copying.metrics.relation_groups import RelationGroups
from harness_plugins.context_copying.metrics.selected_neurons import SelectedNeurons
from harness_plugins.context_copying.metrics.transitions import Transitions
from scipy.stats import binomtest, percentileofscore

from harness.conditions.conditions import Selection
from harness.conditions.units import Neuron
from harness.files.store import canonical
from harness.plugin.records import Frame
from harness.statistics import adjust, permutation_test, step_down_min_p


def rows(frame: Frame) -> list[dict[str, object]]:
    return [dict(zip(frame.columns, values, strict=True)) for values in zip(*frame.columns.values(), strict=True)]


def test_every_cell_has_its_share_interval_and_place_among_the_controls() -> None:
    [frame] = Transitions().measure(outcomes(HAND)).frames
    cells = {(row["before"], row["after"]): row for row in rows(frame)}
    assert len(cells) == 9
    cell = cells["ND", "CK"]
    assert (cell["count"], cell["share"], cell["of_all"]) == (2, 50.0, 20.0)
    # Every prompt is a fact of its own: Clopper-Pearson's interval of 2 of 4.
    exact = binomtest(2, 4).proportion_ci(0.95, "exact")
    assert (cell["ci_low"], cell["ci_high"]) == pytest.approx((100 * exact.low, 100 * exact.high))
    assert cell["design_effect"] == pytest.approx(1)
    # The controls: one leaves ND where it is, the other too; CK -> ND is 0% and 100%.
    assert (cell["control_mean"], cell["control_se"], cell["quantile"]) == (0.0, 0.0, 100.0)
    cell = cells["CK", "ND"]
    assert (cell["control_mean"], cell["control_count"], cell["quantile"]) == (50.0, 1.5, 50.0)
    assert cell["control_se"] == pytest.approx(np.std([0, 100], ddof=1) / np.sqrt(2))
    assert cell["p"] == 1.0


def test_cells_know_that_the_prompts_of_a_fact_move_together() -> None:
    """Three copies of every prompt say what one says: the interval stays, the share and its place, too."""
    found = observed(n=60)
    alone = replace(found, prompts=tuple(replace(x, cluster=x.id) for x in found.prompts))
    copies = [replace(x, id=f"{x.id}-{i}") for x in alone.prompts for i in range(3)]
    values = {"source": np.repeat(found["source"], 3, axis=1)}
    [one], [three] = (
        Transitions().measure(x).frames for x in (alone, replace(alone, prompts=tuple(copies), values=values))
    )
    for a, b in zip(rows(one), rows(three), strict=True):
        for name in ("share", "p", "p_adjusted", "quantile", "of_all"):
            assert b[name] == pytest.approx(a[name])
        assert b["count"] == 3 * a["count"]  # type: ignore[operator]
        assert b["design_effect"] == pytest.approx(3, rel=0.2)  # type: ignore[comparison-overlap]
        assert (b["ci_low"], b["ci_high"]) == pytest.approx((a["ci_low"], a["ci_high"]), abs=3)


def test_cells_are_adjusted_together() -> None:
    found = observed(controls=99)
    table = rows(Transitions().measure(found).frames[0])
    source = found["source"]
    shares = np.array(
        [[((x == j) & (source[0] == i)).sum() / (source[0] == i).sum() for x in source[1:]]
         for i in range(3) for j in range(3)]
    )  # fmt: skip
    null = [float(i == j) for i in range(3) for j in range(3)]
    together = step_down_min_p(shares[:, 0], shares[:, 1:], np.array(null))
    assert [row["p_adjusted"] for row in table] == pytest.approx(together)


def test_cells_of_many_controls_are_ranked_as_the_measures_are() -> None:
    found = observed()
    measurement = Transitions().measure(found)
    measures = {measure.name: measure for measure in measurement.measures}
    for row in rows(measurement.frames[0]):
        if row["before"] == row["after"]:
            continue
        values = measures[f"{row['before']}_to_{row['after']}"].values
        assert row["share"] == pytest.approx(values[1])
        assert row["control_mean"] == pytest.approx(values[2:].mean())
        assert row["control_se"] == pytest.approx(values[2:].std(ddof=1) / np.sqrt(19))
        assert row["quantile"] == pytest.approx(percentileofscore(values[2:], values[1], kind="mean"))


def test_an_empty_row_has_no_share() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [frame] = Transitions().measure(outcomes([[CK] * 4] * 4)).frames
    empty = [row for row in rows(frame) if row["before"] == "PK"]
    assert all(row["share"] is row["ci_low"] is row["control_mean"] is row["quantile"] is None for row in empty)
    canonical(frame.columns)  # refuses NaN
    [frame] = Transitions().measure(outcomes([[CK, PK], [CK, ND]])).frames  # no controls
    assert all(row["control_mean"] is None and row["p"] is None for row in rows(frame))


def test_a_group_is_what_a_run_on_it_alone_would_say() -> None:
    found = observed()
    [frame] = RelationGroups().measure(found).frames
    table = rows(frame)
    assert [row["group"] for row in table] == [group for group in "abc" for _ in range(3)]
    for row in table:
        inside = np.array([prompt.fields["group"] == row["group"] for prompt in found.prompts])
        source, entropy = found["source"][:, inside], found["entropy"][:, inside]
        moved = (source != source[:1]).mean(axis=1)
        assert row["facts"] == 10 or row["measure"] == "CK conversion ratio"
        if row["measure"] == "global transition score":
            assert (row["value"], row["count"], row["prompts"]) == (
                pytest.approx(100 * moved[1]),
                round(30 * moved[1]),
                30,
            )
            assert row["control_mean"] == pytest.approx(100 * moved[2:].mean())
            assert row["p"] == permutation_test(moved[1], moved[2:]).p_two_sided
        elif row["measure"] == "change of entropy":
            assert row["value"] == pytest.approx((entropy[1] - entropy[0]).mean()) and row["count"] is None
        assert row["ci_low"] <= row["value"] <= row["ci_high"]  # type: ignore[operator]
    for title in {row["measure"] for row in table}:
        same = [row for row in table if row["measure"] == title]
        assert all(row["p_adjusted"] is not None for row in same)
        assert [row["p_holm"] for row in same] == adjust([row["p"] for row in same], "holm")  # type: ignore[misc]
    assert rows(RelationGroups().measure(found).frames[0]) == table


def test_groups_are_adjusted_by_the_control_sets_that_they_share() -> None:
    """With 19 controls and five groups Holm finds nothing, however far one lies out; together the sets can: 1 / 20."""
    found = observed()
    far = np.array([prompt.fields["relation"] == "r0" for prompt in found.prompts])
    source = found["source"].copy()
    source[1] = np.where(far, (source[0] + 1) % 3, source[0])
    table = rows(
        RelationGroups(by="relation").measure(replace(found, values={**found.values, "source": source})).frames[0]
    )
    [row] = [x for x in table if x["group"] == "r0" and x["measure"] == "global transition score"]
    assert (row["p"], row["p_holm"], row["p_adjusted"]) == (0.1, 0.5, 0.05)


def test_one_row_for_each_relation_instead() -> None:
    [frame] = RelationGroups(by="relation").measure(observed()).frames
    assert [row["group"] for row in rows(frame)][::3] == [f"r{i}" for i in range(5)]


def test_a_group_without_a_change_is_not_certain() -> None:
    found = observed(groups="ab")
    still = np.array([prompt.fields["group"] == "a" for prompt in found.prompts])
    source = np.where(still, found["source"][:1], found["source"])
    [frame] = RelationGroups().measure(replace(found, values={**found.values, "source": source})).frames
    first = rows(frame)[0]
    assert (first["group"], first["value"], first["ci_low"]) == ("a", 0.0, 0.0)
    assert 10 < first["ci_high"] < 30  # type: ignore[operator]  # of 15 facts


def test_matching_says_what_each_rule_finds_and_where_they_differ() -> None:
    found = observed()
    [frame] = Matching().measure(found).frames
    exact, normalised, alias = rows(frame)
    assert (exact["differ_before"], exact["differ_after"]) == (0, 0)
    looser = found["source_normalised"]
    assert normalised["differ_before"] == (looser[0] != found["source"][0]).sum() > 0
    assert normalised["CK_after"] == (looser[1] == CK).sum()
    assert normalised["GTS"] == pytest.approx(100 * (looser[1] != looser[0]).mean())
    assert {**alias, "matching": "normalised"} == normalised
    assert exact["quantile"] != normalised["quantile"]


def test_percentiles_of_the_selected_among_all() -> None:
    candidates = tuple(Neuron(3, i) for i in range(10))
    scores = {"rho": np.linspace(0, 0.9, 10), "odd": np.array([1.0, np.nan, *[1.0] * 8])}
    selection = Selection((candidates[9], candidates[1]), "rule", candidates, scores)
    measurement = SelectedNeurons().measure(replace(outcomes(HAND), selection=selection))
    first, second = rows(measurement.frames[0])
    assert (first["neuron"], first["rho"], first["rho_percentile"], first["odd_percentile"]) == ("3.9", 0.9, 95.0, 50.0)
    assert (second["rho_percentile"], second["odd"], second["odd_percentile"]) == (15.0, None, None)
    assert measurement.figures == ()  # neither LogitVar nor norms


def test_a_selector_without_scores_has_nothing_to_show() -> None:
    measurement = SelectedNeurons().measure(replace(outcomes(HAND), selection=Selection((Neuron(1, 2),), "named")))
    assert measurement.frames == measurement.figures == ()
