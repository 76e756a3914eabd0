"""How a model is asked: its chat template, and what counts as a refusal of what it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.files.templates import fill
from harness.plugin import HarnessError

if TYPE_CHECKING:
    from harness.plugin import Model

    from .labelled_texts import LabelledText

PLAIN = "{text}"
"""A request as it is."""

DIALOGUE = "User: {text}\nAssistant:"
"""How Du et al. ask models without a chat template."""

_PLACE = "REQUEST-HERE"


def phrases() -> tuple[str, ...]:
    """The beginnings of answers that Du et al. count as refusals."""
    import yaml

    found = yaml.safe_load((Path(__file__).parents[1] / "refusal_phrases.yaml").read_text("utf-8"))
    return tuple(map(str, found))


def request_template(model: Model) -> str:
    """The model's chat template with ``{text}`` in place of a user's message, or :data:`DIALOGUE`.

    Raises:
        HarnessError: the template does not take a message of the user alone, or does not hold it as it is.
    """
    if getattr(model.tokenizer, "chat_template", None) is None:
        return DIALOGUE
    try:
        chat = [{"role": "user", "content": _PLACE}]
        text = str(model.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program of the model's author
        raise HarnessError(f"--chat: the template of {model.name} does not take a user's message ({error}).") from error
    if text.count(_PLACE) != 1:
        raise HarnessError(f"--chat: the template of {model.name} does not hold a user's message as it is, once.")
    return text.replace("{", "{{").replace("}", "}}").replace(_PLACE, PLAIN)


def asked(texts: Sequence[LabelledText], template: str) -> Sequence[LabelledText]:
    """The texts in a template."""
    if template == PLAIN:
        return texts
    return [x.model_copy(update={"text": fill(template, {"text": x.text}, "--chat")}) for x in texts]
