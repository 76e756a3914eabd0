"""lm-eval's ``results_*.json`` and ``samples_*.jsonl`` of a run, in its folders and with its names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from harness.files.store import check_writable, json_bytes, jsonl_bytes, write_bytes
from harness.plugin import Asked, FinishedRun, Reporter

from .told import Told, conditions, observed, target, when


class LmEvalResults(Reporter):
    """What lm-eval would have written of a run: FOLDER/MODEL/results_TIME.json, and a file of samples a task.

    The untouched model and the model under the intervention are two models there. lm-eval knows no intervals, controls
    or verdicts: ``config.harness`` has the run's identity, and each measure that has a verdict with all of it.
    """

    name = "lm_eval_results"
    does = "writing lm-eval's files"
    positional = "folder"
    folder: Path = Field(description="where lm-eval's --output_path would be")
    samples: bool = Field(True, description="also samples_*.jsonl, as with --log_samples")

    def ready(self, asked: Asked) -> None:
        check_writable(self.folder.expanduser())

    def finished(self, run: FinishedRun) -> None:
        from lm_eval.utils import sanitize_model_name

        moment = when(run.provenance.finished).replace(tzinfo=None).isoformat().replace(":", "-")
        for told in conditions(run):
            folder = self.folder.expanduser() / sanitize_model_name(told.model)
            write_bytes(folder / f"results_{moment}.json", json_bytes(_results(run, told)))
            if self.samples:
                for task, rows in told.samples.items():
                    data = jsonl_bytes(_sample(i, row) for i, row in enumerate(rows))
                    write_bytes(folder / f"samples_{task}_{moment}.jsonl", data)


def _results(run: FinishedRun, told: Told) -> dict[str, Any]:
    """A results file, with the keys of lm-eval 0.4.13; what it would not know here is None, "N/A" or empty."""
    from lm_eval.utils import sanitize_model_name

    record, settings = run.record, run.asked.settings
    tasks = [*dict.fromkeys([*told.values, *told.samples])]
    results: dict[str, dict[str, Any]] = {}
    for task in tasks:
        results[task] = {"name": task, "alias": task, "sample_len": len(told.samples.get(task, ()))}
        for name, value in told.values.get(task, {}).items():
            metric, _, kept = name.partition(",")
            results[task] |= {f"{metric},{kept or 'none'}": value, f"{metric}_stderr,{kept or 'none'}": "N/A"}
    version = run.asked.components["task"]["version"]
    shots = run.asked.components["task"]["params"].get("num_fewshot") or 0
    started, ended = (when(x).timestamp() for x in (run.provenance.started, run.provenance.finished))
    return {
        "results": results,
        "group_subtasks": {task: [] for task in tasks},
        "configs": {task: {"task": task, "metadata": {"version": version}} for task in tasks},
        "versions": dict.fromkeys(tasks, version),
        "n-shot": dict.fromkeys(tasks, shots),
        "higher_is_better": {
            task: {name.partition(",")[0]: x for name, x in told.better.get(task, {}).items()} for task in tasks
        },
        "n-samples": {
            task: {"original": len(told.samples.get(task, ())), "effective": len(told.samples.get(task, ()))}
            for task in tasks
        },
        "config": {
            "model": "harness",
            "model_args": told.arguments,
            "model_num_parameters": record.identity.model.to_dict().get("parameters"),
            "model_dtype": record.identity.model.to_dict().get("dtype"),
            "batch_size": settings.get("batch_size"),
            "batch_sizes": [] if run.provenance.batch_size is None else [run.provenance.batch_size],
            "device": record.identity.model.to_dict().get("device"),
            "limit": settings.get("limit"),
            "random_seed": settings.get("seed"),
            "harness": {
                "run_id": record.run_id,
                "run": run.folder.name,
                "identity": record.identity.to_dict(),
                "measures": [measure.to_dict() for measure in record.primary],
            },
        },
        "git_hash": run.provenance.git.to_dict().get("commit") if run.provenance.git else None,
        "date": started,
        "transformers_version": run.provenance.packages.get("transformers"),
        "lm_eval_version": run.provenance.packages.get("lm-eval") or run.provenance.packages.get("lm_eval"),
        "task_hashes": {task: _hash("".join(_hashes(rows))) for task, rows in told.samples.items()},
        "model_source": "harness",
        "model_name": told.model,
        "model_name_sanitized": sanitize_model_name(told.model),
        "system_instruction": None,
        "chat_template": None,
        "start_time": started,
        "end_time": ended,
        "total_evaluation_time_seconds": str(run.provenance.wall_seconds),
    }


def _sample(place: int, row: dict[str, Any]) -> dict[str, Any]:
    """A line of a file of samples: the document is our row, its metrics are the numbers that were observed."""
    answer, numbers = str(row.get("answer", "")), observed(row)
    doc = {key: value for key, value in row.items() if key not in ("input_ids", "condition") and key not in numbers}
    return {
        "doc_id": int(row.get("doc_id", place)),
        "doc": doc,
        "target": target(row),
        "arguments": {"gen_args_0": {"arg_0": row["prompt"]}},
        "resps": [[answer]],
        "filtered_resps": [answer],
        "filter": "none",
        "metrics": list(numbers),
        "doc_hash": _hash(json.dumps(doc, sort_keys=True, ensure_ascii=False)),
        "prompt_hash": _hash(row["prompt"]),
        "target_hash": _hash(target(row)),
        **{name: value for name, value in numbers.items() if name != "doc_id"},
    }


def _hashes(rows: list[dict[str, Any]]) -> Iterator[str]:
    for place, row in enumerate(rows):
        made = _sample(place, row)
        yield made["doc_hash"] + made["prompt_hash"] + made["target_hash"]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
