"""How a video is computed: attention backend, compiled code, threads, decoding beside denoising.

None of this changes what is computed, but for rounding, and for the preview, which says so.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tethercache.arguments import flag, instance, one_of, whole_number
from tethercache.errors import MissingToolError
from tethercache.text import reason

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ATTENTION = {
    "native": "native",
    "flash3": "_flash_3",
    "cudnn": "_native_cudnn",
    "flash": "flash",
    "sage": "sage",
}
"""Backends by our names, and what diffusers' dispatcher calls them."""

LARGE = 500_000
"""Numbers of a chunk's activations (tokens x channels) from which a model is worth all cores."""

MOST_THREADS = 512
"""More than there is work for, and few enough for any system to start."""

_SAME = 0.05  # of values of variance 1; Sage quantises

# what a backend raises where it cannot be used
_UNUSABLE = (RuntimeError, ValueError, TypeError, ImportError, AttributeError, AssertionError)


@dataclass(frozen=True)
class Execution:
    """How a video is computed.

    Args:
        attention: `auto`, or one of `ATTENTION`; see `choose_attention`.
        compile: compile the transformer's blocks and the decoder with `torch.compile`. It takes a
            minute or more once, and pays for long videos.
        overlap: `on`: decode a chunk while the next one is denoised; `off`: one after the other;
            `auto`: where it pays, see `overlap_choices`. The frames are the same to the last bit.
        decoder: `vae`, or `preview`: only the first chunk is decoded; from then on each latent
            cell (8x8 pixels of 4 frames) is one colour, which takes next to no time.
    """

    attention: str = "auto"
    compile: bool = False
    overlap: str = "auto"
    decoder: str = "vae"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("attention", ("auto", *ATTENTION)),
            ("overlap", ("auto", "on", "off")),
            ("decoder", ("vae", "preview")),
        ):
            one_of(name, getattr(self, name), allowed)
        flag("compile", self.compile)

    @classmethod
    def given(cls, execution: Execution | None) -> Execution:
        """The way to compute that a caller gave, or the usual one."""
        given = cls() if execution is None else execution
        checked: Execution = instance("execution", given, cls, "an `Execution`")
        return checked


def choose_attention(
    name: str, device: torch.device | str, dtype: torch.dtype, head_dim: int
) -> str:
    """The attention backend to use, one of `ATTENTION`.

    A backend can be used if it is installed and a small attention through it comes out right here.
    On a CPU that is PyTorch's own. On a GPU in 16 bits, `auto` prefers FlashAttention 3 and cuDNN
    from compute capability 9.0 on, the first of them on 9.x alone; then FlashAttention 2; then
    PyTorch's own. Sage, which quantises, is used only if it is asked for by name. (This order
    follows the vendors' claims; it was not measured here.)

    Args:
        name: `auto` or one of `ATTENTION`.
        device: where attention is computed.
        dtype: of queries, keys and values.
        head_dim: channels of an attention head.

    Raises:
        ValueError: if the one asked for cannot be used here, with the reason.
    """
    import torch

    if name == "auto":
        return usable_attention(device, dtype, head_dim)[0]
    if reason := _obstacle(name, torch.device(device), dtype, head_dim):
        raise ValueError(f"the attention `{name}` cannot be used on {device}: {reason}")
    return name


def dispatched(transformer: Any, name: str, like: Tensor) -> str | None:
    """What diffusers' dispatcher calls the backend to use.

    Args:
        transformer: the model.
        name: `auto` or one of `ATTENTION`.
        like: a tensor of the device and dtype in which it computes.

    Returns:
        None if a caller has set a backend of the model, and `auto` leaves it at that.
    """
    processors = transformer.attn_processors.values()
    if name == "auto" and any(getattr(p, "_attention_backend", None) for p in processors):
        return None
    head_dim = transformer.config.attention_head_dim
    return ATTENTION[choose_attention(name, like.device, like.dtype, head_dim)]


