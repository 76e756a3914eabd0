"""`harness compare --base M1 --tuned M2`: what post-training changed (Du et al., COLM 2025).

Two models go in; out come sections (neurons, behaviour, directions, steering, patching), each with its numbers,
sentences, tables and figures, and a folder that is the same bytes whenever the same comparison is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.data import FactTable
from harness.files.paths import expand
from harness.plugin import AnyLayers, Corpus, HarnessError, Selector, Source, Task, border, layers_in
from harness.plugin.catalogue import catalogue
from harness.plugin.components import ComponentSpec, ComponentT
from harness.progress import Stage

from ..analysis.statement_pairs import Asked, load_examples, load_statements
from ..analysis.truth_data import load_truth
from .record import Identity, ModelsRecord
from .section import Section

if TYPE_CHECKING:
    from harness.plugin import Figure, Frame, Model, ModelLoader, SelectionContext

SCHEMA = "post_training/1"

BEGINS = ("I cannot", "I can't", "I can’t", "I'm sorry", "I’m sorry", "I am sorry", "Sorry", "As an AI", "I'm unable")
"""How refusals begin, unless that is said."""

ASKED: tuple[Asked, ...] = ("examples", "none")
"""What is asked after statements, unless that is said: with and without the question."""

Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]

FILES = {"truthfulness", "refusal", "unigram", "statements", "examples"}
"""Settings that name files."""

LATER = {"asked": "statements"}
"""Settings that only matter with another one: the identity of a comparison without that one does not name them."""

LATER_OPTIONS = ("act_layers", "chat", "ablate", "factors", "norm_shares", "counts")
"""Settings that the identity names where they are not as they are by default."""


class Settings(BaseModel):
    """What is compared, besides the models; part of the comparison's identity."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    top: int = Field(10, ge=1, lt=2**31, description="neurons that each rule chooses")
    null_dims: int | None = Field(
        None, ge=1, lt=2**31, description="null dimensions; default: from the base model's spectrum"
    )
    limit: int | None = Field(None, ge=1, lt=2**63, description="facts that behaviour is measured on; default: all")
    norm_shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (), description="shares of neurons with the largest norms at which the paper's rule is looked at"
    )
    counts: tuple[Annotated[int, Field(ge=1, lt=2**31)], ...] = Field(
        (), description="numbers of neurons at which the paper's rule is looked at"
    )
    unigram: Source | None = Field(None, description="file of token counts")
    truthfulness: tuple[Source, ...] = Field((), description="labelled statements; several files are data sets")
    act_layers: AnyLayers | None = Field(None, description="layers after which truthfulness directions are added")
    refusal: Source | None = Field(None, description="labelled prompts, true for those that should be refused")
    begins: tuple[str, ...] = Field(BEGINS, min_length=1, description="how refusals begin")
    chat: bool = Field(False, description="requests go through each model's chat template")
    ablate: Literal["own", "all"] = Field("own", description="refusal directions are ablated after their layer or all")
    factors: tuple[Factor, ...] = Field((), description="factors of added directions, searched on training texts")
    pairs: int = Field(100, ge=0, lt=2**31, description="pairs of facts for activation patching; 0: none")
    statements: tuple[Source, ...] = Field((), description="statements with labels, or pairs of them, for patching")
    examples: Source | None = Field(None, description="examples of a verdict, by data set; default: drawn from it")
    asked: tuple[Asked, ...] = Field(
        ASKED, min_length=1, description="what is asked after statements: examples, question, none"
    )
    seed: int = Field(0, ge=0, lt=2**63)
    resamples: int = Field(2000, ge=100, le=1_000_000, description="bootstrap resamples")

    @property
    def grid(self) -> tuple[tuple[float, ...], tuple[int, ...]] | None:
        """Shares of norm and numbers of neurons, where one of the two is named."""
        from .confidence_grid import COUNTS, SHARES

        return (self.norm_shares or SHARES, self.counts or COUNTS) if self.norm_shares or self.counts else None

    @property
    def recorded(self) -> dict[str, Any]:
        """What the identity has of them: files by their digests, and later options where they are used."""
        unused = {name for name, of in LATER.items() if not getattr(self, of)}
        fields = type(self).model_fields
        unused |= {name for name in LATER_OPTIONS if getattr(self, name) == fields[name].default}
        return self.model_dump(exclude=FILES | unused)

    def completed(self, loader: ModelLoader) -> Settings:
        """The same, with the labelled texts that the model has of its own where none are named."""
        own = loader.labelled
        named = {
            "truthfulness": self.truthfulness or tuple(own[x] for x in ("truthfulness",) if x in own),
            "refusal": self.refusal or own.get("refusal"),
        }
        begins = loader.refusals if loader.refusals and self.begins == BEGINS else self.begins
        return self.model_copy(update={**named, "begins": begins})


@dataclass(frozen=True)
class Compared:
    """A finished comparison: its record, and its folder."""

    record: ModelsRecord
    folder: Path


