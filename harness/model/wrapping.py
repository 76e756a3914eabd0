"""A :class:`harness.model.model.Model` of a loaded ``transformers`` model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from harness.errors import HarnessError
from harness.files.wording import shortened
from harness.model import digests as identity
from harness.model.anatomy import locate
from harness.model.model import Model
from harness.model.modules import keep_caps, refuse_compiled
from harness.model.probes import check_padding
from harness.model.readout import read_out
from harness.model.tokens import prefix_of


def wrap(
    hf: Any,
    tokenizer: Any,
    name: str,
    revision: str | None = None,
    commit: str | None = None,
    add_bos: bool | None = None,
    unused: tuple[str, ...] = (),
    origin: Mapping[str, Any] | None = None,
) -> Model:
    """A :class:`Model` of a loaded ``transformers`` causal language model (which is put into evaluation mode).

    Args:
        add_bos: whether prompts begin with the BOS token; by default as the tokeniser does.
        unused: names of the checkpoint's tensors that were left out.
        origin: what was done to weights that are not loaded as they are.

    Raises:
        HarnessError: the architecture is not supported or fails its self-check, a weight is NaN or infinite, memory
            does not suffice, the model is compiled, ``add_bos`` without a BOS token.
    """
    refuse_compiled(hf)
    hf.eval()
    keep_caps(hf)
    identity.check_finite(hf, name)
    try:
        anatomy = locate(hf)
        model = Model(
            name=name,
            hf=hf,
            tokenizer=tokenizer,
            anatomy=anatomy,
            readout=read_out(hf, anatomy),
            revision=revision,
            commit=commit,
            prefix=prefix_of(tokenizer, add_bos),
            pad_id=_pad_id(tokenizer, hf.get_input_embeddings().weight.shape[0]),
            unused=unused,
            origin=origin or {},
        )
        check_padding(model)
    except HarnessError:
        raise
    except torch.OutOfMemoryError as error:
        raise HarnessError(
            f"{name} does not fit into the device's memory with the passes that look for its parts: take "
            "dtype=bfloat16 or device_map=auto."
        ) from error
    except Exception as error:
        raise HarnessError(
            f"{type(hf).__name__} is not supported: the search for its parts (harness/model/anatomy.py) ended with "
            f"{type(error).__name__}: {shortened(str(error), 200)}"
        ) from error
    return model


def _pad_id(tokenizer: Any, n_embeddings: int) -> int:
    """The tokeniser's pad id, else its EOS, else 0; an id that the model does not embed is passed over."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None and 0 <= candidate < n_embeddings:
            return int(candidate)
    return 0
