"""What the contract must be able to serve, each shown by a small policy."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.policies.runs import TRANSFORMER, latents_of, prompt
from tethercache.backbones import Session
from tethercache.cache import Bank, Fused, Pass, Policy, Slots, View
from tethercache.policies import POLICIES
from tethercache.policies.window import Window
from tethercache.registry import Entry
from tethercache.rollout import Plan

LONG = Plan(30)


@dataclass(frozen=True)
class TextRelevant(Window):
    """Lets go what the prompt says least about: a layer's text keys against its frames."""

    window: int = 12

    @property
    def needs_statistics(self) -> bool:
        return True

    def open(self, bank: Bank, frames: int) -> Slots:
        if not bank.full:
            return bank.take(frames)
        assert bank.text is not None
        relevance = (bank.stats.mean[0] * bank.text.float().mean(dim=1)[:, None]).sum(dim=(2, 3))
        least = relevance[:, : bank.readable].argsort(dim=1)[:, :frames]
        return Slots(least, range(bank.readable))


@dataclass(frozen=True)
class FirstLayerDecides(TextRelevant):
    """The first layer chooses what leaves; the others follow."""

    def open(self, bank: Bank, frames: int) -> Slots:
        if not bank.full:
            return bank.take(frames)
        if bank.layer == 0:
            loudness = bank.stats.var[1].sum(dim=(2, 3))[:, : bank.readable]
            bank.shared["leaving"] = loudness.argsort(dim=1)[:, :frames]
        return Slots(bank.shared["leaving"], range(bank.readable))


@dataclass(frozen=True)
class Reservoir(Window):
    """One readable slot shows an old frame out of many that are stored outside the budget."""

    sink: int = 1
    window: int = 7
    stored: int = 30

    @property
    def needs_statistics(self) -> bool:
        return True

    def reserve(self, chunk: int | None = None) -> int:
        return self.stored

    def leave(self, bank: Bank, frames: Slots) -> None:
        bank.hide(frames)
        waiting = bank.waiting()
        loudness = bank.stats.var[1][bank.rows, waiting.index].sum(dim=(2, 3))
        loudest = waiting.index.gather(1, loudness.argsort(dim=1, descending=True)[:, :1])
        bank.copy(Slots(loudest, waiting.span), bank.slots(0, 1))


@dataclass(frozen=True)
class TwoReads(Window):
    """The mean of what is near and of what is far, attended to separately."""

    window: int = 9
    near: int = 6
    share: float = 0.5

    def see(self, bank: Bank, pass_: Pass) -> View | Fused:
        views = (View(bank.newest(self.near)), View())
        return Fused(views, lambda near, far: torch.lerp(far, near, self.share))


SMALL = [TextRelevant(), FirstLayerDecides(), Reservoir(), TwoReads()]


@pytest.fixture(params=SMALL, ids=lambda policy: type(policy).__name__)
def policy(request: pytest.FixtureRequest) -> Policy:
    return request.param


def test_kept_and_on_read_rotation_agree_bit_for_bit(policy: Policy) -> None:
    assert torch.equal(latents_of(policy, LONG, keep_rotated=False), latents_of(policy, LONG))


def test_a_batch_of_two_equals_two_of_one(policy: Policy) -> None:
    prompts = prompt(batch=2)
    both = latents_of(policy, LONG, prompt_embeds=prompts, samples=(0, 1))
    for i in range(2):
        alone = latents_of(policy, LONG, prompt_embeds=prompts[i : i + 1], samples=(i,))
        torch.testing.assert_close(both[i : i + 1], alone, atol=2e-4, rtol=1e-4)


def _watched(policy: Policy, look: Callable[[Session], None]) -> None:
    latents_of(policy, LONG, watch=look)


def test_a_layer_sees_its_own_text_keys() -> None:
    projected, looked = TRANSFORMER.condition_embedder.text_embedder(prompt()), []

    def look(session: Session) -> None:
        for block, bank in zip(TRANSFORMER.blocks, session.caches(), strict=True):
            key = block.attn2.norm_k(block.attn2.to_k(projected)).unflatten(
                -1, (block.attn2.heads, -1)
            )
            assert bank.text is not None
            torch.testing.assert_close(bank.text, key)
            looked.append(bank.layer)

    _watched(TextRelevant(), look)
    assert set(looked) == set(range(len(TRANSFORMER.blocks)))


