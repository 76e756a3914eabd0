"""What transformers logs, which its own handler may write to a stream that pytest does not see; a folder to load."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterator
from logging import LogRecord
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import pytest
from families import tiny_hf, tokenizer

from harness.errors import HarnessError
from harness.model.loading import load_hf

RAY = r"^\[.*\b(rpc|gcs)\w*\.(h|cc):\d+: .*\n"
"""What Ray's threads write of a cluster that another test of this process has ended."""


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """The log records of transformers, as they come."""
    handler = BufferingHandler(1000)
    logger = logging.getLogger("transformers")  # its own remove_handler() removed none before 5.1
    logger.addHandler(handler)
    yield handler.buffer
    logger.removeHandler(handler)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_hf("llama").save_pretrained(folder)
    tokenizer(bos=True).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of the model's folder, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "tiny-llama"))


@pytest.fixture
def refused(folder: Path, capfd: pytest.CaptureFixture[str], logged: list[LogRecord]) -> Callable[..., str]:
    """Load, by default from ``folder``, and return the sentence with which that is refused; nothing else is said."""

    def load(pretrained: object = folder, **options: Any) -> str:
        capfd.readouterr()
        with pytest.raises(HarnessError) as caught:
            load_hf(str(pretrained), **options)
        message = str(caught.value)
        out, err = capfd.readouterr()
        assert out == "" and re.sub(RAY, "", err, flags=re.MULTILINE) == ""
        assert not logged
        assert "\n" not in message
        assert len(message) < 500
        return message

    return load
