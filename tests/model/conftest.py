"""What transformers logs, which its own handler may write to a stream that pytest does not see."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from logging.handlers import BufferingHandler

import pytest


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """The log records of transformers, as they come."""
    handler = BufferingHandler(1000)
    logger = logging.getLogger("transformers")  # its own remove_handler() removed none before 5.1
    logger.addHandler(handler)
    yield handler.buffer
    logger.removeHandler(handler)
