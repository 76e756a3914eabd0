"""Statement pairs: how they are found and asked, what is carried over between two models, and the section of it."""

from __future__ import annotations

import contextlib
import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness_plugins.post_training.analysis.pairs import OTHERS
from harness_plugins.post_training.analysis.patched_passes import Sharing, patch
from harness_plugins.post_training.analysis.statement_pairs import (
    QUESTION,
    ROLES,
    StatementPair,
    drawn_examples,
    load_examples,
    load_statements,
    one_template,
    paired,
    prompts,
)
from harness_plugins.post_training.analysis.statement_patching import (
    Way,
    at,
    best_place,
    correlation_of,
    estimate,
    four_ways,
    group_weights,
)
from harness_plugins.post_training.comparison.run import input_digests
from harness_plugins.post_training.comparison.settings import Settings
from harness_plugins.post_training.comparison.statements import statements_section

from harness.engine.closed_form import ClosedFormEngine
from harness.errors import HarnessError
from harness.model.model import Model
from harness.plugin.components import SelectionContext
from harness.testing import demo_model, tiny_model
from harness.testing.common import check_shown
from harness.testing.tiny_models import FAMILIES

CITIES = [
    ("The city of Lyon is in France.", True), ("The city of Lyon is in Japan.", False),
    ("The city of Osaka is in France.", False), ("The city of Kyoto is in Japan.", True),
    ("The city of Nice is in France.", True),
]  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]] | dict[str, Any]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def perturbed(model: Model, scale: float) -> Model:
    """A copy whose layers have other weights: a model that was trained from it, in the least sense."""
    other = copy.deepcopy(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in torch.nn.ModuleList(other.anatomy.layers).parameters():
            weight += scale * weight.std() * torch.randn_like(weight) if weight.ndim > 1 else 0.0
    return other


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_pairs_have_one_template_and_end_in_one_word() -> None:
    assert paired(CITIES) == [
        (CITIES[0][0], CITIES[2][0]),
        (CITIES[3][0], CITIES[1][0]),
    ]  # one false is left for France
    assert one_template("The salmon is a fish.", "The giant anteater is a fish.")
    assert not one_template("The salmon is a fish.", "Nobody ever saw a flying fish.")
    assert not one_template("The salmon is a fish.", "The salmon is a fish.")


def test_where_no_last_words_are_shared_neighbours_are_pairs() -> None:
    rows = [("Odin was a god of the Norse.", True), ("Odin was a god of the Chinese.", False), ("Rain is wet.", True)]
    assert paired(rows) == [(rows[0][0], rows[1][0])]
    with pytest.raises(HarnessError, match="no true and false statement have one template"):
        paired([("Rain is wet.", True), ("The sun is a cold and distant stone.", False)])


def test_files_are_tables_or_pairs(tmp_path: Path) -> None:
    table = tmp_path / "cities.csv"
    table.write_text("statement,label\n" + "".join(f"{text},{int(label)}\n" for text, label in CITIES))
    found = load_statements(table)
    assert found.name == "cities" and found.pairs == tuple(paired(CITIES)) and len(found.labelled) == 5
    theirs = write(tmp_path / "p.json", {"llama3_false_prompts": ["b", "b"], "llama3_true_prompts": ["a", "a"]})
    assert load_statements(theirs).pairs == (("a", "b"),)  # the same pair is asked once
    ours = write(tmp_path / "q.json", [{"true": "a", "false": "b"}])
    assert load_statements(ours).labelled == (("a", True), ("b", False))
    shots = write(
        tmp_path / "shots.json", [{"dataset_name": "cities", "few_shot_examples": ["x This statement is: TRUE"]}]
    )
    assert load_examples(shots) == {"cities": ("x This statement is: TRUE",)}
    assert set(input_digests(Settings(statements=(str(table),), examples=str(shots)), None)) == {
        "statements cities", "examples",
    }  # fmt: skip
    assert load_statements(table.rename(tmp_path / "my cities.2.csv")).name == "my-cities-2"  # fit for a figure


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            {"llama3_true_prompts": ["a"], "llama3_false_prompts": []},
            "expected lists of equal length, llama3_true_prompts",
        ),
        ({"other": 1}, "expected lists of equal length, NAME_true_prompts"),
        ([{"statement": "a", "label": 2}], 'expected "label" to be true or false'),
        ([{"true": "a", "false": ""}], 'expected a statement in the column "false"'),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, rows: Any, said: str) -> None:
    with pytest.raises(HarnessError, match=said):
        load_statements(write(tmp_path / "x.json", rows))


def test_one_name_is_one_data_set(tmp_path: Path) -> None:
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        files.append(str(write(tmp_path / folder / "x.json", [{"true": "a b", "false": "c b"}])))
    with pytest.raises(HarnessError, match=r"two files are called x\.json"):
        input_digests(Settings(statements=tuple(files)), None)


def test_settings_of_before_have_the_identity_of_before() -> None:
    assert set(Settings().recorded) == {"top", "null_dims", "limit", "begins", "pairs", "seed", "resamples"}
    assert Settings(statements=("x",)).recorded["asked"] == ("examples", "none")


