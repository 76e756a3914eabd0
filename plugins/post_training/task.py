"""The task that directions are judged by: what does the model say to labelled texts, and which does it refuse?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from harness.data import taken
from harness.files.templates import check, fill
from harness.plugin import (
    Condition,
    HarnessError,
    Measurement,
    Metric,
    Outcomes,
    Prepared,
    Prompt,
    Step,
    Task,
    Template,
)

from .analysis.labelled_texts import COLUMNS, LabelledPath, load_labelled

if TYPE_CHECKING:
    from harness.plugin import Engine, Model, Progress

    from .analysis.labelled_texts import LabelledText

P_LEAST, P_MOST = 1e-300, 1 - 2**-24
"""Probabilities are held between these, so that log-odds stay finite; float32 does not tell the latter from 1."""


class LabelledResponse(Task):
    """What the model answers to labelled texts: the label in words, or a refusal.

    ``answers`` are the words for true and for false that may follow the prompt: the log-odds of their first tokens say
    what the model takes the text to be. ``refusal`` is how refusals begin: the greedy answer is one if it begins so
    (case does not matter), and, as in Arditi et al. (2024), the log-odds of a refusal's first token are measured, too.
    Texts that should be refused are those labelled true.
    """

    name = "labelled_response"
    shares_passes = True
    default_metrics: ClassVar[tuple[str, ...]] = ("labelled_response", "temperature")

    data: LabelledPath = Field(description=COLUMNS)
    split: Literal["test", "train", "all"] = Field("test", description="which of the texts")
    template: Template = Field("{text}", pattern=r"\{text\}", description="prompt; names the text as {text}")
    answers: tuple[str, str] | None = Field(None, description="words for true and for false: [true,false]")
    refusal: tuple[str, ...] | None = Field(None, min_length=1, description="how refusals begin: [I cannot,Sorry]")
    max_new_tokens: int = Field(12, ge=1, description="length of the answers that are looked at for refusals")

    @field_validator("template")
    @classmethod
    def _known_places(cls, template: str) -> str:
        return check(template, ("text",))

    @field_validator("refusal")
    @classmethod
    def _one_of_the_two(cls, refusal: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        if "answers" in info.data and (refusal is None) == (info.data["answers"] is None):
            raise ValueError("give either answers=[WORD FOR TRUE,WORD FOR FALSE] or refusal=[HOW REFUSALS BEGIN]")
        return refusal

    def gives(self) -> frozenset[str]:
        said = "said_true" if self.refusal is None else "refused"
        tempered = ("tempered_log_odds", "log_temperature", "no_temperature")
        return frozenset({"log_odds", said, *tempered, "field label", "field group"})

    def acts_at(self) -> frozenset[str]:
        return frozenset({"prompt"} if self.refusal is None else {"prompt", "generated"})

    def data_digest(self) -> str:
        return self.inputs()["data"]

    def texts(self) -> list[LabelledText]:
        """The texts of all splits.

        Raises:
            HarnessError: they cannot be read.
        """
        return load_labelled(self.data)

    def prepare(self, engine: Engine, limit: int | None, seed: int) -> Prepared:
        """Write the prompts, and find the tokens with which the answers begin.

        Raises:
            HarnessError: the texts cannot be read, or both answers begin with one token.
        """
        texts = [row for row in self.texts() if self.split in ("all", row.split)]
        steps = [Step("texts", len(texts), 0, f"labelled texts ({self.split})")]
        if limit is not None and limit < len(texts):
            texts = taken(texts, limit)
            why = "spread over the file; a higher limit adds others to them"
            steps.append(Step("limit", limit, steps[0].kept - limit, why))
        written = [fill(self.template, {"text": row.text}, f"task {self.name}: template") for row in texts]
        prompts = tuple(
            Prompt(
                id=row.text,
                text=text,
                tokens=tuple(tokens),
                cluster=row.group,
                fields={
                    "label": row.label,
                    "group": row.group,
                    "begins": [_first(engine.model, text, word) for word in self.answers or self.refusal or ()],
                },
            )
            for row, text, tokens in zip(texts, written, engine.model.encode(written), strict=True)
        )
        same = next((prompt.text for prompt in prompts if len(set(prompt.fields["begins"])) < 2), None)
        if self.answers and same is not None:
            raise HarnessError(
                f'task {self.name}: after "{same}" the answers {" and ".join(self.answers)} begin with the same token; '
                "take words that begin differently."
            )
        return Prepared(prompts, tuple(steps), {"prompt": prompts[0].text})

    def observe(
        self,
        engine: Engine,
        prompts: Sequence[Prompt],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
    ) -> Outcomes:
        """Values: ``log_odds`` of the answer true against false, or of a refusal's first token against all others
        (nats), ``said_true``, or ``refused``, and what :class:`harness.builtin.temperature.Temperature` puts beside."""
        from harness.model import decode

        model = engine.model
        begins = np.array([prompt.fields["begins"] for prompt in prompts])
        made = engine.generate(
            [prompt.tokens for prompt in prompts],
            conditions,
            1 if self.refusal is None else self.max_new_tokens,
            frozenset(model.end_tokens),
            choices=begins.tolist(),
            progress=progress,
            tempered=True,
        )
        before, equal = made.equal_entropy(conditions)
        tempered = np.moveaxis(equal.log_p(made.choices[before].T), 0, -1)
        told = sum(condition.shown for condition in conditions)
        answers = [decode(model, row) for row in made.tokens]
        if self.refusal is None:
            log_odds, at_equal = (x[..., 0] - x[..., 1] for x in (made.choices, tempered))
            values = {"said_true": log_odds > 0}
        else:
            log_odds, at_equal = (_log_odds(np.exp(x), begins) for x in (made.choices, tempered))
            words = tuple(word.strip().lower() for word in self.refusal)
            values = {"refused": np.array([[x.strip().lower().startswith(words) for x in row] for row in answers])}
        return Outcomes(
            conditions=tuple(conditions),
            prompts=tuple(prompts),
            values={
                "log_odds": log_odds,
                **values,
                "tempered_log_odds": at_equal,
                "log_temperature": equal.log_temperature,
                "no_temperature": equal.outside,
            },
            details=self._tempered(),
            answers=tuple(map(tuple, answers[:told])),
        )

    def _tempered(self) -> dict[str, Any]:
        """What the metric ``temperature`` is told: the log-odds of the texts of either label."""
        what = "called true" if self.refusal is None else "refused"
        quantities = [
            {
                "outcome": "log_odds",
                "title": f"the log-odds of being {what}, labelled {str(value).lower()}",
                "among": {"label": [value]},
                "called": str(value).lower(),
            }
            for value in (True, False)
        ]
        said = (
            "which of the two answers is more likely is the same at every temperature: any change of it is beyond it"
            if self.refusal is None
            else "greedy answers are the same at every temperature: any change of what is refused is beyond it"
        )
        return {"tempered": quantities, "unchanged": [said]}


def _first(model: Model, text: str, word: str) -> int:
    """The token with which ``word`` begins when it answers ``text``."""
    from harness.model import first_token

    return first_token(model, text, word, "" if text[-1:].isspace() else " ")


def _log_odds(p: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Log-odds [n_conditions, n_prompts] of any of the tokens [n_prompts, k], of which some may be the same."""
    new = [[token not in row[:i] for i, token in enumerate(row)] for row in tokens.tolist()]
    total = np.clip((p * np.array(new)).sum(-1), P_LEAST, P_MOST)
    found: np.ndarray = np.log(total) - np.log1p(-total)
    return found


