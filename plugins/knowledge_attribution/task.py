"""The task that validates an attribution: how far does the target's probability fall when neurons are taken away?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field, field_validator

from harness.data import FactSource, FactTable, taken
from harness.files.templates import check
from harness.plugin import (
    BASELINE,
    Condition,
    HarnessError,
    Measurement,
    Metric,
    Outcomes,
    Prepared,
    Prompt,
    Source,
    Step,
    Task,
    Template,
    counted,
)

if TYPE_CHECKING:
    from harness.data import Fact
    from harness.plugin import Engine, Model, Progress


class TargetProbability(Task):
    """Facts that the model completes: how probable is its own answer's first token once neurons or heads are edited?

    Yu & Ananiadou 2024 validate attributions so: ablating the found neurons (``zero``) must cost the predicted token
    more of its probability than ablating as many random ones. The target is the token that the untouched model predicts
    at the end of the prompt; with ``known`` only facts are asked of which it is the object's first token.
    """

    name = "target_probability"
    version = "4"
    shares_passes = True
    keeps_prompts = True
    default_metrics: ClassVar[tuple[str, ...]] = ("target_probability", "temperature", "calibration", "carry")

    data: FactSource | None = Field(
        None, description="facts, as of the task knowledge_conflict; default: the bundled ones"
    )
    relations: Source | None = Field(None, description="relations, as of the task knowledge_conflict")
    columns: dict[str, str] = Field(default_factory=dict, description="column mapping, as of knowledge_conflict")
    template: Template = Field(
        "Complete the statement with {description}.\n{example}.\n{query}",
        description="prompt; may name query, description and example (a completed statement of the relation)",
    )
    known: bool = Field(True, description="only facts whose object the model begins to say")
    holdout: float = Field(
        0.5, ge=0, lt=1, description="share of the facts that selectors look at and nothing is evaluated on; 0: none"
    )

    @field_validator("template")
    @classmethod
    def _known_places(cls, template: str) -> str:
        return check(template, ("query", "description", "example"))

    def data_digest(self) -> str:
        return self._table().data_digest()

    def n_items(self) -> int:
        return len(self._table().facts())

    def gives(self) -> frozenset[str]:
        tempered = ("tempered_log_p", "log_temperature", "no_temperature")
        return frozenset({"log_p", "entropy", "kept", *tempered, "tokens", "confidence", "right"})

    def acts_at(self) -> frozenset[str]:
        return frozenset({"prompt", "subject"})  # no generated token is read

    def named_spans(self, prompts: Sequence[Prompt], model: Model) -> list[dict[str, tuple[int, int]]]:
        """``subject``: where the prompt names it last.

        Raises:
            HarnessError: it does not name it.
        """
        from harness.model import token_spans

        found = []
        for prompt in prompts:
            who, subject = f"task {self.name}: prompt {prompt.id}", prompt.fields["subject"]
            start = prompt.text.rfind(subject)
            if start < 0:
                raise HarnessError(f"{who} does not name its subject ({subject}); choose other positions.")
            found.append(token_spans(model, prompt.text, {"subject": (start, start + len(subject))}, who))
        return found

    def _table(self) -> FactTable:
        return FactTable(data=self.data, relations=self.relations, columns=self.columns)

    def prepare(self, engine: Engine, limit: int | None, seed: int) -> Prepared:
        """Write the prompts, and ask the untouched model for the target of each.

        Raises:
            HarnessError: the facts or the template cannot be read, or the model knows none of the facts.
        """
        facts, model = self._table().facts(), engine.model
        steps = [Step("facts", len(facts), 0, "facts in the table")]
        if limit is not None and limit < len(facts):
            facts = taken(facts, limit)
            why = "spread over the table; a higher limit adds others to them"
            steps.append(Step("limit", limit, steps[-1].kept - limit, why))
        texts = [self._text(fact) for fact in facts]
        tokens = model.encode(texts)
        targets = engine.generate(tokens, [BASELINE], 1).tokens[0, :, 0].tolist()
        begins = [_begins(model, *row) for row in zip(facts, texts, strict=True)]
        prompts = [
            _prompt(model, *row)
            for row in zip(facts, texts, tokens, targets, begins, strict=True)
            if not self.known or row[3] == row[4]
        ]
        if self.known:
            why = "the model does not begin to say the fact's object"
            steps.append(Step("known", len(prompts), len(facts) - len(prompts), why))
        if not prompts:
            raise HarnessError(
                f"task target_probability: {model.name} knows none of the {counted(len(facts), 'fact')}; take "
                "other facts, or "
                "known=false to attribute whatever it predicts."
            )
        held_out, prompts = self._split(prompts)
        if held_out:
            why = "the others are held out for the selector, every so many facts of the table"
            steps.append(Step("holdout", len(prompts), len(held_out), why))
        return Prepared(tuple(prompts), tuple(steps), {"prompt": prompts[0].text}, tuple(held_out))

    def _split(self, prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
        """Prompts that are held out, spread evenly, and the others, of which there is at least one.

        Copies of a prompt (two relations may ask alike) are on one side.
        """
        distinct = list(dict.fromkeys(prompt.tokens for prompt in prompts))
        n = min(round(self.holdout * len(distinct)), len(distinct) - 1)
        held = {distinct[int(i * len(distinct) / n)] for i in range(n)}
        held_out = [prompt for prompt in prompts if prompt.tokens in held]
        return held_out, [prompt for prompt in prompts if prompt.tokens not in held]

    def _text(self, fact: Fact) -> str:
        from harness.data import render

        values = {"description": fact.description, "example": fact.relation.example, "query": fact.query}
        return render(self.template, values, "task target_probability: template")

    def observe(
        self,
        engine: Engine,
        prompts: Sequence[Prompt],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
    ) -> Outcomes:
        """Values: ``log_p`` of the target and ``entropy``, both of the next token, in nats; ``kept``: whether the
        target is still the prediction; what :class:`harness.builtin.temperature.Temperature` puts beside them;
        ``confidence`` in the prediction, whether it begins the fact's object (``right``), and ``tokens``: whether there
        is such an object."""
        targets = [prompt.fields["target"] for prompt in prompts]
        made = engine.generate(
            [prompt.tokens for prompt in prompts],
            conditions,
            1,
            choices=[[target] for target in targets],
            progress=progress,
            tempered=True,
            watched=True,
            spans=[prompt.spans for prompt in prompts],
        )
        before, equal = made.equal_entropy(conditions)
        begins = np.array([-1 if x is None else x for x in (prompt.fields["begins"] for prompt in prompts)])
        confidence, at_equal = (
            np.where(begins >= 0, np.exp(np.minimum(x, 0.0)), 0.0).astype(np.float32)
            for x in (made.top, equal.log_p(made.top[before]))
        )
        return Outcomes(
            conditions=tuple(conditions),
            prompts=tuple(prompts),
            values={
                **made.of_targets(targets),
                "tempered_log_p": equal.log_p(made.choices[before, :, 0]),
                "log_temperature": equal.log_temperature.astype(np.float32),
                "no_temperature": equal.outside,
                "tokens": np.broadcast_to(begins >= 0, confidence.shape),
                "confidence": confidence,
                "right": made.tokens[..., 0] == begins,
                "tempered_confidence": at_equal,
                **({} if made.watched is None else {"activations": made.watched.by_condition(conditions)}),
            },
            details={
                "tempered": [{"outcome": "log_p", "title": "the target's log-probability", "unit": "nats"}],
                "calibrated": {"word": "prediction", "note": f"{NOTE}{KNOWN if self.known else ''}"},
            },
            answers=made.first_texts(conditions, engine.model.token_texts),
        )


NOTE = "confidence is the probability of the next token, which is right where it begins the fact's object"

KNOWN = "; only facts of which the untouched model is right are asked (known=true), so that it errs by its doubt alone"


def _begins(model: Model, fact: Fact, text: str) -> int | None:
    """The token with which a fact's object begins after the prompt; None where the table has none."""
    from harness.model import first_token

    return first_token(model, text, fact.object) if fact.object else None