def test_prompts_end_in_the_statement_and_what_is_asked(tmp_path: Path) -> None:
    model = demo_model()
    data = load_statements(write(tmp_path / "capitals.json", capitals()))
    shots = drawn_examples(data, 0)
    assert [x.rsplit(" ", 1)[1] for x in shots] == ["FALSE", "FALSE", "TRUE", "TRUE"]
    for asked, pairs in ((x, prompts([model], data, x, shots, 4, 0)) for x in ("examples", "question", "none")):  # type: ignore[arg-type]
        for pair in pairs:
            texts = [model.tokenizer.decode(x, skip_special_tokens=True) for x in (pair.clean, pair.corrupted)]
            assert len(pair.clean) == len(pair.corrupted) and pair.roles[-1] == 6
            if asked == "none":
                assert pair.answers[1] == OTHERS and pair.end == len(pair.clean)
                assert not any(text.rstrip().endswith((".", ":")) for text in texts)
            else:
                assert all(text.endswith(QUESTION) for text in texts)
                assert texts[0].count(QUESTION) == (5 if asked == "examples" else 1)
                assert pair.roles[pair.end - 1] == 4 and set(pair.roles[pair.end : -1]) == {5}
    assert prompts([model], data, "none", (), 4, 0) == prompts([model, model], data, "none", (), 4, 0)
    with pytest.raises(HarnessError, match="different tokenisers"):
        prompts([model, tiny_model("gpt2")], data, "none", (), 4, 0)


def capitals() -> list[dict[str, str]]:
    """Pairs that the bundled model knows: the true capital of the one country, of the other the false one."""
    known = [("France", "Paris"), ("Italy", "Rome"), ("Japan", "Tokyo"), ("Spain", "Madrid"), ("Egypt", "Cairo")]
    return [
        {"true": f"The capital of {a} is {city}.", "false": f"The capital of {b} is {city}."}
        for a, city in known
        for b, other in known
        if other != city
    ]


# -- what is carried over ----------------------------------------------------------------------------------------------


def random_pairs(n: int = 4, before: int = 1) -> list[StatementPair]:
    """Pairs of six tokens, of which the first two differ, after some that are the same."""
    rng = np.random.default_rng(0)
    length, found = before + 6, []
    for i in range(n):
        true, false = (rng.permutation(200)[:length] for _ in range(2))
        false = np.where((np.arange(length) >= before) & (np.arange(length) < before + 2), false, true)
        answers = 5, OTHERS if i % 2 else 9
        found.append(StatementPair(tuple(true.tolist()), tuple(false.tolist()), answers, f"{i}", length - 2))
    return found