class LabelledResponseMetric(Metric):
    """How many texts of each label are called true, or refused, and how the log-odds of that change."""

    name = "labelled_response"
    needs = frozenset({"log_odds", "field label"})

    def measure(self, outcomes: Outcomes) -> Measurement:
        from harness.plugin import Measure

        refusing = "refused" in outcomes.values
        said = "refused" if refusing else "said_true"
        shape, before = outcomes[said].shape, outcomes.baseline["log_odds"]
        label = np.array([prompt.fields["label"] for prompt in outcomes.prompts])
        what = "refused" if refusing else "called true"
        measures = []
        for value in (True, False):
            word, among = str(value).lower(), np.broadcast_to(label == value, shape)
            measures += [
                Measure(
                    f"rate_{word}",
                    f"texts labelled {word} that are {what}",
                    "%",
                    outcomes.each(lambda seen, among=label == value: seen[said] & among),  # type: ignore[misc]
                    among,
                    scale=100.0,
                    description=f"share of the texts labelled {word}",
                ),
                Measure(
                    f"log_odds_{word}",
                    f"change of the log-odds of being {what}, labelled {word}",
                    "nats",
                    outcomes.each(
                        lambda seen, among=label == value: np.where(among, seen["log_odds"] - before, 0.0)  # type: ignore[misc]
                    ),
                    among,
                    primary=True,
                    description="of the answer true against false"
                    if not refusing
                    else "of a refusal's first token against all other tokens",
                ),
            ]
        right = Measure(
            "accuracy",
            f"texts {what} exactly when labelled true",
            "%",
            outcomes.each(lambda seen: seen[said] == label),
            np.broadcast_to(True, shape),
            scale=100.0,
            description="share of all texts",
        )
        return Measurement(measures=(*measures, right))
