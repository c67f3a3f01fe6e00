"""Where tensors lie in memory, so that equal weights give equal bits.

On some CPUs the last bits of a matrix product depend on whether its operands start at a multiple
of 64 bytes. PyTorch's own memory does; tensors that are mapped from a file start wherever the file
has them. So whatever is to compute on a CPU is aligned first: at the price of one copy in memory
of each tensor that was not, and of nothing for the others.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

ALIGNMENT = 64
"""Bytes."""


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is one of numbers in memory: subclasses may be quantised, or fake."""
    return type(tensor) in (Tensor, nn.Parameter)


def is_aligned(tensor: Tensor) -> bool:
    """Whether a tensor starts at a multiple of 64 bytes, or is none that computes on a CPU."""
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
        return True
    return not is_plain(tensor) or tensor.data_ptr() % ALIGNMENT == 0  # others may have no address


def aligned(tensor: Tensor) -> Tensor:
    """The same values in a contiguous tensor that is aligned: the tensor itself, if it is so."""
    contiguous = tensor.contiguous()
    return contiguous if is_aligned(contiguous) else contiguous.clone()


def align(module: nn.Module) -> None:
    """Move the parameters and buffers of a module that are not aligned, in place, one by one.

    The parameters stay the same objects with the same values, so that whoever shares them still
    does.

    Args:
        module: may lie on any device; what is not on a CPU is left alone.
    """
    for tensor in chain(module.parameters(), module.buffers()):
        if not is_aligned(tensor):
            with torch.inference_mode(tensor.is_inference()):  # a tensor must stay of its kind
                tensor.data = tensor.data.clone()
