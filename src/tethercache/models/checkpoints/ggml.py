"""GGUF files, through the `gguf` package: tensors in blocks of few bits, made when asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tethercache.errors import MissingModelError, WrongModelError
from tethercache.foreign import reading
from tethercache.models.checkpoints.packed import Packed

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

_SHAPE = "comfy.gguf.orig_shape."
"""Where ComfyUI's converter notes the shape of a tensor that it has stored in another one."""


class Blocks(Packed):
    """A tensor in one of the formats of ggml.

    Args:
        shape: of the tensor.
        data: as it lies in the file, rows of bytes or of numbers.
        kind: the format.
    """

    def __init__(self, shape: Iterable[int], data: Any, kind: GGMLQuantizationType) -> None:
        self.data = data.reshape(-1, data.shape[-1])
        super().__init__(shape, len(self.data))
        self.kind = kind

    @property
    def form(self) -> str:
        """See `Packed`."""
        return f"GGUF {self.kind.name}"

    def piece(self, start: int, stop: int) -> Tensor:
        """See `Packed`."""
        from gguf import dequantize

        made = dequantize(self.data[start:stop], self.kind)
        return torch.from_numpy(made if made.flags.writeable else made.copy())


def read_gguf(path: Path) -> tuple[dict[str, Packed], int]:
    """The tensors of a GGUF file, and how many bytes it declares for them.

    Raises:
        MissingModelError: if the `gguf` package, an optional dependency, is not installed.
        DamagedModelError: if the file cannot be read.
        WrongModelError: if it is of a model of another kind, or in a format without a way back.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingModelError(f"{path} needs the gguf library: pip install 'tethercache[gguf]'")
    import gguf

    class Reader(gguf.GGUFReader):
        """Reads no further than the file goes: gguf itself would count on for ever."""

        def _get(self, offset: int, dtype: Any, count: int = 1, *rest: Any, **more: Any) -> Any:
            found = super()._get(offset, dtype, count, *rest, **more)
            if len(found) < int(count):
                raise ValueError(f"it ends before byte {len(self.data)}")
            return found

    with reading(path, "it is damaged or cut off"):
        reader = Reader(path)
        if reader.byte_order != "I":
            raise ValueError("its bytes are in the order of another machine")
        state: dict[str, Packed] = {}
        declared, undone = 0, set[gguf.GGMLQuantizationType]()
        for tensor in reader.tensors:
            kind = tensor.tensor_type
            if kind not in undone and not _can_undo(kind):
                raise WrongModelError(
                    f"{path} stores {tensor.name} as {kind.name}, which the gguf library cannot "
                    "undo"
                )
            undone.add(kind)
            noted = reader.get_field(_SHAPE + tensor.name)
            shape = noted.contents() if noted else tensor.shape[::-1].tolist()
            blocks = Blocks(shape, tensor.data, kind)
            if blocks.shape.numel() != tensor.n_elements or min(blocks.shape) < 1:
                raise ValueError(f"{tensor.name} of shape {list(blocks.shape)} has another size")
            state[tensor.name] = blocks
            declared += tensor.n_bytes
    return state, declared


def _can_undo(kind: GGMLQuantizationType) -> bool:
    """Whether the library turns blocks of a kind into numbers."""
    import gguf

    _, size = gguf.GGML_QUANT_SIZES[kind]
    try:
        gguf.dequantize(np.zeros((1, size), np.uint8), kind)
    except NotImplementedError:
        return False
    return True
