"""Which device `auto` means."""

from __future__ import annotations

import pytest
import torch

from tethercache.fit.device import pick_device


def test_auto_is_a_device_that_can_compute_a_video(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's `mps` is an accelerator but has no float64, of which rotary angles are made."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("mps"))
    ones = torch.ones

    def on_a_mac(*size: int, dtype: torch.dtype, device: str) -> torch.Tensor:
        if device == "mps" and dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return ones(*size, dtype=dtype)

    monkeypatch.setattr(torch, "ones", on_a_mac)
    assert pick_device("auto") == "cpu"
    with pytest.raises(ValueError, match=r"`device` .mps. cannot be used here: .*float64"):
        pick_device("mps")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    assert pick_device("auto") == "cuda"


def test_a_device_that_gives_no_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`device` \(meta\) cannot be used here"):
        pick_device("meta")
