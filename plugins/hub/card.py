"""The card of a run's repository: what it is, in the hub's own words and in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from harness.files.harmless import Markup, markdown, markdown_code
from harness.report.formatting import control, interval, p_value, question, value, verdict
from harness.results.measures import Measure
from harness.results.provenance import Provenance
from harness.results.record import RunRecord

TAG = "neuron-harness"
RUN = "harness_run_id"
"""Key of the card's metadata that says which run a repository holds."""

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
LARGER = "1M<n<10M"
"""Names of the hub for how many rows there are."""

RULES = "Every number and picture below"
"""How the paragraph begins that says how verdicts are given."""

DATA = {
    "samples": "two rows a prompt, untouched and treated: prompt, tokens, fields, answer, and what was observed",
    "measures": "a row a measure: value, interval, controls, p-values, verdict",
    "units": "a row a candidate: whether it was selected, and its scores",
    "controls": "a row a control set: its units, and every measure under it",
}


def metadata(record: RunRecord, sizes: Mapping[str, int]) -> dict[str, Any]:
    """What stands between the lines of dashes at the top."""
    components = record.identity.components.by_kind()
    size = next((name for most, name in SIZES if sizes["samples"] < most), LARGER)
    return {
        "pretty_name": record.name,
        "tags": [TAG, "interpretability", "evaluation", *dict.fromkeys(x.name for x in components.values())],
        "size_categories": [size],
        "configs": [
            {
                "config_name": name,
                "data_files": f"data/{name}.parquet",
                **({"default": True} if name == "samples" else {}),
            }
            for name in DATA
        ],
        RUN: record.run_id,
        "harness_model": record.identity.model.id,
    }


def card(record: RunRecord, provenance: Provenance, to: str, sizes: Mapping[str, int], page: str) -> bytes:
    """README.md.

    Args:
        sizes: rows of each table. page: what :func:`harness.report.markdown.export` says of the run.
    """
    front = yaml.safe_dump(metadata(record, sizes), sort_keys=False, allow_unicode=True, width=1000)
    rules = next(paragraph for paragraph in page.split("\n\n") if paragraph.startswith(RULES))
    body = page[page.index("\n## ") :]  # what it says of this one run
    found = [_sentence(record, measure) for measure in record.primary]
    verdicts = found or [markdown("No measure of this run is judged.")]
    rows = [f"| `{name}` | {sizes[name]:,} | {what} |" for name, what in DATA.items()]
    lines = [
        f"---\n{front}---\n",
        f"# {markdown(record.name)}\n",
        f"{markdown(question(record))}\n",
        "A run of neuron-harness, as it was made: units of a language model under an intervention, and random units.",
        f"`report.html` is all of it on one page, `result.json` the record, whose id is `{record.run_id}`.\n",
        *([f"**Exploratory**: {markdown(record.exploratory)}\n"] if record.exploratory else []),
        *([f"**Nothing is interpreted**: {markdown(record.broken)}\n"] if record.broken else []),
        f"## Verdicts\n\n{rules}\n",
        *(f"- {sentence}" for sentence in verdicts),
        "\n## Data\n",
        "| table | rows | what it is |",
        "|---|---:|---|",
        *rows,
        f'\n```python\nfrom datasets import load_dataset\n\nload_dataset("{to}", "measures", split="train")\n```\n',
        "`.eval_results/` has the primary measures as the hub's own metadata for results.\n",
        "Made by\n",
        f"{markdown_code(provenance.command)}\n",
        f"with neuron-harness {markdown(record.identity.harness_version)}, on {markdown(provenance.hardware)}.\n",
    ]
    return ("\n".join(lines) + "\n" + body).encode()


def _sentence(record: RunRecord, measure: Measure) -> Markup:
    """A verdict in words, with the numbers that it rests on."""
    told = f"{value(measure)} with the selected units (95% interval {interval(measure)})"
    told += f", {control(measure)} under random ones" if measure.controls is not None else ""
    told += "" if measure.p_adjusted is None else f", adjusted p = {p_value(measure.p_adjusted)}"
    return Markup(f"{markdown(measure.title)}: **{markdown(verdict(record, measure))}**. {markdown(told)}.")


def eval_results(record: RunRecord, provenance: Provenance, to: str) -> bytes:
    """The primary measures in the format of the hub's ``.eval_results`` folders; each with its verdict as a note."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries = [
        EvalResultEntry(
            dataset_id=to,
            task_id=".".join(measure.key),
            value=measure.value,
            date=provenance.finished,
            source_url=f"https://huggingface.co/datasets/{to}",
            source_name=TAG,
            notes=f"{record.identity.model.id}: {verdict(record, measure)}; 95% interval {interval(measure)}; "
            f"adjusted p {p_value(measure.p_adjusted)}; {record.controls.n} random controls",
        )
        for measure in record.primary
        if measure.value is not None
    ]
    text: str = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True, width=1000)
    return text.encode()