def compare_models(
    loaders: Sequence[ModelLoader],
    names: Sequence[str],
    settings: Settings,
    corpus: Corpus | None,
    output: Path,
    batch_size: int,
    stage: Stage,
) -> Compared:
    """Compare a base model with a tuned one, and write the folder ``<base>-vs-<tuned>-<hash>``.

    Args:
        loaders, names: of base and tuned; the names are fit for a folder's name.
        corpus: texts for loss, entropy and token-frequency neurons; default: that of the models' own,
            where it is the same.

    Raises:
        HarnessError: the models differ in shape, or an input is wrong; nothing is written then.
    """
    from harness.engine import ClosedFormEngine
    from harness.files.store import clean, digest
    from harness.plugin import SelectionContext

    own = {loader.corpus for loader in loaders}
    if len(own) == 1 and (name := own.pop()) is not None:  # both were trained on texts of the same kind
        settings = settings.completed(loaders[0])
        corpus = corpus or _component(Corpus, name)
    inputs = input_digests(settings, corpus)
    with stage("loading the models"):
        models = [border.load(loader) for loader in loaders]
    check_comparable(models)
    check_fits(settings, models[0])
    contexts = [
        SelectionContext(model, ClosedFormEngine(model, batch_size), [], settings.seed, stage=stage) for model in models
    ]
    identity = {
        "schema": SCHEMA,
        "base": models[0].provenance(),
        "tuned": models[1].provenance(),
        "settings": settings.recorded,
        "corpus": None if corpus is None else corpus.identity(),
        "inputs": inputs,
    }
    sections = list(_sections(contexts, settings, corpus, stage))
    folder = output / f"{names[0]}-vs-{names[1]}-{digest(identity)[:8]}"
    record = ModelsRecord(
        identity=Identity(**clean(identity)), name=folder.name, parts=[x.recorded() for x in sections]
    )
    with stage("writing tables and figures"):
        write(folder, record, sections)
    return Compared(record, folder)


def check_comparable(models: Sequence[Model]) -> None:
    """A tuned model may have more tokens than its base: post-training puts those of its chat format behind the others.

    Raises:
        HarnessError: the models differ in layers, width or neurons (neuron i is not neuron i), or the tuned one has
            fewer tokens.
    """
    base, tuned = (model.anatomy for model in models)
    for field, what in (
        ("n_layers", "layers"), ("d_model", "dimensions of the residual stream"), ("d_mlp", "neurons in a layer"),
        ("d_vocab", "tokens in the vocabulary"),
    ):  # fmt: skip
        first, second = getattr(base, field), getattr(tuned, field)
        if first != second and not (field == "d_vocab" and second > first):
            raise HarnessError(
                f"compare: {models[0].name} has {first} {what} and {models[1].name} {second}: expected a base model "
                "and one that was trained from it, of the same shape."
            )


def check_fits(settings: Settings, model: Model) -> None:
    """Raises: HarnessError: more neurons or null dimensions are asked for than the model has."""
    anatomy = model.anatomy
    if settings.null_dims is not None and settings.null_dims >= anatomy.d_model:
        raise HarnessError(f"--null_dims: expected fewer than d_model = {anatomy.d_model}, got {settings.null_dims}.")
    if settings.act_layers is not None:
        layers_in(settings.act_layers, anatomy.n_layers, "--act_layers")
    if settings.top > anatomy.d_mlp:
        raise HarnessError(f"--top: a layer of {model.name} has {anatomy.d_mlp} neurons, fewer than {settings.top}.")


def input_digests(settings: Settings, corpus: Corpus | None) -> dict[str, str]:
    """sha256 of every file that is read; a file that is wrong is refused before a model is loaded."""
    from harness.files.digests import files_digest

    from ..analysis.labelled_texts import load_labelled

    found = {} if corpus is None else {"corpus": border.data_digest(corpus)}
    one = {
        "truthfulness": settings.truthfulness[0] if len(settings.truthfulness) == 1 else None,
        "refusal": settings.refusal,
        "unigram": settings.unigram,
    }
    for kind, path in one.items():
        if path is not None:
            if kind != "unigram":
                load_labelled(path)
            found[kind] = files_digest([expand(path)])
    if len(settings.truthfulness) > 1:
        load_truth(settings.truthfulness)
        found |= {f"truthfulness {Path(path).stem}": files_digest([expand(path)]) for path in settings.truthfulness}
    for path in settings.statements:
        name = f"statements {load_statements(path).name}"
        if name in found:
            raise HarnessError(
                f"--statements: two files are called {Path(path).name}; a data set is known by its name."
            )
        found[name] = files_digest([expand(path)])
    if settings.examples is not None:
        load_examples(settings.examples)
        found["examples"] = files_digest([expand(settings.examples)])
    return found


