"""``import harness``: light, and what it offers does what the command line does."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from checkout import ROOT

import harness as public
from harness.api import evaluation, finished, frames
from harness.api.finished import Run
from harness.errors import HarnessError
from harness.plugin import Selector
from harness.plugin.catalogue import catalogue
from harness.report.reporters import Console
from harness.results.record import Frame
from harness.running.request import Request, command_of
from harness.running.telling import Telling

NAMES = {
    "HarnessError", "LoadedModel", "Model", "Run", "__version__", "condition", "evaluate", "hold", "hookimpl",
    "load_model", "load_run",
    "mean", "register", "run", "runs", "zero",
}  # fmt: skip


@pytest.fixture(scope="module")
def words(small_facts: Path) -> dict[str, Any]:
    return {
        "task": f"knowledge_conflict:data={small_facts}", "selector": "entropy:top=3", "intervention": "mean",
        "limit": 60, "controls": 5, "resamples": 100,
    }  # fmt: skip


@pytest.fixture(scope="module")
def made(words: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return public.evaluate(**words, output_path=tmp_path_factory.mktemp("reports"))


# -- the face ----------------------------------------------------------------------------------------------------------


def test_these_names_are_public() -> None:
    assert set(public.__all__) == NAMES == set(dir(public))
    stub = ast.parse((ROOT / "harness" / "__init__.pyi").read_text(encoding="utf-8"))
    [told] = [node.value for node in stub.body if isinstance(node, ast.Assign)]
    assert ast.literal_eval(told) == public.__all__
    for name in NAMES:
        assert getattr(public, name) is not None
    with pytest.raises(AttributeError, match="evalute"):
        public.evalute  # type: ignore[attr-defined]  # noqa: B018


def test_importing_it_is_light() -> None:
    heavy = ("torch", "transformers", "numpy", "pydantic", "pandas", "matplotlib", "rich", "typer")
    code = f"import sys, harness; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("first", ["import harness.running.spec", "harness.evaluate", "import harness.api.evaluation"])
def test_no_room_has_the_name_of_a_function(first: str) -> None:
    """A name of the face stays what it is, whatever is imported before it: a room of that name would replace it."""
    code = f"import harness; {first}; print([callable(getattr(harness, name)) for name in ('run', 'runs', 'evaluate')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[True, True, True]"
    rooms = {path.parent.name for path in (ROOT / "harness").glob("*/__init__.py")}
    assert not NAMES & (rooms | {path.stem for path in (ROOT / "harness").glob("*.py")})


def test_runs_of_the_registry_are_called_by_name() -> None:
    with pytest.raises(HarnessError, match='has no run called "nothing_like_it"'):
        public.run("nothing_like_it")
    with pytest.raises(HarnessError, match="name one or more runs"):
        public.run()


# -- runs --------------------------------------------------------------------------------------------------------------


def test_it_is_the_run_of_the_command(
    words: dict[str, Any], made: Run, harness: Callable[..., Any], tmp_path: Path
) -> None:
    options = [word for name, value in words.items() for word in (f"--{name}", value)]
    code, _, err = harness("eval", *options, "--quiet", "-o", tmp_path)
    assert code == 0, err
    same = tmp_path / made.path.name
    for name in ("result.json", "samples.jsonl", "controls.jsonl", "outcomes.safetensors", "files.sha256"):
        assert (made.path / name).read_bytes() == (same / name).read_bytes()
    again = public.load_run(same / "result.json")
    assert again.path == same and again.command.startswith("harness eval --task knowledge_conflict")
    assert public.evaluate(**words, output_path=tmp_path, progress=False).path == same  # finished, not made again


def test_the_command_makes_the_same_run(made: Run, harness: Callable[..., Any]) -> None:
    code, out, _ = harness(*_split(made.command)[1:], "--json")
    assert code == 0 and json.loads(out)["run_id"] == made.record.run_id


def _split(command: str) -> list[str]:
    import shlex

    return shlex.split(command)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"name": "mine", "seed": 3, "match": "norm", "hold_out": 0.25, "engine": "hooks", "batch_size": 8},
        {"margins": {"entropy_change": 0.05}, "metrics": ("transitions", {"name": "log_odds"}), "controls": 19},
        {"selector": {"name": "neurons", "neurons": ["3.10", "3.1"]}, "model": "hf:pretrained=a/b c,dtype=float32"},
    ],
)
def test_a_specification_as_a_command(more: dict[str, Any], harness: Callable[..., Any], tmp_path: Path) -> None:
    """What is written as a command is read as the same specification."""
    asked = {"model": "demo", "task": "knowledge_conflict", "selector": "entropy", "intervention": "mean"} | more
    spec = Request(**asked).specification(catalogue())
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("harness.cli.evaluate.make", lambda specs, *rest, **how: seen.extend(specs) or [])
        code, _, err = harness(*_split(command_of(spec, tmp_path))[1:])
    assert code == 0, err
    assert seen == [spec]


def test_both_take_what_a_request_has(harness: Callable[..., Any]) -> None:
    """Options and parameters are the fields of one class: same defaults, and the same words about them."""
    taken = inspect.signature(public.evaluate).parameters
    told = " ".join(harness("eval", "--help")[1].replace("│", " ").split())
    for field in dataclasses.fields(Request):
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        assert taken[field.name].default == default
        [said] = re.findall(rf"^    {field.name}: (.+)$", public.evaluate.__doc__ or "", re.M)
        assert said in told
        assert re.search(rf"--{field.name.removesuffix('s')}", told)
    with pytest.raises(TypeError, match=r"evaluate\(\): missing a required argument: 'task'"):
        public.evaluate("demo", selector="entropy")  # type: ignore[call-arg]


def test_words_of_lm_eval_mean_the_same_in_python() -> None:
    given = Request("hf", task="lm_eval:x", selector="entropy", model_args="pretrained=a/b", num_fewshot=2)
    spec = given.specification(catalogue())
    assert str(spec.model) == "hf:pretrained=a/b" and spec.task.params["num_fewshot"] == 2
    assert Request(task="a", selector="b", margins=["m=0.5"]).specification(catalogue()).margins == {"m": 0.5}


def test_mistakes_are_the_sentences_of_the_command(harness: Callable[..., Any], tmp_path: Path) -> None:
    for words, options in (
        ({"selector": "entropi"}, ["-s", "entropi"]),
        ({"selector": "entropy:topp=3"}, ["-s", "entropy:topp=3"]),
        ({"controls": -1}, ["--controls", "-1"]),
        ({"model": "nowhere"}, ["-m", "nowhere"]),
        ({"match": "norn"}, ["--match", "norn"]),
    ):
        given = {"task": "knowledge_conflict", "selector": "entropy", "intervention": "mean", **words}
        with pytest.raises(HarnessError) as caught:
            public.evaluate(**given, output_path=tmp_path)  # type: ignore[arg-type]
        code, _, err = harness("eval", "-t", "knowledge_conflict", "-s", "entropy", "-i", "mean", *options)
        assert code == 2 and " ".join(str(caught.value).split()) == " ".join(err.removeprefix("error: ").split())


def test_what_the_system_refuses_is_a_sentence(words: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match="file"):
        public.evaluate(**words, output_path=tmp_path / "file" / "reports")


def test_where_nobody_says_where(words: dict[str, Any], made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_REPORTS_DIR", str(made.path.parent))
    run = public.evaluate(**words)
    assert run.path == made.path and len(public.runs()) == 7
    spec = Request(task="a", selector="b").specification(catalogue())
    assert "--output_path reports" in command_of(spec, Path("reports"))
    assert "--output_path" not in command_of(spec, made.path.parent)


def test_runs_of_the_registry(tmp_path: Path, blank_figures: None) -> None:
    registry = tmp_path / "registry.yaml"
    run = (
        "{task: knowledge_conflict, selector: 'entropy:top=2', intervention: [mean, zero], controls: 2, resamples: 100}"
    )
    registry.write_text(f"runs:\n  both: {run}\nsuites:\n  all: {{runs: [both]}}\n", encoding="utf-8")
    made = public.run("all", registry=registry, limit=60, output_path=tmp_path / "reports")
    assert [one.record.name for one in made] == ["both.mean", "both.zero"]
    assert made[0].command == f"harness run all --limit 60 --registry {registry} --output_path {tmp_path / 'reports'}"
    board = public.runs(tmp_path / "reports")
    assert set(board["run"]) == {"both.mean", "both.zero"} and board["primary"].all()


# -- a finished run ----------------------------------------------------------------------------------------------------


def test_columns_have_types(made: Run) -> None:
    measures = made.measures
    assert len(measures) == len(made.record.measures)
    wanted = {
        "metric": "string", "name": "string", "primary": "boolean", "value": "float64", "count": "Int64",
        "control_mean": "float64", "p_adjusted": "float64", "verdict": "string",
    }  # fmt: skip
    assert {name: str(measures[name].dtype) for name in wanted} == wanted
    primary = measures[measures["primary"]].set_index("name")
    recorded = {measure.name: measure.value for measure in made.record.measures if measure.primary}
    assert primary.loc["entropy_change", "value"] == recorded["entropy_change"]

    samples = made.samples
    assert len(samples) == 2 * made.record.task.n_prompts and set(samples["condition"]) == {"baseline", "treated"}
    assert str(samples["entropy"].dtype) == "float64" and str(samples["answer"].dtype) == "string"

    neurons = made.neurons
    assert str(neurons["neuron"].dtype) == "string" and str(neurons["layer"].dtype) == "Int64"
    chosen = neurons.loc[neurons["selected"], "neuron"]
    assert set(chosen) == {one.neuron for one in made.record.selection.neurons}

    controls = made.controls
    assert list(controls["control"]) == list(range(5)) and len(controls["units"][0]) == 3
    mean = controls["entropy_change.entropy_change"].mean()
    assert mean == pytest.approx(primary.loc["entropy_change", "control_mean"])


def test_tables(made: Run, tmp_path: Path) -> None:
    cells = made.tables["transition_cells"]
    assert str(cells["before"].dtype) == "string" and str(cells["count"].dtype) == "Int64"
    assert set(made.tables) == {path.stem for path in (made.path / "tables").glob("*.csv")}
    with pytest.raises(HarnessError, match='Did you mean "transition_cells"'):
        made.tables["transition_cell"]
    for name in made.tables:  # of short ones: what their files hold
        told = pd.read_csv(made.path / "tables" / f"{name}.csv", dtype={"neuron": str})
        assert list(told) == list(made.tables[name])


def test_long_tables_are_read_from_their_files(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    text = "neuron,layer,found,score,text\n3.10,3,true,0.5,NA\n3.1,3,,,None\n"
    (tmp_path / "tables" / "long.csv").write_text(text, encoding="utf-8")
    read = frames.Tables(tmp_path, [Frame(name="long", title="", n=2, rows=None)])["long"]
    assert [str(kind) for kind in read.dtypes] == ["string", "Int64", "boolean", "float64", "string"]
    assert list(read["neuron"]) == ["3.10", "3.1"] and list(read["text"]) == ["NA", "None"]
    assert read["found"].isna().tolist() == [False, True] and np.isnan(read["score"][1])


def test_figures_are_drawn_again(made: Run, tmp_path: Path) -> None:
    drawn = made.figure("conversion_ratios")
    assert drawn.axes and not drawn.axes[0].images  # lines and bars, no picture
    assert drawn._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    shown = made.figure("activation_values")  # of statistics that the run does not keep
    assert shown.axes[0].images
    with pytest.raises(HarnessError, match=r'no figure "conversion_ratio".*Did you mean "conversion_ratios"'):
        made.figure("conversion_ratio")


def test_how_it_looks(made: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert repr(made) == f"<harness run {made.path}: 7 primary measures, {_more(made)} more than random>"
    html = made._repr_html_()
    assert "change of entropy" in html and "Primary measures beside the 5 random controls" in html
    assert "<script" not in html and "http" not in html and "How sure this can be" in html
    made.show()
    assert "Effects beside the random controls" in capsys.readouterr().out


def _more(run: Run) -> int:
    return sum(measure.verdict == "more than random" for measure in run.record.measures)


def test_text_of_others_is_escaped(made: Run, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    record = json.loads((made.path / "result.json").read_text(encoding="utf-8"))
    record["task"]["title"] = record["selection"]["selector"] = record["measures"][0]["title"] = hostile
    record["identity"]["model"]["id"] = record["tables"][0]["title"] = record["tables"][0]["categories"][0] = hostile
    for measure in record["measures"]:
        measure |= {"title": hostile, "verdict_sentence": f"{hostile}\x1b[31m"} if measure["primary"] else {}
    folder = tmp_path / "a\x1b[31m\nb"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(record), encoding="utf-8")
    run = public.load_run(folder)
    html = run._repr_html_()
    assert "<script" not in html and "&lt;script&gt;" in html and "\x1b" not in html
    assert "\x1b" not in repr(run) and "\n" not in repr(run)
    assert run.record.identity.model.id == hostile


def test_open_shows_the_page(made: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[str] = []
    monkeypatch.setattr(finished.webbrowser, "open", seen.append)
    made.open()
    assert seen == [(made.path / "report.html").resolve().as_uri()]
    with pytest.raises(HarnessError, match="harness report"):
        Run(tmp_path).open()


def test_there_is_no_run(made: Run, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="there is no finished run here"):
        public.load_run(tmp_path)
    (tmp_path / "half" / "unfinished").mkdir(parents=True)
    with pytest.raises(HarnessError, match="not finished"):
        public.load_run(tmp_path / "half")
    with pytest.raises(HarnessError, match="run something first"):
        public.runs(tmp_path)


def test_the_leaderboard(made: Run) -> None:
    board, everything = public.runs(made.path.parent), public.runs(made.path.parent, primary=False)
    assert len(board) == 7 and len(everything) == len(made.measures)
    assert str(board["seed"].dtype) == "Int64" and str(board["value"].dtype) == "float64"
    assert str(board["finding"].dtype) == "boolean" and str(board["model"].dtype) == "string"


# -- components and models ---------------------------------------------------------------------------------------------

FIRST = '''
from harness.plugin import Neuron, Selection, SelectionContext, Selector


class First(Selector):
    """The first neurons of the last layer."""

    name = "first_of_all"
    top: int = 3

    def reads_prompts(self) -> bool:
        return False

    def select(self, context: SelectionContext) -> Selection:
        layer = context.model.anatomy.n_layers - 1
        return Selection(tuple(Neuron(layer, i) for i in range(self.top)), rule="the first ones")
'''


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Write a module, and import it anew."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def module(text: str) -> Any:
        (tmp_path / "of_this_test.py").write_text(text, encoding="utf-8")
        sys.modules.pop("of_this_test", None)
        importlib.invalidate_caches()
        return importlib.import_module("of_this_test")

    yield module
    sys.modules.pop("of_this_test", None)
    catalogue.cache_clear()


def test_a_component_of_this_process(
    words: dict[str, Any], written: Callable[[str], Any], tmp_path: Path, blank_figures: None
) -> None:
    asked = words | {"selector": "first_of_all:top=2", "output_path": tmp_path / "reports"}
    assert public.register(written(FIRST).First).name == "first_of_all"
    first = public.evaluate(**asked)
    came = first.record.identity.components.selector
    assert came.distribution == "this process" and len(came.distribution_version) == 16
    public.register(written(FIRST + "\n\nUNRELATED = 1\n").First)
    assert public.evaluate(**asked).path == first.path
    public.register(written(FIRST.replace("range(self.top)", "range(1, self.top + 1)")).First)
    second = public.evaluate(**asked)
    assert second.path != first.path
    assert [one.neuron for one in second.record.selection.neurons] == ["3.1", "3.2"]


def test_what_cannot_be_registered(written: Callable[[str], Any]) -> None:
    with pytest.raises(HarnessError, match="expected the class of a component"):
        public.register(int)  # type: ignore[type-var]
    with pytest.raises(HarnessError, match='the selector "entropy" is already provided by neuron-harness'):
        public.register(written(FIRST.replace("first_of_all", "entropy")).First)
    names: dict[str, Any] = {}
    exec(compile(FIRST, "<nowhere>", "exec"), names)
    with pytest.raises(HarnessError, match="its source cannot be read"):
        public.register(names["First"])


def test_a_class_of_a_notebook_has_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of notebooks are known to linecache, under a name that is no file."""
    import linecache

    cell = "<ipython-input-1-abc>"
    names: dict[str, Any] = {"__name__": "__main__"}
    monkeypatch.setitem(linecache.cache, cell, (len(FIRST), None, FIRST.splitlines(keepends=True), cell))
    exec(compile(FIRST, cell, "exec"), names)
    public.register(names["First"])
    assert catalogue().get(Selector, "first_of_all", "a test") is names["First"]
    catalogue.cache_clear()


