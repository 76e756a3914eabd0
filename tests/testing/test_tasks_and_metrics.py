"""``harness.testing``: tasks, metrics, corpora and model loaders that break a promise are told which."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from promises import broken

from harness.conditions.conditions import Selection
from harness.conditions.units import Head
from harness.plugin.components import Corpus, Metric, ModelLoader, Task
from harness.plugin.records import Measurement, Outcomes, Prepared, Prompt
from harness.testing import check_corpus, check_metric, check_model_loader, check_task, tiny_model

# -- tasks -------------------------------------------------------------------------------------------------------------


class Reading(Task):
    """Reads some texts."""

    name = "reading"

    def data_digest(self) -> str:
        return hashlib.sha256(b"the texts below").hexdigest()

    def prepare(self, engine: Any, limit: int | None, seed: int) -> Prepared:
        texts = ["one", "and two", "and then three", "four"][:limit]
        tokens = engine.model.encode(texts)
        return Prepared(tuple(Prompt(x, x, tuple(ids), x) for x, ids in zip(texts, tokens, strict=True)))

    def observe(self, engine: Any, prompts: Any, conditions: Any, progress: Any = None) -> Outcomes:
        scores = engine.score([prompt.tokens for prompt in prompts], conditions, progress)
        loss = scores.loss @ (scores.prompt[:, None] == np.arange(len(prompts)))
        return Outcomes(tuple(conditions), tuple(prompts), {"loss": loss})


def observes(change: Callable[[Outcomes], Outcomes | None], shares: bool = False) -> type[Task]:
    """The task above, with its outcomes changed."""

    class Changed(Reading):
        """Reads some texts and changes what it saw."""

        shares_passes = shares

        def observe(self, *arguments: Any) -> Any:
            return change(super().observe(*arguments))

    return Changed


def loss(function: Callable[[np.ndarray], np.ndarray], **options: Any) -> type[Task]:
    from dataclasses import replace

    return observes(lambda x: replace(x, values={"loss": function(x["loss"])}), **options)


def prompts(change: Callable[[list[Prompt]], Sequence[Prompt]]) -> type[Task]:
    class Changed(Reading):
        """Reads other prompts."""

        def prepare(self, *arguments: Any) -> Any:
            return Prepared(tuple(change(list(super().prepare(*arguments).prompts))))

    return Changed


class Restless(Reading):
    """Its digest changes."""

    def data_digest(self) -> str:
        return str(np.random.rand())


class Partless(Reading):
    """It names a part of prompts that it does not find."""

    def acts_at(self) -> frozenset[str]:
        return frozenset({"prompt", "verb"})


class Unmeasured(Reading):
    """Its metric does not exist."""

    default_metrics = ("no_such_metric",)


def shuffled(some: list[Prompt]) -> list[Prompt]:
    return [some[i] for i in np.random.permutation(len(some))]


def test_a_good_task() -> None:
    outcomes = check_task(loss(lambda x: x, shares=True))
    assert outcomes["loss"].shape == (5, 4)
    chosen = Selection((Head(0, 1), Head(1, 1)), "heads")
    assert not np.allclose(*check_task(Reading, selection=chosen)["loss"][:2])


@pytest.mark.parametrize(
    ("cls", "says"),
    [
        (Restless, "data_digest() changes from call to call"),
        (Partless, "acts_at() names verb, which named_spans() does not give of prompt one"),
        (Unmeasured, 'default_metrics failed: metric no_such_metric: no metric is called "no_such_metric"'),
        (prompts(lambda some: []), "prepare() made no prompts for this model"),
        (prompts(lambda some: [some[0], some[0]]), "two prompts have the same id"),
        (prompts(lambda some: [Prompt("a", "a", (299, 300), "a")]), "prompt a is empty or holds a token that the"),
        (prompts(lambda some: [Prompt("a", "a", (1,) * 65, "a")]), "prompt a is longer than the model's positions"),
        (prompts(lambda some: [Prompt("a", "a", (1, 2), "a", {"x": {1}})]), "the fields of prompt a cannot be"),
        (prompts(shuffled), "prepare() makes other prompts the second time"),
        (observes(lambda x: None), "observe() returned no harness.plugin.records.Outcomes"),
        (observes(lambda x: Outcomes(x.conditions[::-1], x.prompts, x.values)), "expected ['baseline', 'treated', "),
        (observes(lambda x: Outcomes(x.conditions, x.prompts[::-1], x.values)), "the outcomes' prompts are not those"),
        (observes(lambda x: Outcomes(x.conditions, x.prompts, x.values, (("a",),))), "1 answer in row 0 for 4"),
        (loss(lambda x: x / 0), 'the outcome "loss" is not finite'),
        (loss(lambda x: x[:1] + 0 * x), "the ablation changes no outcome: hand the conditions to the engine"),
        (loss(lambda x: x + np.arange(len(x))[:, None]), 'a condition without edits has another "loss" than the'),
        (loss(lambda x: x - x.mean(axis=1, keepdims=True)), "observe() in two parts gives other values"),
        (loss(lambda x: x - x.mean(axis=0), shares=True), "what is observed of a condition depends on others"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_promises_of_tasks(cls: type[Task], says: str) -> None:
    assert says in broken(check_task, cls)


# -- metrics -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    return check_task(Reading)


def measures(function: Callable[[np.ndarray], np.ndarray], n: int = 1) -> type[Metric]:
    class Changed(Metric):
        """The mean of what a function makes of the loss."""

        name = "changed"

        def measure(self, outcomes: Outcomes) -> Measurement:
            from harness.statistics import Measure

            found = function(outcomes["loss"])
            return Measurement(tuple(Measure("loss", "loss", "nats", found, np.ones(found.shape)) for _ in range(n)))

    return Changed


def written(x: np.ndarray) -> np.ndarray:
    x += 1
    return x


@pytest.mark.parametrize(
    ("cls", "says"),
    [
        (measures(lambda x: x * np.nan), 'measure() failed: measure "loss": a value that is not finite'),
        (measures(lambda x: x[:2]), '"loss" has 2 values for 5 conditions'),
        (measures(lambda x: x - x.mean(axis=0)), '"loss" of a condition changes when a control is left out'),
        (measures(lambda x: x + np.random.rand()), '"loss" differs from call to call'),
        (measures(written), "measure() writes into the outcome loss"),
        (measures(lambda x: x, n=2), "two of its measures have the same name"),
        (measures(lambda x: x, n=0), "measure() returned nothing at all"),
    ],
)
def test_promises_of_metrics(cls: type[Metric], says: str, outcomes: Outcomes) -> None:
    from dataclasses import replace

    assert check_metric(measures(lambda x: x), outcomes).measures[0].values.shape == (5,)
    own = replace(outcomes, values={name: array.copy() for name, array in outcomes.values.items()})
    assert says in broken(check_metric, cls, own)


def test_a_metric_that_does_not_fit_is_told_so() -> None:
    said = broken(check_metric, measures(lambda x: x))
    assert 'a metric wants the outcome "loss", which this task does not observe' in said


# -- corpora and models ------------------------------------------------------------------------------------------------


counter = itertools.count()


def texts(documents: Callable[[], Any], digest: Callable[[], str] = lambda: "of the data") -> type[Corpus]:
    class Changed(Corpus):
        """Some texts."""

        name = "texts"

        def documents(self) -> Any:
            return documents()

        def data_digest(self) -> str:
            return digest()

    return Changed


def test_promises_of_corpora() -> None:
    assert check_corpus(texts(lambda: iter(["a", "b"]))) == ("a", "b")
    assert check_corpus(texts(lambda: map(str, itertools.count())), documents=3) == ("0", "1", "2")
    assert "documents() gave no text" in broken(check_corpus, texts(lambda: []))
    assert "documents() gave empty texts only" in broken(check_corpus, texts(lambda: ["", " "]))
    assert "documents() gave bytes, expected texts" in broken(check_corpus, texts(lambda: ["a", b"b"]))
    assert "gave other texts the second time" in broken(check_corpus, texts(lambda: [str(np.random.rand())]))
    restless = texts(lambda: ["a"], lambda: str(next(counter)))
    assert "data_digest() changes from call to call" in broken(check_corpus, restless)


def loads(change: Callable[[Any], Any], seed: Callable[[], int] = lambda: 0) -> type[ModelLoader]:
    class Changed(ModelLoader):
        """A tiny model, changed."""

        name = "changed"

        def load(self) -> Any:
            return change(tiny_model(seed=seed()))

    return Changed


def training(model: Any) -> Any:
    model.hf.train()
    return model


def silent(model: Any) -> Any:
    model.w_out(model.anatomy.n_layers - 1).zero_()
    return model


def test_promises_of_model_loaders() -> None:
    assert check_model_loader(loads(lambda model: model)).name == "gpt2"
    assert "load() returned no Model" in broken(check_model_loader, loads(lambda model: model.hf))
    assert "the model is in training mode" in broken(check_model_loader, loads(training))
    assert "setting neurons of the last layer changes nothing" in broken(check_model_loader, loads(silent))
    drawn = loads(lambda model: model, lambda: next(counter))
    assert "loaded twice, weights or tokeniser differ" in broken(check_model_loader, drawn)
