"""Selectors of latents: what they choose is what their definition says; whole runs; what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dictionaries as slow
import numpy as np
import pytest
import small_runs
import torch
from engines import some_prompts
from families import tiny
from harness_plugins.dictionaries.access import captured
from harness_plugins.dictionaries.latents import Latent
from harness_plugins.dictionaries.selectors import NamedLatents, TopLatents

from harness.conditions.conditions import Selection
from harness.engine.closed_form import ClosedFormEngine
from harness.errors import HarnessError
from harness.model.model import Model
from harness.plugin.components import SelectionContext
from harness.testing import check_selector, demo_model

PROMPTS = some_prompts(7, n=12)
FIELDS = [{"relation": "capital" if i % 3 else "author", "place": i} for i in range(12)]


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny("gpt2")


@pytest.fixture(scope="module")
def sae(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(slow.random_dictionary(tmp_path_factory.mktemp("one"), "topk", 32, hook="blocks.2.hook_resid_post"))


def context(model: Model, fields: list[dict[str, Any]] = FIELDS) -> SelectionContext:
    return SelectionContext(model, ClosedFormEngine(model, 4), PROMPTS, seed=0, held_out=True, fields=fields)


def select(model: Model, cls: type[TopLatents] | type[NamedLatents], **parameters: Any) -> Selection:
    selector = cls(**parameters)
    selector.check(model)
    return selector.select(context(model))


def last_latents(model: Model, selection: Selection) -> np.ndarray:
    """Latents at the last token of each prompt [n, d_sae], one prompt at a time."""
    found, where = [], selection.units[0].where
    for tokens in PROMPTS:
        with torch.no_grad(), captured(model, where.dictionary) as seen:
            model.forward(model.pad([tokens]))
        found.append(seen[selection.units[0].layer][0, -1].double().numpy())
    return np.array(found)


def test_the_most_active_and_those_that_tell_classes_apart(model: Model, sae: str) -> None:
    active = select(model, TopLatents, sae=sae, by="activation", top=4)
    z = last_latents(model, active)
    np.testing.assert_allclose(active.scores["activation"], z.mean(0), atol=1e-5)
    assert [unit.index for unit in active.units] == np.argsort(-z.mean(0), kind="stable")[:4].tolist()
    assert set(active.pool or ()) | set(active.units) >= {Latent(2, int(i)) for i in np.flatnonzero(z.any(0))}
    apart = select(model, TopLatents, sae=sae, by="difference", field="relation", value="capital", top=3)
    capital = np.array([fields["relation"] == "capital" for fields in FIELDS])
    difference = z[capital].mean(0) - z[~capital].mean(0)
    np.testing.assert_allclose(apart.scores["difference"], difference, atol=1e-5)
    assert [unit.index for unit in apart.units] == np.argsort(-np.abs(difference), kind="stable")[:3].tolist()
    assert "difference in mean activation between relation=capital and other prompts" in apart.rule


def test_those_that_raise_the_answer_lower_it_when_they_are_taken_away(model: Model, sae: str) -> None:
    """The first-order effect has the sign of the whole one for most of the latents that have the largest."""
    from harness.conditions.conditions import BASELINE, Condition, SetNeurons

    found = select(model, TopLatents, sae=sae, top=5)
    score = found.scores["attribution"]
    assert [unit.index for unit in found.units] == np.argsort(-score, kind="stable")[:5].tolist() and score.max() > 0
    gone = Condition(
        "gone", (SetNeurons(2, tuple(unit.index for unit in found.units), (0.0,) * 5, found.units[0].where),)
    )
    changes = []
    for tokens in PROMPTS:
        answer = int(model.forward(model.pad([tokens])).logits[0, -1].argmax())
        losses = ClosedFormEngine(model).score([[*tokens, answer]], [BASELINE, gone]).loss[:, -1]
        changes.append(losses[1] - losses[0])
    assert np.mean(changes) > 0


def test_named_latents_and_what_is_recorded_of_the_dictionary(model: Model, sae: str) -> None:
    found = select(model, NamedLatents, sae=sae, latents=["S2.4", 11])
    assert list(map(str, found.units)) == ["S2.4", "S2.11"]
    about, quality = found.details["dictionary"], found.details["quality"]
    assert about["hook"] == "blocks.2.hook_resid_post" and about["activations"] == "as the model has them"
    assert (
        quality["l0"] <= 5
        and quality["fvu"] > 0
        and quality["tokens"] == sum(len(x) - 1 for x in PROMPTS if len(x) > 2)
    )
    tables = NamedLatents(sae=sae, latents=[4]).figures(found)
    assert [table.name for table in tables] == ["dictionary", "latents"]


def test_centring_is_asked_for_and_only_done_where_there_is_a_layer_norm(model: Model, sae: str) -> None:
    assert select(model, TopLatents, sae=sae, centred=True).details["dictionary"]["activations"].startswith("the mean")
    plain = tiny("llama")
    said = select(plain, TopLatents, sae=sae, centred=True).details["dictionary"]["activations"]
    assert said == "as the model has them"


@pytest.mark.parametrize(
    ("cls", "given", "words"),
    [
        (TopLatents, {"top": 49}, "top=49 latents were asked for, but .* has only 48"),
        (TopLatents, {"by": "difference", "field": "relations", "value": "a"}, 'field "relations".* mean "relation"'),
        (TopLatents, {"by": "difference", "field": "relation", "value": "capitol"}, 'capitol; .* mean "capital"'),
        (NamedLatents, {"latents": ["S2.48"]}, r"no latent S2\.48 in .*, which has S2\.0 to S2\.47"),
        (NamedLatents, {"latents": ["S1.4"]}, r"no latent S1\.4 in"),
        (NamedLatents, {"latents": ["S2.4", 4]}, r"latent S2\.4 is named twice"),
        (NamedLatents, {"latents": ["2.4"]}, r'"2\.4" is not a latent'),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    model: Model, sae: str, cls: type[TopLatents], given: dict[str, Any], words: str
) -> None:
    with pytest.raises(HarnessError, match=words):
        select(model, cls, sae=sae, **given)


def test_parameters_that_do_not_go_together_are_refused(
    harness: Callable[..., tuple[int, str, str]], sae: str, tmp_path: Path
) -> None:
    task = ("eval", "--task", "knowledge_conflict", "-o", tmp_path)
    code, _, err = harness(*task, "--selector", f"top_latents:sae={sae},by=difference", "--intervention", "zero")
    assert code == 2 and "by=difference needs field= and value=" in err
    code, _, err = harness(*task, "--selector", f"top_latents:sae={sae}", "--intervention", "zero")
    assert code == 2 and "is of activations of width 32, but demo has 128 numbers there" in err
    code, _, err = harness(*task, "--selector", "units:units=[S3.5]", "--intervention", "zero")
    assert code == 2 and '"S3.5" is a latent, and its name alone does not say where it is: take a selector that' in err
    code, _, err = harness(*task, "--selector", "top_latents:sae=demo-lst", "--intervention", "zero")
    assert code == 2 and 'Did you mean "demo-last"' in err and "Traceback" not in err


def test_selectors_keep_their_promises() -> None:
    check_selector(TopLatents, on=demo_model(), sae="demo-last", top=3)
    check_selector(NamedLatents, on=demo_model(), sae="demo-last", latents=[3, 5])


@pytest.mark.parametrize(
    ("intervention", "match", "by"),
    [("zero", "density", "by=attribution"), ("mean", "none", "by=difference,field=relation,value=capital")],
)
def test_a_whole_run_on_the_bundled_model(
    tmp_path: Path, small_facts: Path, intervention: str, match: str, by: str
) -> None:
    """In closed form, with controls that are active, the dictionary's quality on record and in a table."""
    folder = small_runs.finish(
        tmp_path,
        task=f"knowledge_conflict:data={small_facts}",
        selector=f"top_latents:sae=demo-last,top=3,{by}",
        intervention=intervention,
        controls=19,
        match=match,
    )
    record = small_runs.record(folder)
    selection = record["selection"]
    assert selection["unit"] == "latent" and record["engine"] == "closed_form"
    assert [chosen["neuron"][:3] for chosen in selection["neurons"]] == ["S3."] * 3
    quality = selection["details"]["quality"]
    assert quality["recovered"] > 0.8 and selection["details"]["dictionary"]["name"] == "demo-last"
    rows = (folder / "tables" / "dictionary.csv").read_text().splitlines()
    assert f"L0: active latents a token,{quality['l0']}" in rows
    density = {
        row["neuron"]: row["density"] for row in map(json.loads, (folder / "neurons.jsonl").read_text().splitlines())
    }
    assert all(density[name] > 0 for names in record["controls"]["sets"] for name in names)


def test_promoted_tokens_are_those_of_the_folded_unembedding(model: Model, sae: str) -> None:
    found = select(model, NamedLatents, sae=sae, latents=[4, 11])
    rows = found.units[0].where.dictionary.W_dec[[4, 11]]
    logits = (rows - rows.mean(1, keepdim=True)) @ model.folded_W_U()  # a LayerNorm takes the mean away
    wanted = [[model.token_texts[token] for token in row] for row in logits.topk(5).indices.tolist()]
    assert [found.details["promoted"][name] for name in ("S2.4", "S2.11")] == wanted
