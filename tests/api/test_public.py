"""``import harness``: light, and what it offers does what the command line does."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT

import harness as public
from harness.api import evaluation
from harness.errors import HarnessError
from harness.plugin import Selector
from harness.plugin.catalogue import catalogue
from harness.report.reporters import Console
from harness.running.request import Request, command_of
from harness.running.telling import Telling

NAMES = {
    "HarnessError", "LoadedModel", "Model", "Run", "__version__", "condition", "evaluate", "hold", "hookimpl",
    "load_model", "load_run",
    "mean", "register", "run", "runs", "zero",
}  # fmt: skip


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
        code, _, err = harness(*shlex.split(command_of(spec, tmp_path))[1:])
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


@pytest.mark.slow
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