def _prompt(model: Model, fact: Fact, text: str, tokens: Sequence[int], target: int, begins: int | None) -> Prompt:
    return Prompt(
        id=f"{fact.relation.name}/{fact.query}",
        text=text,
        tokens=tuple(tokens),
        cluster=f"{fact.relation.name}/{fact.query}",
        fields={
            "relation": fact.relation.name,
            "subject": fact.subject,
            "object": fact.object,
            "begins": begins,
            "target": target,
            "target_text": model.token_texts[target],
        },
    )


class TargetProbabilityMetric(Metric):
    """What an intervention costs the untouched model's prediction: its log-probability, its probability, its place."""

    name = "target_probability"
    needs = frozenset({"log_p", "kept", "entropy"})

    def measure(self, outcomes: Outcomes) -> Measurement:
        from harness.plugin import Measure

        shape, each, untouched = outcomes["log_p"].shape, outcomes.each, outcomes.baseline
        before, everywhere = np.exp(untouched["log_p"]), np.broadcast_to(True, shape)
        return Measurement(
            measures=(
                Measure(
                    "log_prob_change",
                    "change of the target's log-probability",
                    "nats",
                    each(lambda seen: seen["log_p"] - untouched["log_p"]),
                    everywhere,
                    primary=True,
                    description="mean change of the log-probability of the token that the untouched model predicts",
                ),
                Measure(
                    "probability_lost",
                    "share of the target's probability that is lost",
                    "%",
                    each(lambda seen: before - np.exp(seen["log_p"])),
                    np.broadcast_to(before, shape),
                    scale=100.0,
                    primary=True,
                    description="summed over prompts: what the target's probability fell by, of what it was",
                ),
                Measure(
                    "prediction_lost",
                    "predictions that changed",
                    "%",
                    each(lambda seen: ~seen["kept"] & untouched["kept"]),
                    np.broadcast_to(untouched["kept"], shape),
                    scale=100.0,
                    description="prompts whose most likely next token is another than before",
                ),
                Measure(
                    "entropy_change",
                    "change of entropy",
                    "nats",
                    each(lambda seen: seen["entropy"] - untouched["entropy"]),
                    everywhere,
                    primary=True,
                    description="mean change of the entropy of the next token",
                ),
            )
        )
