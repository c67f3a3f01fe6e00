"""Where to compute, and how much memory is free there."""

from __future__ import annotations

from pathlib import Path


def pick_device(name: str) -> str:
    """Check a device name, or choose the best one for `auto`."""
    import torch

    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return "cpu" if accelerator is None else accelerator.type
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used here: {reason}") from None
    return name


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
