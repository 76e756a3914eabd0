"""Calls of ``transformers`` and the hub: quiet, and with one sentence where they fail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from harness.errors import HarnessError


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """No progress bars and no log lines from transformers and the hub within the block; settings are put back."""
    import logging as python_logging
    import warnings

    from huggingface_hub import utils as hub
    from transformers.utils import logging

    verbosity, hub_verbosity = logging.get_verbosity(), hub.logging.get_verbosity()
    bars, hub_bars = logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    hub.logging.set_verbosity(hub.logging.CRITICAL)
    logging.disable_progress_bar()
    accelerate = python_logging.getLogger("accelerate")
    level = accelerate.level
    accelerate.setLevel(python_logging.CRITICAL)
    if not hub_bars:
        hub.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        hub.logging.set_verbosity(hub_verbosity)
        accelerate.setLevel(level)
        if bars:
            logging.enable_progress_bar()
        if not hub_bars:
            hub.enable_progress_bars()


@contextlib.contextmanager
def explained(pretrained: str) -> Iterator[None]:
    """Turn the errors of ``from_pretrained`` into one sentence each."""
    import torch

    try:
        yield
    except HarnessError:
        raise
    except torch.OutOfMemoryError as error:
        raise HarnessError(f"{pretrained} does not fit into the device's memory: {first_line(error)}") from error
    except Exception as error:
        text = str(error)
        if "trust_remote_code" in text:
            raise HarnessError(
                f"{pretrained} comes with its own Python code; if you trust it, allow it with trust_remote_code=true."
            ) from error
        if "does not appear to have a file named" in text and "safetensors" in text:
            raise HarnessError(
                f"{pretrained} has no safetensors weights; if you trust its pickled ones, allow them with "
                "allow_pickle=true."
            ) from error
        if "Unrecognized configuration class" in text:
            raise HarnessError(f"{pretrained} is not a causal language model that transformers knows.") from error
        raise HarnessError(f"{pretrained} could not be loaded: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