@torch.no_grad()
def by_hand(source: Model, target: Model, pair: StatementPair, layer: int, token: int) -> float:
    """d of the false prompt in the bare target with one vector of the bare source."""

    def hidden(output: Any) -> torch.Tensor:
        found: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return found

    seen: list[torch.Tensor] = []
    hook = list(source.anatomy.layers)[layer].register_forward_hook(lambda m, a, out: seen.append(hidden(out).clone()))
    source.hf(input_ids=torch.tensor([pair.clean]))
    hook.remove()

    def put(module: Any, args: Any, output: Any) -> None:
        hidden(output)[0, token] = seen[0][0, token]

    hook = list(target.anatomy.layers)[layer].register_forward_hook(put)
    p = target.hf(input_ids=torch.tensor([pair.corrupted])).logits[0, -1].double().softmax(-1)
    hook.remove()
    first, second = pair.answers
    return float(torch.log(p[first]) - torch.log(1 - p[first] if second == OTHERS else p[second]))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_cell_is_what_one_pass_with_the_other_models_vector_gives(family: str) -> None:
    base = tiny_model(family)
    tuned = perturbed(base, 0.3)
    pairs = random_pairs()
    found = patch(base, tuned, pairs)
    own = patch(base, base, pairs)
    for i, pair in enumerate(pairs):
        for layer in range(base.anatomy.n_layers):
            for token in (1, 3, 6):
                wanted = by_hand(base, tuned, pair, layer, token)
                assert found.patched[i, layer, token] == pytest.approx(wanted, abs=1e-4)
    np.testing.assert_allclose(patch(base, copy.deepcopy(base), pairs).patched, own.patched, atol=1e-5)
    assert np.abs(found.patched - own.patched).max() > 1e-3


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_what_passes_share_changes_no_number(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens and layers before a patched place are read once: by how many tokens each layer reads, and by numbers; also
    where tokens that are read before are out of sight of later ones."""
    if family == "mistral":
        monkeypatch.setitem(FAMILIES["mistral"].options, "sliding_window", 4)
    model = tiny_model(family)
    pairs, n_layers = random_pairs(before=6), model.anatomy.n_layers
    assert Sharing.of(model) == Sharing(frozenset(range(n_layers)), tokens=True)
    read, found = [], []
    for sharing in (Sharing(frozenset(), False), Sharing(frozenset({1, 2}), False), Sharing.of(model)):
        read.append([0] * n_layers)
        with contextlib.ExitStack() as hooks:
            for layer, module in enumerate(model.anatomy.layers):
                hooks.callback(module.mlp.register_forward_hook(partial(counted, read[-1], layer)).remove)
            found.append(patch(model, model, pairs, 16, sharing=sharing))
    for other in found[1:]:
        np.testing.assert_allclose(other.patched, found[0].patched, atol=2e-5)
        np.testing.assert_allclose(other.corrupted, found[0].corrupted, atol=2e-5)
    n, cells = 6 + 6, len(pairs) * 6  # tokens of a prompt, and patched ones
    untouched = len(pairs) * 2 * n
    assert read[0] == [untouched + n_layers * cells * n] * n_layers
    assert read[2] == [untouched + (layer + 1) * cells * 6 for layer in range(n_layers)]


def counted(read: list[int], layer: int, module: Any, args: Any, output: Any) -> None:
    read[layer] += output.shape[0] * output.shape[1]


def made(gained: np.ndarray, whole: np.ndarray) -> Way:
    return Way(gained, whole, whole[:, 0], np.zeros(len(whole)))


def test_a_map_is_a_ratio_of_sums_which_correlates_as_the_papers_means_do() -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(size=(2, 6, 3, len(ROLES)))  # patched, in two models
    false, true = rng.normal(size=(2, 2, 6))
    ways = [
        made(d[k] - false[k][:, None, None], np.repeat((true[k] + 3 - false[k])[:, None], len(ROLES), 1))
        for k in (0, 1)
    ]
    wanted = (d[0].mean(0) - false[0].mean()) / (true[0] + 3 - false[0]).mean()
    np.testing.assert_allclose(ways[0].map, wanted)
    r = correlation_of(*ways)(np.ones((1, 6)))[0]
    assert r == pytest.approx(np.corrcoef(d[0].mean(0).ravel(), d[1].mean(0).ravel())[0, 1])
    layer, role = best_place(ways[0])
    assert (
        ways[0].map[layer, role]
        == ways[0].map[:, :3].max()
        == pytest.approx(at(ways[0], layer, role)(np.ones((1, 6)))[0])
    )


def test_the_best_place_is_of_a_role_that_half_of_the_pairs_have() -> None:
    """One of three pairs has middle tokens, and carries all over there; the rule looks at the others."""
    gained, whole = np.full((3, 2, len(ROLES)), 0.3), np.ones((3, len(ROLES)))
    gained[:, 1, 2] = 0.5
    gained[:, 0, 1] = [1.0, 0.0, 0.0]
    whole[1:, 1] = 0.0
    assert made(gained, whole).map[0, 1] == 1.0 and best_place(made(gained, whole)) == (1, 2)
    both = np.concatenate([gained, gained[:1]]), np.concatenate([whole, whole[:1]])
    assert best_place(made(*both)) == (0, 1)  # half of four


def test_intervals_are_over_groups() -> None:
    weights, n = group_weights(["a", "a", "b", "c"], 0, 300)
    assert n == 3 and (weights[:, 0] == weights[:, 1]).all() and weights.shape == (300, 4)
    values = np.array([1.0, 1.0, 2.0, 6.0])
    found = estimate(lambda w: w @ values / w.sum(1), weights, n)
    assert found.value == 2.5 and found.low is not None and found.high is not None and 1 <= found.low < 2.5 < found.high
    assert estimate(lambda w: w @ values / w.sum(1), *group_weights(["a"] * 4, 0, 300)).interval is None


def test_a_model_carries_over_to_its_copy_what_it_does_to_itself(tmp_path: Path) -> None:
    """Planted: the bundled model and its copy have one map; of a perturbed copy it is another."""
    model = demo_model()
    data = load_statements(write(tmp_path / "capitals.json", capitals()))
    contexts = [SelectionContext(x, ClosedFormEngine(x), [], 0) for x in (model, copy.deepcopy(model))]
    section = statements_section(data, "none", None, contexts, 8, 0, 200)
    numbers = section.numbers
    assert all(x["value"] == pytest.approx(1, abs=1e-6) for x in numbers["correlations"].values())
    for row in numbers["carried"]:
        assert row["difference"] == pytest.approx(0, abs=1e-4) and row["own"] > 0.5
        assert row["largest |difference|"] < 1e-3
    assert numbers["log_odds"]["base"]["true"]["value"] > numbers["log_odds"]["base"]["false"]["value"]
    assert "correlation 1.000" in section.sentences[1] and numbers["examples"] == ()
    check_shown(section.figures, section.name)
    other = four_ways([model, perturbed(model, 0.4)], prompts([model], data, "none", (), 4, 0))
    assert np.nanmax(np.abs(other["base to tuned"].map - other["tuned"].map)) > 0.01


def test_a_model_that_cannot_tell_has_nothing_to_carry_over() -> None:
    model = tiny_model("llama")
    pairs = random_pairs()
    told = patch(model, model, pairs)
    turned = [pair for pair, x, y in zip(pairs, told.clean, told.corrupted, strict=True) if x < y]
    assert turned
    with pytest.raises(HarnessError, match=r"does not find the true ones of \d pairs? more likely"):
        four_ways([model, model], turned)