def test_a_decision_of_the_first_layer_serves_all() -> None:
    seen: list[tuple[int, ...]] = []

    def look(session: Session) -> None:
        held = {tuple(bank.frame_index[0].tolist()) for bank in session.caches()}
        assert len(held) == 1
        seen.append(held.pop())

    _watched(FirstLayerDecides(), look)
    # not simply the oldest ones
    assert sorted(seen[-1]) != list(range(18, 30))


def test_frames_outside_the_budget_are_stored_and_come_back() -> None:
    shown: set[int] = set()

    def look(session: Session) -> None:
        bank = session.caches()[0]
        assert bank.readable <= 7
        shown.add(int(bank.frame_index[0, 0]))

    _watched(Reservoir(), look)
    assert len(shown) > 1


def test_two_reads_are_fused() -> None:
    plain = latents_of(Window(window=9), LONG)
    torch.testing.assert_close(latents_of(TwoReads(share=0.0), LONG), plain)
    short = latents_of(Window(window=6), LONG)
    mixed = latents_of(TwoReads(), LONG)
    assert not torch.allclose(mixed, plain, atol=1e-3)
    assert not torch.allclose(mixed, short, atol=1e-3)


TOKENS = '''
    """Deep Forcing in small: full, keep sink and newest frames and the best tokens between."""

    from dataclasses import dataclass

    from tethercache.cache import Bank, Slots
    from tethercache.policies.window import Window


    @dataclass(frozen=True)
    class TopTokens(Window):
        sink: int = 2
        window: int = 12
        kept: int = 2

        def open(self, bank: Bank, frames: int) -> Slots:
            if bank.readable + frames > self.window:
                newest = bank.newest(4)
                middle = bank.newest(bank.readable - self.sink)[:-4]
                keys = bank.key[bank.rows, middle.index].float()
                asked = keys.mean(dim=(1, 2), keepdim=True)
                score = (keys * asked).sum(dim=(3, 4)).flatten(1)
                into = middle[: self.kept]
                bank.pack(middle, score, into)
                bank.keep(bank.slots(0, self.sink) + into + newest)
            return bank.take(frames)
'''


def test_token_selection_is_one_file_outside_the_package_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "top_tokens.py").write_text(textwrap.dedent(TOKENS))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(POLICIES, "_entries", dict(POLICIES._entries))
    POLICIES.add("top-tokens", Entry("top_tokens:TopTokens", "the best tokens of the middle"))
    policy = POLICIES.parse("top-tokens:kept=3 + commit-read:newest=4")
    assert POLICIES.spec(policy) == "top-tokens:kept=3 + commit-read:newest=4"
    LONG.check(policy)
    kept = latents_of(policy, LONG)
    assert kept.isfinite().all()
    assert torch.equal(latents_of(policy, LONG, keep_rotated=False), kept)
    del sys.modules["top_tokens"]


@pytest.mark.parametrize("full", [False, True])
def test_every_spec_survives_its_round_trip(full: bool) -> None:
    bases = [name for name in POLICIES if not POLICIES[name].wraps]
    wrappers = [name for name in POLICIES if POLICIES[name].wraps]
    specs = [*bases, *(f"{base} + {name}" for base in bases for name in wrappers)]
    specs += ["tethercache:alpha=1e+5", "tethercache:alpha=1e+5+commit-read:newest=6"]
    for spec in specs:
        made = POLICIES.parse(spec)
        assert POLICIES.parse(POLICIES.spec(made, full=full)) == made


def test_a_spec_of_the_first_release_is_read() -> None:
    spec = "tethercache:sink=3,memory=14,recent=4,alpha=0.35,tau=0.35,temperature=1.0"
    assert POLICIES.parse(spec) == POLICIES.parse("tethercache")
    spec = "sink:sink=3,window=21,positions=relative"
    assert POLICIES.parse(spec) == POLICIES.parse("sink")


def test_names_that_are_taken_or_break_a_spec_are_refused() -> None:
    entry = Entry("tethercache.policies.window:Window", "again")
    with pytest.raises(ValueError, match="`fifo` is registered already"):
        POLICIES.add("fifo", entry)
    with pytest.raises(ValueError, match="must consist of"):
        POLICIES.add("a + b", entry)
