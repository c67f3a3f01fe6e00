"""Where to compute, and how much memory is free there."""

from __future__ import annotations

from pathlib import Path


def pick_device(name: str) -> str:
    """Check a device name, or choose the best one for `auto`."""
    import torch

    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if accelerator is None or _refuses(accelerator.type):
            return "cpu"
        return accelerator.type
    if reason := _refuses(name):
        raise ValueError(f"--device {name} cannot be used here: {reason}")
    return name


def _refuses(name: str) -> str | None:
    """Why a device cannot compute what a video takes; None if it can.

    The angles of rotary embeddings are float64, which Apple's `mps` does not have.
    """
    import torch

    try:
        torch.ones(1, dtype=torch.float64, device=name).cos().float()
    except (RuntimeError, AssertionError, TypeError) as error:
        return str(error).splitlines()[0]
    return None


def free_memory(device: str) -> tuple[int | None, int | None]:
    """Free and total memory of a device in bytes, None where the system does not tell."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)
    if device != "cpu":
        return None, None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None, None
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if "kB" in line}
    return sizes.get("MemAvailable"), sizes.get("MemTotal")
