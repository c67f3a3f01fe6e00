"""States: what has to be kept of a video in the making, so that it can go on later.

A state is made of dictionaries with text for keys, of lists, of tensors and of what JSON knows.
Nothing in it is pickled. Its tensors lie in host memory and are not written to any more. What
decides whether a state fits is under `made_for`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from torch import Tensor

State = dict[str, Any]

_TENSOR = "$tensor"


def check_fits(what: str, state: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a state that was made for something else.

    Args:
        what: whose state it should be, such as "rollout".
        state: what is to be loaded.
        expected: what has to be under `made_for`.

    Raises:
        ValueError: naming everything that differs.
    """
    found = state.get("made_for")
    if not isinstance(found, Mapping):
        raise ValueError(f"this is no state of a {what}")
    different = [
        f"`{name}` is {_shown(found, name)} in it and {_shown(expected, name)} here"
        for name in {**expected, **found}
        if name not in found or name not in expected or found[name] != expected[name]
    ]
    if different:
        raise ValueError(f"the state does not fit this {what}: {'; '.join(different)}")


def _shown(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "not there"


def layout(tensor: Tensor) -> State:
    """A tensor and how it lies in memory, on which the last bits of a result may depend."""
    tensor = tensor.detach().clone()  # which has no gaps
    return {"values": tensor.cpu().contiguous(), "strides": list(tensor.stride())}


def laid_out(saved: Mapping[str, Any], device: torch.device | str | None = None) -> Tensor:
    """The tensor of which `layout` was saved: new, aligned, and lying in memory as that one did."""
    values: Tensor = saved["values"]
    tensor = values.new_empty(0, device=device or values.device)
    tensor = tensor.new_empty_strided(values.shape, saved["strides"])
    return tensor.copy_(values)


def as_tensor(numbers: array[Any] | npt.NDArray[Any]) -> Tensor:
    """A copy of an array of numbers as a tensor."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(numbers))


def as_array(tensor: Tensor) -> array[Any]:
    """The array of which `as_tensor` has made a one-dimensional tensor."""
    values = tensor.numpy()
    numbers: array[Any] = array("q" if values.dtype.kind == "i" else values.dtype.char)
    numbers.frombytes(values.tobytes())
    return numbers


def each_tensor(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same state with `change(tensor)` in the place of every tensor."""
    import torch

    if isinstance(state, torch.Tensor):
        return change(state)
    if isinstance(state, Mapping):
        return {name: each_tensor(part, change) for name, part in state.items()}
    if isinstance(state, list | tuple):
        return [each_tensor(part, change) for part in state]
    return state


def split(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], Any]:
    """Take a state apart for two files.

    Returns:
        The tensors by name, contiguous, as safetensors takes them; and the rest, as JSON takes it,
        in which a tensor is `{"$tensor": name}`. What is there several times has one name.
    """
    tensors: dict[str, Tensor] = {}
    names: dict[Any, str] = {}

    def put(tensor: Tensor) -> Any:
        where = tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
        if not tensor.numel() or where not in names:
            names[where] = str(len(tensors))
            tensors[names[where]] = tensor.detach().cpu().contiguous()
        return {_TENSOR: names[where]}

    return tensors, each_tensor(state, put)


def join(tensors: Mapping[str, Tensor], rest: Any) -> Any:
    """The state of which `split` made these two."""
    if isinstance(rest, Mapping):
        if rest.keys() == {_TENSOR} and isinstance(rest[_TENSOR], str):
            return tensors[rest[_TENSOR]]
        return {name: join(tensors, part) for name, part in rest.items()}
    return [join(tensors, part) for part in rest] if isinstance(rest, list) else rest
