"""Where to compute, and how much memory is free there."""

from __future__ import annotations

from tethercache.fit.host import host_memory


def pick_device(name: str) -> str:
    """Check a device name, or choose the best one for `auto`."""
    import torch

    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if accelerator is None or _refuses(accelerator.type):
            return "cpu"
        return accelerator.type
    if reason := _refuses(name):
        raise ValueError(f"`device` ({name}) cannot be used here: {reason}")
    return name


def _refuses(name: str) -> str | None:
    """Why a device cannot compute what a video takes; None if it can.

    The angles of rotary embeddings are float64, which Apple's `mps` does not have.
    """
    import torch

    try:
        torch.ones(1, dtype=torch.float64, device=name).cos().float().item()
    except (RuntimeError, AssertionError, TypeError) as error:
        return str(error).splitlines()[0]
    return None


def free_memory(device: str) -> tuple[int | None, int | None]:
    """Free and total memory of a device in bytes, None where the system does not tell."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)
    return host_memory() if device == "cpu" else (None, None)
