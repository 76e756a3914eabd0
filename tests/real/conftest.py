"""Converted weights of real models are the user's own, kept between runs of the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def own_cache() -> Iterator[None]:
    """The cache that the user has named, or the usual one."""
    with pytest.MonkeyPatch.context() as patch:
        if own := os.environ.get("HARNESS_OWN_CACHE_DIR"):
            patch.setenv("HARNESS_CACHE_DIR", own)
        else:
            patch.delenv("HARNESS_CACHE_DIR", raising=False)
        yield
