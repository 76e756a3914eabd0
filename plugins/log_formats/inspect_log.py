"""inspect_ai's log of a run, written by its own library: ``inspect view`` shows prompts, answers and measures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness.files.store import check_writable
from harness.plugin import Asked, FinishedRun, HarnessError, Reporter

from .told import Told, conditions, observed, target, when

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog


class InspectLog(Reporter):
    """A log of inspect_ai for the untouched model, and one for the model under the intervention.

    It needs the extra ``neuron-harness[inspect]``. Samples are the prompts, with the answer and a score for every
    number that was observed; the results have every measure's value; the log's metadata have the run's identity, and
    each measure that has a verdict with all of it.
    """

    name = "inspect_log"
    does = "writing inspect's logs"
    positional = "folder"
    folder: Path = Field(description="where inspect's --log-dir would be")
    format: Literal["eval", "json"] = Field("eval", description="compressed, or JSON")

    def ready(self, asked: Asked) -> None:
        try:
            import inspect_ai.log  # noqa: F401
        except ImportError as error:
            raise HarnessError(
                '--report inspect_log: inspect_ai is not installed; pip install "neuron-harness[inspect]".'
            ) from error
        check_writable(self.folder.expanduser())

    def finished(self, run: FinishedRun) -> None:
        from inspect_ai.log import write_eval_log

        stamp = when(run.provenance.finished).isoformat().replace(":", "-")
        for told in conditions(run):
            name = "".join(x if x.isalnum() else "-" for x in told.model)
            path = self.folder.expanduser() / f"{stamp}_{name}_{run.run_id[:12]}.{self.format}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_eval_log(_log(run, told), str(path), format=self.format)


def _log(run: FinishedRun, told: Told) -> EvalLog:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalMetric, EvalResults, EvalScore, EvalSpec, EvalStats

    record, model = run.record, f"harness/{told.model}"
    rows = [row for several in told.samples.values() for row in several]
    samples = [_sample(row, model) for row in rows]
    scores = [
        EvalScore(
            name=task,
            scorer="harness",
            scored_samples=len(told.samples.get(task, ())),
            metrics={name: EvalMetric(name=name, value=value) for name, value in values.items()},
        )
        for task, values in told.values.items()
    ]
    task = str(run.asked.components["task"]["name"])
    about = {
        "run_id": record.run_id,
        "run": run.folder.name,
        "command": run.command,
        "identity": record.identity.to_dict(),
        "measures": [measure.to_dict() for measure in record.primary],
    }
    started, ended = when(run.provenance.started).isoformat(), when(run.provenance.finished).isoformat()
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=started,
            task=task,
            task_id=record.run_id[:22],
            run_id=record.run_id[:22],
            eval_id=f"{record.run_id[:20]}-{len(told.arguments) - 1}",
            task_version=run.asked.components["task"]["version"],
            task_args=dict(run.asked.components["task"]["params"]),
            dataset=EvalDataset(name=task, samples=len(samples), sample_ids=[sample.id for sample in samples]),
            model=model,
            model_args={key: value for key, value in told.arguments.items() if key != "pretrained"},
            config=EvalConfig(limit=run.asked.settings.get("limit")),
            packages=dict(run.provenance.packages),
            metadata={"harness": about},
        ),
        results=EvalResults(total_samples=len(samples), completed_samples=len(samples), scores=scores),
        stats=EvalStats(started_at=started, completed_at=ended),
        samples=samples,
    )


def _sample(row: dict[str, Any], model: str) -> Any:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, ModelOutput
    from inspect_ai.scorer import Score

    answer, numbers = str(row.get("answer", "")), observed(row)
    told = {key: x for key, x in row.items() if key not in ("prompt", "input_ids", "condition") and key not in numbers}
    return EvalSample(
        id=row["prompt_id"],
        epoch=1,
        input=row["prompt"],
        target=target(row),
        messages=[ChatMessageUser(content=row["prompt"]), ChatMessageAssistant(content=answer, model=model)],
        output=ModelOutput.from_content(model, answer),
        scores={name: Score(value=value, answer=answer or None) for name, value in numbers.items()},
        metadata=told,
    )