def test_load_model() -> None:
    model = public.load_model("demo", device="cpu")
    assert isinstance(model, public.Model) and model.anatomy.n_layers == 4
    with pytest.raises(HarnessError, match="is no loader, no model of the registry and no folder"):
        public.load_model("gpt3")


# -- on the way --------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on(
    words: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blank_figures: None
) -> None:
    """Ctrl-C is KeyboardInterrupt, as everywhere in Python; what was finished by then is not done again."""
    from harness.running import execute, fitting

    def stop(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(execute, "_finish", stop)
        with pytest.raises(KeyboardInterrupt):
            public.evaluate(**words, output_path=tmp_path)
    assert list(tmp_path.glob("*/unfinished/part-*.safetensors"))
    with monkeypatch.context() as patched:
        patched.setattr(fitting, "observe", stop)  # nothing is left for the model to do
        run = public.evaluate(**words, output_path=tmp_path)
    assert run.record.name == "demo-knowledge_conflict-entropy-mean"


@pytest.mark.parametrize("notebook", [True, False])
def test_who_is_told_of_progress(
    notebook: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a notebook the cell; in a script whose output goes to a file nobody, unless it is asked for."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: notebook)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: notebook)  # as a kernel's says

    def told(progress: bool | None) -> Telling:
        return evaluation._telling(catalogue(), (), progress)

    def quiet(progress: bool | None) -> bool:
        [console] = [x for x in told(progress).told if isinstance(x, Console)]
        return console.shown.quiet

    with told(None).stage("working"):
        pass
    out, err = capsys.readouterr()
    assert quiet(None) is not notebook and out.startswith("working: ") is notebook and not err
    assert "\x1b" not in out
    assert quiet(False) and not quiet(True)