def _sections(
    contexts: Sequence[SelectionContext], settings: Settings, corpus: Corpus | None, stage: Stage
) -> Iterator[Section]:
    """What can be compared; a section that cannot be says why, in place of its findings."""
    from .behaviour import behaviour_section
    from .directions import patching_section
    from .neurons import weights_section
    from .steering import Asking, steering_section

    s, task = settings, _component(Task, "knowledge_conflict")
    rules = rules_of(settings, corpus)
    with stage("comparing the last layers"):
        yield weights_section([context.model for context in contexts], contexts, rules, s.null_dims, s.seed, s.grid)
    engines = [context.engine for context in contexts]
    made: list[tuple[str, str, Callable[[], Section]]] = [
        (
            "behaviour",
            "Behaviour",
            lambda: behaviour_section(engines, task, corpus, s.limit, s.seed, s.resamples, stage=stage),
        )
    ]
    if len(s.truthfulness) > 1:
        made.append(("probes", "Probes of truthfulness", _probes(s, contexts)))
        if s.act_layers is not None:
            made.append(("truth_interventions", "Directions of truthfulness added", _truth_interventions(s, contexts)))
    labelled = {"truthfulness": s.truthfulness[0] if len(s.truthfulness) == 1 else None, "refusal": s.refusal}
    for kind, path in labelled.items():
        if path:
            chat = s.chat and kind == "refusal"
            made.append((kind, f"The direction of {kind}", _direction(kind, Path(path), contexts, s.seed, chat)))
    if s.refusal:
        refusal = Path(s.refusal)
        asking = Asking(s.begins, s.chat, s.ablate == "all", s.factors)
        made.append(("steering", "Steering", lambda: steering_section(refusal, asking, contexts, s.seed)))
    if s.pairs:
        made.append(
            (
                "patching",
                "Activation patching",
                lambda: patching_section(contexts, FactTable().facts(), s.pairs, s.seed),
            )
        )
    made += statement_sections(contexts, s)
    for name, title, make in made:
        with stage(title[:1].lower() + title[1:]):
            try:
                section = make()
            except HarnessError as error:
                section = Section(name, title, (f"Not compared: {error}",), {"why": str(error)})
        yield section


def statement_sections(
    contexts: Sequence[SelectionContext], s: Settings
) -> Iterator[tuple[str, str, Callable[[], Section]]]:
    """Patched statement pairs: one section for every data set and way to ask."""
    from .statements import statements_section

    shots = {} if s.examples is None else load_examples(s.examples)
    for path in s.statements if s.pairs else ():
        data = load_statements(path)
        examples = shots.get(data.name, shots.get(data.name.removesuffix("_paired")))
        for asked in dict.fromkeys(s.asked):
            make = partial(statements_section, data, asked, examples, contexts, s.pairs, s.seed, s.resamples)
            yield f"statements_{data.name}_{asked}", f"Patching statements of {data.name}", make


def _direction(
    kind: str, path: Path, contexts: Sequence[SelectionContext], seed: int, chat: bool
) -> Callable[[], Section]:
    from .directions import direction_section

    return lambda: direction_section(kind, path, contexts, seed, chat)


def _probes(s: Settings, contexts: Sequence[SelectionContext]) -> Callable[[], Section]:
    from .probing import probing_section

    return lambda: probing_section(load_truth(s.truthfulness), contexts, s.seed, s.resamples)


def _truth_interventions(s: Settings, contexts: Sequence[SelectionContext]) -> Callable[[], Section]:
    from .truth_interventions import interventions_section

    layers = layers_in(s.act_layers or 0, contexts[0].model.anatomy.n_layers, "--act_layers")
    shots = {} if s.examples is None else load_examples(s.examples)
    return lambda: interventions_section(load_truth(s.truthfulness), shots, layers, contexts, s.pairs or 100, s.seed)


def rules_of(settings: Settings, corpus: Corpus | None) -> Callable[[int], Mapping[str, Selector]]:
    """The rules that choose neurons, by name, for a number of null dimensions."""

    def selector(name: str, **params: object) -> Selector:
        return _component(Selector, name, **params)

    def rules(null_dims: int) -> Mapping[str, Selector]:
        top = settings.top
        found = {
            "entropy neurons (Du et al.: largest norms, lowest LogitVar)": selector(
                "entropy", top=top, rule="du2025", null_dims=null_dims
            ),
            "entropy neurons (rho >= 0.4, lowest LogitVar)": selector(
                "entropy", rule="tighidet2025", null_dims=null_dims
            ),
        }
        if corpus is None:
            return found
        frequency = selector("token_frequency", top=top, corpus=corpus, unigram=settings.unigram)
        return {**found, "token-frequency neurons": frequency}

    return rules


def _component(base: type[ComponentT], name: str, **params: object) -> ComponentT:
    """A component of whichever plugin offers it."""
    return catalogue().build(base, ComponentSpec(name, params), f"compare: its {base.kind}")


def write(folder: Path, record: ModelsRecord, sections: Sequence[Section]) -> None:
    """Tables, figures, the pages, and last the record: where it is, the comparison is complete."""
    from harness.files.store import write_bytes, write_json
    from harness.report.figure_files import write_shown

    from .report import html, markdown

    shown: list[Frame | Figure] = []
    for section in sections:
        shown += [*section.frames, *section.figures]
    write_shown(folder, shown)
    write_bytes(folder / "README.md", markdown(record).encode())
    write_bytes(folder / "report.html", html(record, folder).encode())
    write_json(folder / "result.json", record.to_dict())
