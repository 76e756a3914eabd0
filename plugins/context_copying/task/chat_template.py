"""What is said to a model that is tuned to instructions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.plugin import HarnessError

if TYPE_CHECKING:
    from harness.plugin import Model


def chat(model: Model, message: str) -> str:
    """The text of a conversation in which the user has written ``message`` and the model is to answer.

    Raises:
        HarnessError: the tokeniser has no chat template, or it does not take a message of the user alone.
    """
    if getattr(model.tokenizer, "chat_template", None) is None:
        raise HarnessError(
            f"task knowledge_conflict: chat=true needs a chat template, and the tokeniser of {model.name} has none; "
            "leave chat out, or choose an instruction-tuned model."
        )
    try:
        text = model.tokenizer.apply_chat_template(
            [{"role": "user", "content": message}], add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # templates are programs: jinja2 raises what it likes
        raise HarnessError(
            f"task knowledge_conflict: the chat template of {model.name} does not take a message of the user ({error})."
        ) from error
    return str(text)
