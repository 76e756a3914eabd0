"""What transformers logs, which its own handler may write to a stream that pytest does not see."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from logging.handlers import BufferingHandler

import pytest
from transformers.utils import logging as transformers_logging


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """The log records of transformers, as they come."""
    handler = BufferingHandler(1000)
    transformers_logging.add_handler(handler)
    yield handler.buffer
    transformers_logging.remove_handler(handler)