def usable_attention(device: torch.device | str, dtype: torch.dtype, head_dim: int) -> list[str]:
    """The attention backends that can be used, the one that `auto` takes first.

    The arguments are those of `choose_attention`.
    """
    import torch

    place = torch.device(device)
    usable = [name for name in ATTENTION if not _obstacle(name, place, dtype, head_dim)]
    preferred = ["native"]
    if place.type == "cuda":
        major, _ = torch.cuda.get_device_capability(place)
        preferred = ["flash3"] * (major == 9) + ["cudnn"] * (major >= 9) + ["flash", "native"]
    first = next(name for name in preferred if name in usable or name == "native")
    return [first, *(name for name in usable if name != first)]


def _obstacle(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why a backend cannot be used, in one line; empty if it can."""
    import torch
    from diffusers.models.attention_dispatch import attention_backend, dispatch_attention_fn

    if name == "native":
        return ""
    if device.type != "cuda":
        return "it needs a CUDA device"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it needs bfloat16 or float16, not {str(dtype).removeprefix('torch.')}"
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 128, 2, head_dim, generator=generator).to(device, dtype)
    try:
        with attention_backend(ATTENTION[name]), torch.no_grad():
            got = dispatch_attention_fn(query, query, query)
        expected = dispatch_attention_fn(query, query, query, backend="native")
        wrong = (got.float() - expected.float()).abs().mean().item()
    except _UNUSABLE as error:
        return reason(error)
    return "" if wrong < _SAME else f"its results are wrong (by {wrong:.2g} on average)"


def overlap_choices(execution: Execution, device: torch.device | str) -> tuple[bool, ...]:
    """Whether to decode beside denoising: what may be chosen, the preferred first."""
    if execution.overlap != "auto":
        return (execution.overlap == "on",)
    pays = execution.decoder == "vae" and overlap_pays(device)
    return (True, False) if pays else (False,)


def overlap_pays(device: torch.device | str) -> bool:
    """Whether decoding beside denoising is faster than one after the other.

    On a GPU it is worth a second stream. On a CPU the decoder takes as many threads as the
    transformer, and more threads than cores only disturb each other: it pays where the cores are at
    least twice the threads, see `default_threads`.
    """
    import torch

    kind = torch.device(device).type
    if kind != "cpu":
        return kind == "cuda"
    return cores() >= 2 * torch.get_num_threads()


def default_threads(activations: int) -> int:
    """The number of PyTorch's threads for a model on this CPU, whatever else it does just now.

    The threads of an operation wait for the slowest of them. In a large model an operation takes so
    long that this costs no more than the share of a core that another program takes, so all cores
    are worth it. In a small one the waiting itself is most of the time as soon as another program
    needs one of the cores; there a quarter of the cores, at most four, is as fast together with
    decoding beside it, and leaves room. `OMP_NUM_THREADS`, if it is set, decides for both.

    Args:
        activations: tokens of a chunk times channels of a token.
    """
    import torch

    if activations >= LARGE or "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    return min(max(1, cores() // 4), 4)


def counted(number: int, what: str) -> str:
    """`1 thread`, `2 threads`."""
    return f"{number} {what}{'s' * (number != 1)}"


def check_threads(number: int | None) -> None:
    """Raise `ValueError` if that is no number of threads that a program may start."""
    if number is not None:
        whole_number("threads", number, 1, MOST_THREADS)


def use_threads(number: int | None, device: torch.device | str, activations: int) -> None:
    """Set PyTorch's threads: to `number`, or to what suits a model on this CPU.

    What another device computes needs no more than PyTorch has anyway.

    Args:
        number: of threads; None: `default_threads` on a CPU.
        device: where the model computes.
        activations: see `default_threads`.
    """
    import torch

    if number is None and torch.device(device).type == "cpu":
        number = default_threads(activations)
    if number is not None:
        torch.set_num_threads(number)


def cores() -> int:
    """The number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def require_compiler(device: torch.device | str) -> None:
    """Raise `MissingToolError` if `torch.compile` cannot make code for a device here."""
    import torch

    if torch.device(device).type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise MissingToolError(
                "--compile needs triton on a GPU: pip install triton, or leave --compile out"
            )
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise MissingToolError(
            "--compile needs a C++ compiler on a CPU: install g++ (or name another one in the "
            "environment variable CXX), or leave --compile out"
        ) from None
