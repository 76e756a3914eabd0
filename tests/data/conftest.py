"""Models that read one token a byte, without and with BOS, and the bundled one."""

from __future__ import annotations

import pytest
from families import tiny
from harness_plugins.demo import Demo

from harness.model.model import Model


@pytest.fixture(scope="module")
def plain() -> Model:
    """One token a byte, no BOS, EOS 258."""
    return tiny("gpt2")


@pytest.fixture(scope="module")
def with_bos() -> Model:
    return tiny("gpt2", add_bos=True)


@pytest.fixture(scope="module")
def demo() -> Model:
    return Demo().load()
