"""Every figure of the confidence paper draws whatever it is given, and its data hold what it shows."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from harness_plugins.confidence_regulation import figures
from matplotlib.image import imread
from matplotlib.text import Text

from harness.builtin.activation_figures import activation_values
from harness.builtin.calibration import diagram
from harness.conditions.conditions import Selection
from harness.conditions.units import Neuron
from harness.plotting.shapes import span_without_outlier
from harness.plugin.records import Figure
from harness.report.figure_files import draw, render, style

rng = np.random.default_rng(0)
N, K, D, T = 300, 6, 32, 400
NAMES = [f"11.{i}" for i in range(N)]
CHOSEN = np.arange(N) < K
NONE = np.zeros(N, bool)
POSITION = np.arange(60)


def some(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def with_holes(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values.flat[::7] = np.nan
    values.flat[3] = np.inf
    return values


def bins() -> tuple[np.ndarray, ...]:
    counts = rng.integers(0, 50, (2, 15)).astype(float)
    counts[:, 4] = 0
    return np.linspace(0, 1, 16), rng.random((2, 15)), rng.random((2, 15)), counts


ROWS = {row: (some(60), np.abs(some(60))) for row in ("baseline", "treated")}
PLACES = [*(f"A{i}" for i in range(6)), "B", *(f"A{i}" for i in range(6)), "X"]
MAKERS: dict[str, Callable[[], Figure]] = {
    "norm_logit_var": lambda: figures.norm_logit_var(NAMES, np.abs(some(N)), some(N) ** 2, rng.random(N), CHOSEN),
    "nothing selected": lambda: figures.norm_logit_var(NAMES, np.abs(some(N)), some(N) ** 2, rng.random(N), NONE),
    "zeros on a log axis": lambda: figures.norm_logit_var(NAMES, np.ones(N), np.zeros(N), np.zeros(N), CHOSEN),
    "one neuron": lambda: figures.norm_logit_var(["1.2"], *(np.ones(1) for _ in range(3)), np.ones(1, bool)),
    "singular_values": lambda: figures.singular_values(np.sort(some(D) ** 2)[::-1], 4, NAMES[:K], some(K, D)),
    "total_direct": lambda: figures.total_direct(NAMES, np.abs(some(N, 9)), np.abs(some(N, 9)), CHOSEN),
    "mediated_rho": lambda: figures.mediated_rho(NAMES, rng.random(N), some(N), some(N), CHOSEN),
    "holes": lambda: figures.mediated_rho(NAMES, rng.random(N), with_holes(some(N)), some(N), CHOSEN),
    "entropy_argmax": lambda: figures.entropy_argmax(NAMES, some(N), rng.random(N), some(N), CHOSEN),
    "frequency_kl": lambda: figures.frequency_kl(NAMES, some(N), some(N), CHOSEN),
    "activation_changes": lambda: figures.activation_changes(NAMES, some(N), np.abs(some(N)), CHOSEN),
    "entropy_kl": lambda: figures.entropy_kl(np.abs(some(T)), np.abs(some(T)), -0.5),
    "loss_change": lambda: figures.loss_change(np.abs(some(T)), some(T), rng.random(T), "3.0"),
    "kl_entropy_changes": lambda: figures.kl_entropy_changes(some(T), some(T)),
    "reliability": lambda: diagram(*bins()),
    "induction_curves": lambda: figures.induction_curves(POSITION, {"entropy": ROWS, "loss": ROWS}, 30, 9),
    "changes by position": lambda: figures.induction_curves(
        POSITION,
        {"entropy": ROWS, "loss": ROWS},
        30,
        9,
        changes={x: (some(60), np.ones(60)) for x in ("entropy", "loss")},
    ),
    "no repeat": lambda: figures.induction_curves(POSITION, {"entropy": ROWS}, None, 9),
    "activation_curves": lambda: figures.activation_curves(POSITION, NAMES[:K], some(K, 60), some(K, 60) ** 2, 30, 9),
    "entropy_by_position": lambda: figures.entropy_by_position(
        POSITION, NAMES[:K], some(K, 60), some(K, 60) ** 2, 30, 9
    ),
    "natural_curves": lambda: figures.natural_curves(
        PLACES, NAMES[:K], some(K, 14), some(K, 14) ** 2, "entropy (nats)", 9
    ),
    "activation_values": lambda: activation_values(
        NAMES[:4], some(4, 500), {"mean": some(4), "mean_plus_sigma": some(4)}, "mean"
    ),
    "a neuron that never fires": lambda: activation_values(["3.4"], np.zeros((1, 50)), {"mean": [0.0]}, "zero"),
    "head_ablation": lambda: figures.head_ablation(
        NAMES[:4], ["none", "L5H1", "L5H1+L6H9"], some(4, 3), some(4, 3) ** 2, some(4, 3), some(4, 3) ** 2
    ),
    "dfa_bars": lambda: figures.dfa_bars(
        [f"L5H{i}" for i in range(30)], some(30), some(30, 2), some(30), some(30, 2), "11.2378", 9
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_figure_draws_and_its_data_are_complete(name: str) -> None:
    figure = MAKERS[name]()
    assert len({len(column) for column in figure.data.values()}) == 1 and figure.title.endswith(".")
    assert "? " in figure.title  # a figure says which question it answers
    png, svg = render(figure)
    assert imread(io.BytesIO(png))[..., :3].std() > 0.01 and b"<svg" in svg
    with style():
        canvas = draw(figure)
        texts = [x for x in canvas.findobj(Text) if x.get_text()]
    assert texts and min(text.get_fontsize() for text in texts) >= 6


def test_selected_neurons_are_in_the_data_and_named_in_the_picture() -> None:
    figure = MAKERS["norm_logit_var"]()
    assert [n for n, chosen in zip(figure.data["neuron"], figure.data["selected"], strict=True) if chosen] == NAMES[:K]
    with style():
        texts = [text.get_text() for axes in draw(figure).axes for text in axes.texts]
    shown = {name for text in texts for name in text.replace("\n", " ").split(", ")}
    assert set(NAMES[:K]) <= shown


def test_arrays_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError):
        figures.norm_logit_var(NAMES, np.ones(3), np.ones(3), np.ones(3), CHOSEN)
    with pytest.raises(ValueError):
        figures.total_direct(NAMES, np.ones((2, 2)), np.ones((2, 2)), CHOSEN)


def test_a_selection_by_weights_shows_its_spectrum_where_it_has_one() -> None:
    candidates = tuple(Neuron(2, i) for i in range(20))
    scores = {"norm": np.abs(some(20)), "logit_var": some(20) ** 2, "rho": rng.random(20)}
    values = np.sort(np.abs(some(D)))[::-1].tolist()
    details = {"singular_values": values, "null_dims": 3, "cosines": {"2.0": some(D).tolist()}}
    chosen = (Neuron(2, 0),)
    both = figures.entropy_figures(Selection(chosen, "rule", candidates, scores, details))
    assert [figure.name for figure in both] == ["norm_logit_var", "singular_values"]
    assert figures.entropy_figures(Selection(chosen, "rule")) == ()


def limits(figure: Figure, axes: int = 0) -> tuple[tuple[float, float], tuple[float, float]]:
    with style():
        drawn = draw(figure).axes[axes]
        return drawn.get_xlim(), drawn.get_ylim()


def test_rounding_has_no_decades_of_its_own() -> None:
    logit_var = np.where(CHOSEN, 1e-21, 0.01)
    figure = figures.norm_logit_var(NAMES, np.abs(some(N)), logit_var, rng.random(N), CHOSEN)
    assert limits(figure)[1][0] > 1e-12 and "LogitVar below 1e-10 (6) is rounding" in figure.title
    assert min(figure.data["logit_var"]) == 1e-21  # the data are what was measured


def test_points_that_lie_on_each_other_share_one_name() -> None:
    chosen = np.arange(N) < 4
    rho = np.where(chosen, 1.0, 0.1)
    with style():
        canvas = draw(figures.mediated_rho(NAMES, rho, rho, np.ones(N), chosen))
    texts = [text.get_text() for text in canvas.axes[0].texts if text.get_text()]
    assert texts == ["11.0, 11.1, 11.2,\n11.3"]


def test_the_share_of_the_norm_in_the_last_directions_grows_to_all_and_is_rho_at_the_border() -> None:
    w = some(D)
    cosines = (w / np.linalg.norm(w))[None]
    figure = figures.singular_values(np.sort(some(D) ** 2)[::-1], 4, ["3.1"], cosines)
    share = np.asarray(figure.data["share_in_last_3.1"])  # from all directions to the last alone
    assert share[0] == pytest.approx(1) and (np.diff(share) <= 0).all()
    assert share[D - 4] == pytest.approx(np.linalg.norm(cosines[0, -4:]))


def test_attributions_are_drawn_in_the_order_of_their_difference() -> None:
    names = [f"L5H{i}" for i in range(30)]
    figure = figures.dfa_bars(
        names, some(30), some(30, 2), some(30), some(30, 2), "11.2378", 9, difference_ci=some(30, 2)
    )
    difference = dict(zip(figure.data["component"], figure.data["difference"], strict=True))
    with style():
        canvas = draw(figure)
    left, right = canvas.axes
    shown = [text.get_text() for text in left.get_yticklabels()]
    drawn = right.lines[0].get_xdata()
    assert shown == sorted(shown, key=lambda name: -difference[name]) and len(shown) == 20
    assert drawn == pytest.approx([difference[name] for name in shown])


@pytest.mark.parametrize("seed", range(5))
def test_a_pile_of_activations_is_parted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = np.concatenate([rng.normal(0, 1e-3, 900), rng.uniform(0, 5, 100)])[None]
    figure = activation_values(["3.0"], samples, {"mean": [0.25]}, "mean")
    with style():
        axes = draw(figure).axes[0]
    scale = axes.xaxis.get_transform()
    ends = scale.transform(np.array([-2e-3, 2e-3, *axes.get_xlim()]))
    assert (ends[1] - ends[0]) / (ends[3] - ends[2]) > 0.15  # on a linear axis: a thousandth
    assert sum(figure.data["count"]) == 1000


def test_one_row_does_not_set_the_scale_of_all() -> None:
    low, high = np.zeros(7), np.array([1, 1.2, 0.9, 1.1, 1, 0.8, 30.0])
    span = span_without_outlier(low, high)
    assert span is not None and 1.2 < span[1] < 2
    assert span_without_outlier(low, high.clip(max=2)) is None and span_without_outlier(low[:2], high[5:]) is None
