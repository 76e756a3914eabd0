"""Notebooks of the documentation, run and shown.

``make notebooks`` runs them and writes their outputs, with a digest of the code that these are of: a test compares it,
so that nobody changes a cell and leaves its outputs. A hook of mkdocs makes pages of them, for which nothing is run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

HERE = Path(__file__).resolve().parent
NOTEBOOKS = (
    "tutorial-python",
    "notebooks/own-selector",
    "notebooks/entropy-neurons",
    "notebooks/attribution",
    "notebooks/base-and-tuned",
)
INSTALLS = "importlib.util.find_spec("
"""In a cell that installs what is missing elsewhere: its outputs are none."""


def executed(name: str, folder: Path) -> Any:
    """The notebook, an ``nbformat`` node, with the outputs of a kernel of its own that begins in ``folder``.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raises something.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    place = {"metadata": {"path": str(folder)}}
    # What is kept of the process says nothing of the machine and the moment.
    client = NotebookClient(notebook, timeout=600, record_timing=False, coalesce_streams=True, resources=place)
    return client.execute()


def digest_of(notebook: Mapping[str, Any]) -> str:
    """sha256 of the code of a notebook's cells."""
    cells = [text_of(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def text_of(value: str | list[str]) -> str:
    """Text of a notebook, which may be written as lines."""
    return value if isinstance(value, str) else "".join(value)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put a page, and its pictures, in the place of each notebook; the notebook itself can be downloaded."""
    for name in NOTEBOOKS:
        notebook = json.loads((HERE / f"{name}.ipynb").read_text(encoding="utf-8"))
        pictures: dict[str, bytes] = {}
        page = "\n\n".join([*_colab(name, config), *_page(notebook, name, pictures)])
        files.append(File.generated(config, f"{name}.md", content=page))
        for picture, data in pictures.items():
            files.append(File.generated(config, picture, content=data))
    return files


def _colab(name: str, config: MkDocsConfig) -> Iterator[str]:
    """The badge, where it is known which repository on GitHub this is: ``repo_url``, or that of GitHub's own builds."""
    address = config.repo_url or f"https://github.com/{os.environ.get('GITHUB_REPOSITORY', '')}"
    owner, _, repository = address.removeprefix("https://github.com/").strip("/").partition("/")
    if repository and address.startswith("https://github.com/"):
        there = f"https://colab.research.google.com/github/{owner}/{repository}/blob/main/docs/{name}.ipynb"
        yield f"[Open in Colab]({there}){{ .md-button }}"


def _page(notebook: Mapping[str, Any], name: str, pictures: dict[str, bytes]) -> Iterator[str]:
    """Blocks of Markdown; what is to be a file beside the page is added to ``pictures``."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            yield text_of(cell["source"])
            continue
        if INSTALLS in text_of(cell["source"]):
            continue  # of no use to a reader
        yield f"```python\n{text_of(cell['source'])}\n```"
        for output in cell["outputs"]:
            data = {kind: text_of(value) for kind, value in output.get("data", {}).items()}
            if "image/png" in data:
                picture = f"{name}-{len(pictures) + 1}.png"
                pictures[picture] = base64.b64decode(data["image/png"])
                yield f"![the figure]({Path(picture).name})"
            elif "text/html" in data:
                yield f'<div class="output">\n{data["text/html"].strip()}\n</div>'
            else:
                yield f"```text\n{(data.get('text/plain') or text_of(output['text'])).rstrip()}\n```"


def main(names: Sequence[str]) -> None:
    """Write notebooks, all of them where none are named, with their outputs and the digest of their cells."""
    import nbformat

    import harness

    for name in names or NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(name, Path(folder))
        notebook.metadata["harness"] = {"code_sha256": digest_of(notebook), "version": harness.__version__}
        nbformat.write(notebook, HERE / f"{name}.ipynb")


if __name__ == "__main__":
    main(sys.argv[1:])
