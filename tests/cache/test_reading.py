"""The contract serves read sets that differ by pass, and biases, before any policy needs them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tests.policies.runs import latents_of
from tethercache.cache import Bank, Pass, Policy, View
from tethercache.policies.window import Window
from tethercache.rollout import Plan


@dataclass(frozen=True)
class ShortSighted(Window):
    """A window whose context pass reads only the newest `newest` frames, as Commit Forcing does."""

    newest: int = 6
    bias: float | None = None

    def see(self, bank: Bank, pass_: Pass) -> View:
        if not pass_.commits:
            return View()
        if self.bias is None:
            return View(slots=bank.newest(self.newest))
        old = bank.age() < bank.readable - self.newest
        return View(bias=(old.float() * self.bias)[:, None, :, None])


def _run(policy: Policy) -> Tensor:
    return latents_of(policy, Plan(18))


def test_a_pass_can_read_fewer_frames_than_another() -> None:
    narrow, wide = _run(ShortSighted(window=12)), _run(Window(window=12))
    assert torch.equal(narrow[:, :, :6], wide[:, :, :6])
    assert not torch.allclose(narrow[:, :, 9:], wide[:, :, 9:], atol=1e-3)


def test_hiding_frames_equals_a_bias_of_minus_infinity() -> None:
    hidden, biased = _run(ShortSighted(window=12)), _run(ShortSighted(window=12, bias=-1e9))
    torch.testing.assert_close(hidden, biased, atol=1e-4, rtol=1e-4)


def test_a_bias_of_zero_changes_nothing() -> None:
    plain, biased = _run(Window(window=12)), _run(ShortSighted(window=12, bias=0.0))
    torch.testing.assert_close(plain, biased, atol=1e-5, rtol=1e-5)
