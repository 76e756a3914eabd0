"""Types of parameters: files, texts with places, other components."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema

from harness.errors import HarnessError, PluginError
from harness.files.published_counts import counts_file
from harness.plugin.base import Component, InputFile
from harness.plugin.components import Corpus, Intervention, ModelLoader, Selector
from harness.plugin.specs import parse_spec


def _source(value: str) -> str:
    if not value.strip() or "\0" in value:
        raise ValueError("expected the name of a file or folder, or an id on the hub")
    return value


Source = Annotated[str, AfterValidator(_source)]
"""Type of a parameter that is a file, a folder, or the id of something on the hub."""

CountsPath = Annotated[Source | None, InputFile(counts_file)]
"""Type of a parameter that is a file of token counts, or the name of a published one (openwebtext-gpt2)."""


def _unread_mapping(value: Any) -> Any:
    """``{query}``, which YAML takes for a mapping, as the text that it stands for."""
    if isinstance(value, Mapping) and len(value) == 1 and next(iter(value.values())) in (None, ""):
        return f"{{{next(iter(value))}}}"
    return value


Template = Annotated[str, BeforeValidator(_unread_mapping)]
"""Type of a parameter that is a text with ``{places}``; ``template: {query}`` in YAML is ``"{query}"``."""


INNER = "a component within another"


def _nested(base: type[Component]) -> BeforeValidator:
    """Accept another component as a user writes it: its name, ``name:key=value``, or a mapping with its name."""

    def found(value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Component):
            return value
        from harness.plugin.catalogue import catalogue

        corpus = (info.context or {}).get("corpus")
        try:
            return catalogue().build(base, parse_spec(value, INNER), INNER, corpus)
        except PluginError:
            raise
        except HarnessError as error:  # whoever is built says which of its parameters it is
            raise ValueError(str(error).removeprefix(f"{INNER}: ")) from error

    return BeforeValidator(found)


def _models_own(value: Any, info: ValidationInfo) -> Any:
    """In place of no corpus that of the model, which the context of the validation names."""
    own = (info.context or {}).get("corpus")
    if value is None and own is None:
        raise ValueError(
            f"name the texts to read, for example {info.field_name}=text:path=FILE (only the bundled models have "
            "texts of their own)"
        )
    return own if value is None else value


AnyCorpus = Annotated[Corpus, _nested(Corpus), WithJsonSchema({"type": "corpus"})]
"""Type of a parameter that is a corpus: ``corpus: AnyCorpus | None = Field(None, description=...)``."""

ModelCorpus = Annotated[AnyCorpus, BeforeValidator(_models_own), Field(default=None)]
"""Type of a corpus that must be named unless the model has texts of its own
(:attr:`harness.plugin.ModelLoader.corpus`): ``corpus: ModelCorpus = Field(description=...)``. No model reads another
one's texts unasked."""

AnySelector = Annotated[Selector, _nested(Selector), WithJsonSchema({"type": "selector"})]
"""Type of a parameter that is a selector."""

AnyModel = Annotated[ModelLoader, _nested(ModelLoader), WithJsonSchema({"type": "model"})]
"""Type of a parameter that is a model."""

AnyIntervention = Annotated[Intervention, _nested(Intervention), WithJsonSchema({"type": "intervention"})]
"""Type of a parameter that is an intervention."""
