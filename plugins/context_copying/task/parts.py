"""Which characters of a prompt are its subject, its object and its context: interventions may act at their tokens."""

from __future__ import annotations

import re

from harness.plugin import HarnessError, Prompt


def parts_of(prompt: Prompt) -> dict[str, tuple[int, int]]:
    """Characters (start, stop) of the prompt's text, by what they are called.

    ``subject``: in the question, which comes last. ``object``: in the statement before it. ``context``: the statement,
    from where it asks as the question does, or where its sentence begins, to its object and the full stop after it.

    Raises:
        HarnessError: the question does not name the subject, or nothing before it the object.
    """
    text, subject, stated = prompt.text, prompt.fields["subject"], prompt.fields["counter_object"]
    query = prompt.cluster.removeprefix(f"{prompt.fields['relation']}/")
    question = text.rfind(query)
    here, there = text.find(subject, max(question, 0)), text.rfind(stated, 0, max(question, 0))
    if min(question, here, there) < 0:
        raise HarnessError(
            f"task knowledge_conflict: prompt {prompt.id} does not name its subject in the question and its object "
            "before it; choose other positions than subject, object and context."
        )
    stop = there + len(stated)
    begins = text.rfind(query, 0, there)
    if begins < 0:
        begins = there - len(re.split(r"\. |\n", text[:there])[-1])
    return {
        "subject": (here, here + len(subject)),
        "object": (there, stop),
        "context": (begins, stop + (text[stop : stop + 1] == ".")),
    }
