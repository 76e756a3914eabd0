"""`harness compare --base M1 --tuned M2`: what post-training changed (Du et al., COLM 2025).

Two models go in; out come sections (neurons, behaviour, directions, steering, patching), each with its numbers,
sentences, tables and figures, and a folder that is the same bytes whenever the same comparison is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data import FactTable
from harness.files.paths import expand
from harness.plugin import Corpus, HarnessError, Selector, Task, border, layers_in
from harness.plugin.catalogue import catalogue
from harness.plugin.specs import ComponentSpec, ComponentT
from harness.progress import Stage

from ..analysis.statement_pairs import load_examples, load_statements
from ..analysis.truth_data import load_truth
from .record import Identity, ModelsRecord
from .refusal import Refusal
from .section import Section
from .settings import Settings

if TYPE_CHECKING:
    from harness.engine import Engine
    from harness.plugin import Figure, Frame, Model, ModelLoader, SelectionContext

SCHEMA = "post_training/1"


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
    batch_size: int | str,
    stage: Stage,
) -> Compared:
    """Compare a base model with a tuned one, and write the folder ``<base>-vs-<tuned>-<hash>``.

    Args:
        loaders, names: of base and tuned; the names are fit for a folder's name.
        batch_size: prompts in a pass; text (``auto``): in each section as many as fit.
        corpus: texts for loss, entropy and token-frequency neurons; default: that of the models' own,
            where it is the same.

    Raises:
        HarnessError: the models differ in shape, or an input is wrong; nothing is written then.
    """
    from harness.engine import ClosedFormEngine, most
    from harness.files.store import clean, digest
    from harness.plugin import SelectionContext

    own = {loader.corpus for loader in loaders}
    if len(own) == 1 and (name := own.pop()) is not None:  # both were trained on texts of the same kind
        settings = settings.completed(loaders[0])
        corpus = corpus or _component(Corpus, name)
    inputs = input_digests(settings, corpus)
    if (refusal := Refusal.of(settings)) is not None:
        inputs |= refusal.digests
    with stage("loading the models"):
        models = [border.load(loader) for loader in loaders]
    check_comparable(models)
    check_fits(settings, models[0])
    sizes = [batch_size if isinstance(batch_size, int) else most(model) for model in models]
    engines = [ClosedFormEngine(model, size) for model, size in zip(models, sizes, strict=True)]
    contexts = [SelectionContext(x.model, x, [], settings.seed, stage=stage) for x in engines]
    identity = {
        "schema": SCHEMA,
        "base": models[0].provenance(),
        "tuned": models[1].provenance(),
        "settings": settings.recorded,
        "corpus": None if corpus is None else corpus.identity(),
        "inputs": inputs,
    }
    fitted = [] if isinstance(batch_size, int) else engines
    sections = list(_sections(contexts, settings, corpus, refusal, stage, fitted))
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

    from ..analysis.labelled_texts import data_set_name, load_labelled

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
        found |= {f"truthfulness {data_set_name(path)}": files_digest([expand(path)]) for path in settings.truthfulness}
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
    contexts: Sequence[SelectionContext],
    settings: Settings,
    corpus: Corpus | None,
    refusal: Refusal | None,
    stage: Stage,
    fitted: Sequence[Engine],
) -> Iterator[Section]:
    """What can be compared; a section that cannot be says why, in place of its findings.

    Args:
        fitted: engines whose batches are to be as large as fit.
    """
    from harness.engine import halving, most

    from .behaviour import behaviour_section
    from .directions import patching_section
    from .neurons import weights_section

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
    made += _truthfulness(s, contexts)
    if refusal is not None:
        made += refusal.sections(s, contexts)
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
                for engine in fitted:
                    engine.batch_size = most(engine.model)
                section = halving(fitted, make)
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


def _truthfulness(
    s: Settings, contexts: Sequence[SelectionContext]
) -> Iterator[tuple[str, str, Callable[[], Section]]]:
    """The direction of truthfulness of every file; of several, under the names of their data sets."""
    from ..analysis.labelled_texts import data_set_name, load_labelled
    from .directions import direction_section, named_of

    def make(path: str | Path, data: str) -> Section:
        return direction_section("truthfulness", load_labelled(path), contexts, s.seed, data=data)

    for path in s.truthfulness:
        data = data_set_name(path) if len(s.truthfulness) > 1 else ""
        key, words = named_of("truthfulness", data)
        yield key, f"The direction of {words}", partial(make, path, data)


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
