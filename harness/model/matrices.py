"""The matrix of a linear map: as it is stored, or, where its weights are packed (quantised), as it acts.

What libraries for quantised weights have in common is that their modules can be called. A packed map is fed one unit
vector a row, which gives its columns as the forward pass uses them, and then random vectors, which must come out as the
matrix says: nothing is known of any format.
"""

from __future__ import annotations

import torch
from torch import nn

from harness.errors import HarnessError
from harness.model.modules import linear_features, materialised, read_parameter

STORED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Weights in one of these are numbers; eight bits come with a scale."""

ROUNDING = 5e-2
"""Largest accepted relative error of what goes through packed maps: some round their inputs to eight bits."""

BLOCK = 1024
"""Unit vectors that are fed at once."""


def is_packed(module: nn.Module) -> bool:
    """Whether a linear map's weight is no matrix of numbers that could be read."""
    weight = getattr(module, "weight", None)
    transposed = type(module).__name__ == "Conv1D"
    return (
        weight is None
        or weight.dtype not in STORED
        or hasattr(weight, "__tensor_flatten__")  # torchao's say the dtype and the shape of what they stand for
        or tuple(weight.shape) != linear_features(module)[:: 1 if transposed else -1]
    )


def write_matrix(down: nn.Module, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[d_in, d_out] of a linear map; for a down projection [d_mlp, d_model], row i = what neuron i writes per unit of
    activation. In the module's dtype, not a copy; of packed weights a dequantised copy.

    Args:
        dtype: of the model's passes, in which packed weights are dequantised.

    Raises:
        HarnessError: the weights are packed, and the map does not act as a matrix.
    """
    if is_packed(down):
        return _dequantised(down, dtype)
    weight = read_parameter(down, "weight")
    assert weight is not None
    return weight if type(down).__name__ == "Conv1D" else weight.T


@torch.no_grad()
def _dequantised(module: nn.Module, dtype: torch.dtype) -> torch.Tensor:
    d_in, d_out = linear_features(module)
    with materialised(module):
        device = next((x.device for x in (*module.parameters(), *module.buffers())), torch.device("cpu"))

        def act(x: torch.Tensor) -> torch.Tensor:
            # .forward, so that hooks on the model's modules do not see these; [batch, pos, width], as they are fed.
            output: torch.Tensor = module.forward(x[None].to(device, dtype))
            return output[0].detach()

        try:
            constant = act(torch.zeros(1, d_in))
            matrix = torch.cat([act(unit) for unit in torch.eye(d_in).split(BLOCK)]) - constant
            x = torch.randn(8, d_in, generator=torch.Generator().manual_seed(0))
            found, wanted = x.to(matrix) @ matrix + constant, act(x)
        except HarnessError:
            raise
        except Exception as error:
            raise HarnessError(
                f"the quantised weights of a {type(module).__name__} cannot be dequantised by running it in {dtype} "
                f"({type(error).__name__}); load the model unquantised, or in another dtype."
            ) from error
    off = (found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-9)
    if tuple(matrix.shape) != (d_in, d_out) or not off < ROUNDING:
        raise HarnessError(
            f"the quantised weights of a {type(module).__name__} do not act as a matrix (relative difference "
            f"{off:.1e}); load the model unquantised."
        )
    return matrix
