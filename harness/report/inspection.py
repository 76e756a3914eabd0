"""What ``harness inspect`` found of a model, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.files.harmless import line
from harness.files.wording import counted
from harness.report.formatting import mlp_width

if TYPE_CHECKING:
    from harness.files.terminal import Terminal
    from harness.model.inspection import Inspection


def show(console: Terminal, seen: Inspection) -> None:
    """Print it."""
    for part in _parts(seen):
        console.print(part)


def _parts(seen: Inspection) -> Iterator[RenderableType]:
    model = seen.model
    yield Text(line(str(model["id"])), style="bold")
    facts = [
        f"{model['architecture']}, {model['parameters'] / 1e6:,.1f}M parameters, {model['dtype']} on {model['device']}",
        f"{counted(model['n_layers'], 'layer')}, d_model {model['d_model']}, "
        f"{mlp_width(model)}, "
        f"{counted(model['n_heads'], 'head')}, vocabulary {model['n_vocab']}",
        f"{model['norm']}, {'tied' if model['tied_embeddings'] else 'untied'} embeddings"
        + (", attention and MLP in parallel" if model["parallel"] else ""),
    ]
    if gguf := model.get("gguf"):
        facts.append("quantised: " + ", ".join(f"{counted(n, 'tensor')} {kind}" for kind, n in gguf["types"].items()))
    if quantised := model.get("quantised"):
        from harness.model.quantised import in_words

        facts.append(in_words(*(quantised[key] for key in ("method", "kind", "packed", "linear_maps"))))
    if adapter := model.get("adapter"):
        facts.append(f"merged with the adapter {adapter['id']} ({adapter['kind']})")
    yield _indented(Text("\n".join(map(line, facts))))

    yield Text("\nParts", style="bold")
    yield _pairs(seen.parts)
    checked = [f"verified: logits by the norm's formula are the model's, to {seen.errors.readout:.1e} of the largest"]
    if seen.errors.write is None:
        checked.append("what the last MLP writes does not reach the final residual unchanged: there is no closed form")
    else:
        checked.append(
            f"verified: edits of neurons move the final residual by w_out, to {seen.errors.write:.1e} of the largest"
        )
    yield _indented(Text("\n".join(checked), style="dim"))

    yield Text("\nRuns", style="bold")
    yield _pairs(
        {
            "edits of the last layer": f"{seen.engine}, "
            f"{999 if seen.engine == 'closed_form' else 100} controls by default",
            "memory": ", ".join(f"{what} {size:.2f} GiB" for what, size in seen.memory.items()),
        }
    )

    yield Text("\nTokens", style="bold")
    yield _pairs({role: "none" if token is None else repr(token) for role, token in seen.special_tokens.items()})
    for how, tokens in seen.prompts.items():
        yield _indented(Text(f"{how}: " + line(" ".join(f"[{x!r}]" for x in tokens))))

    yield Text("\nUnembedding", style="bold")
    spectrum = seen.spectrum
    smallest = spectrum["smallest"]
    yield _indented(
        Text(
            f"singular values from {spectrum['largest']:.4g}, median {spectrum['median']:.4g}, to "
            f"{', '.join(f'{x:.3g}' for x in smallest[-5:])}\n"
            f"suggested null space: {counted(seen.null_dims, 'direction')} ({seen.null_dims_reason});\n"
            f"{seen.null_kind_reason}"
        )
    )

    yield Text(f"\nNeurons of layer {seen.layer} with the lowest LogitVar, as entropy neurons have", style="bold")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("neuron", "LogitVar", "of median", "rho", "norm", "percentile"):
        table.add_column(name, justify="left" if name == "neuron" else "right")
    for row in seen.neurons:
        table.add_row(
            row["neuron"],
            f"{row['logit_var']:.2e}",
            f"{row['logit_var_of_median']:.2f}",
            f"{row['rho']:.3f}",
            f"{row['norm']:.2f}",
            f"{row['norm_percentile']:.1f}",
        )
    yield _indented(table)
    yield _indented(Text("Weights alone do not show what a neuron does: --selector entropy measures it.", style="dim"))


def _pairs(found: Mapping[str, str]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for name, text in found.items():
        table.add_row(Text(name, style="dim"), Text(line(text)))
    return _indented(table)


def _indented(part: RenderableType) -> RenderableType:
    return Padding(part, (0, 0, 0, 2))
