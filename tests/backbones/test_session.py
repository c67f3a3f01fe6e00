"""The session: every model call is declared, streams are separate, text is projected once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.policies.runs import TRANSFORMER, prompt
from tethercache.backbones import Session, SessionError, attach
from tethercache.policies.tethercache import TetherCache
from tethercache.policies.window import Window

PROMPT = prompt()
TIME = torch.tensor([500.0])


def latents(seed: int = 0, frames: int = 3) -> Tensor:
    return torch.randn(1, 4, frames, 4, 4, generator=torch.Generator().manual_seed(seed))


def call(x: Tensor, text: Tensor = PROMPT) -> Tensor:
    with torch.no_grad():
        return TRANSFORMER(x, TIME, text).sample


def test_a_call_outside_a_pass_raises() -> None:
    with attach(TRANSFORMER, Window()) as session:
        with pytest.raises(SessionError, match="outside a pass"):
            call(latents())
        with (
            pytest.raises(SessionError, match="outside a pass"),
            session.chunk(3),
        ):
            call(latents())


def test_a_pass_outside_a_chunk_raises() -> None:
    with (
        attach(TRANSFORMER, Window()) as session,
        pytest.raises(SessionError, match="needs an open chunk"),
        session.context_pass(),
    ):
        pass


def test_a_chunk_needs_its_context_pass() -> None:
    with (
        attach(TRANSFORMER, Window()) as session,
        pytest.raises(SessionError, match="ended without a context pass"),
        session.chunk(3),
        session.denoising_pass(),
    ):
        call(latents())


def test_a_pass_without_a_call_raises() -> None:
    with (
        attach(TRANSFORMER, Window()) as session,
        pytest.raises(SessionError, match="without a model call"),
        session.chunk(3),
        session.denoising_pass(),
    ):
        pass


def test_a_second_call_in_a_pass_raises() -> None:
    with attach(TRANSFORMER, Window()) as session, session.chunk(3):
        with session.denoising_pass():
            call(latents())
            with pytest.raises(SessionError, match="second call"):
                call(latents())
        with session.context_pass():
            call(latents())


def test_nothing_follows_the_context_pass_of_a_chunk() -> None:
    with attach(TRANSFORMER, Window()) as session, session.chunk(3):
        with session.context_pass():
            call(latents())
        with pytest.raises(SessionError, match="committed already"), session.denoising_pass():
            call(latents())


def test_a_session_with_a_failed_chunk_takes_no_more() -> None:
    with attach(TRANSFORMER, Window()) as session:
        with pytest.raises(ZeroDivisionError), session.chunk(3), session.denoising_pass():
            raise ZeroDivisionError
        with pytest.raises(SessionError, match="attach again"), session.chunk(3):
            pass


class OutOfMemory(RuntimeError):
    pass


def fail(kind: type[BaseException], *, after: bool = False) -> Callable[[], None]:
    """Let the second block raise once; returns what calls it off."""

    def raise_once(*_: object) -> None:
        hook.remove()
        raise kind

    block = TRANSFORMER.blocks[1]
    hook = (
        block.register_forward_hook(raise_once)
        if after
        else block.register_forward_pre_hook(raise_once)
    )
    return hook.remove


def declare(session: Session, which: str) -> contextlib.AbstractContextManager[None]:
    return session.denoising_pass() if which == "denoising" else session.context_pass()


@pytest.mark.parametrize("kind", [OutOfMemory, KeyboardInterrupt])
@pytest.mark.parametrize("after", [False, True], ids=["before a block", "after the last"])
@pytest.mark.parametrize("which", ["denoising", "context"])
def test_a_model_call_that_fails_breaks_the_session_for_good(
    kind: type[BaseException], after: bool, which: str
) -> None:
    def broken_chunk(session: Session) -> None:
        with session.chunk(3):
            fail(kind, after=after)
            with pytest.raises(kind), declare(session, which):
                call(latents())
            for again in ("denoising", "context"):
                with pytest.raises(SessionError, match="attach again"), declare(session, again):
                    call(latents())

    with attach(TRANSFORMER, TetherCache(1, 2, 3)) as session:
        with session.chunk(3), session.context_pass():
            call(latents())
        with pytest.raises(SessionError, match=f"{which} pass failed"):
            broken_chunk(session)
        with pytest.raises(SessionError, match="attach again"), session.chunk(3):
            pass
        assert session.committed() == 3


@pytest.mark.parametrize("which", ["denoising", "context"])
def test_a_failure_that_is_swallowed_inside_a_pass_is_noticed(which: str) -> None:
    def swallow(session: Session) -> None:
        with session.chunk(3), declare(session, which):
            fail(OutOfMemory)
            with contextlib.suppress(OutOfMemory):
                call(latents())
            with pytest.raises(SessionError, match="second call"):
                call(latents())

    with attach(TRANSFORMER, Window()) as session:
        with pytest.raises(SessionError, match=f"{which} pass has failed"):
            swallow(session)
        assert session.committed() == 0


def test_an_error_behind_a_finished_call_breaks_the_session() -> None:
    def swallow(session: Session) -> None:
        with session.chunk(3):
            with contextlib.suppress(ZeroDivisionError), session.denoising_pass():
                call(latents())
                raise ZeroDivisionError("by hand")
            with session.context_pass():
                call(latents())

    with (
        attach(TRANSFORMER, Window()) as session,
        pytest.raises(SessionError, match="ZeroDivisionError: by hand"),
    ):
        swallow(session)


def test_a_refused_call_changes_nothing_and_may_be_made_right() -> None:
    def run(mistakes: bool) -> Tensor:
        with attach(TRANSFORMER, TetherCache(1, 2, 3)) as session:
            for seed in range(4):
                with session.chunk(3):
                    for declared in (session.denoising_pass, session.context_pass):
                        if mistakes:
                            with pytest.raises(ValueError, match="got 2"), declared():
                                call(latents(frames=2))
                        with declared():
                            flow = call(latents(seed))
            return flow

    assert torch.equal(run(mistakes=True), run(mistakes=False))


def test_a_part_of_the_model_alone_cannot_be_called() -> None:
    with (
        attach(TRANSFORMER, Window()) as session,
        pytest.raises(SessionError, match="outside a call of the whole"),
        session.chunk(3),
        session.context_pass(),
    ):
        TRANSFORMER.forward(latents(), TIME, PROMPT)


class Strict(Window):
    """A policy that serves first chunks of 3 alone."""

    def check_chunk(self, committed: int, frames: int) -> None:
        if not committed and frames != 3:
            raise ValueError("the first chunk must be 3")
        super().check_chunk(committed, frames)


def test_a_stream_that_begins_late_is_checked_for_its_own_start() -> None:
    with attach(TRANSFORMER, Strict()) as session:
        with session.chunk(3), session.context_pass():
            call(latents())
        with session.chunk(2), session.context_pass():
            call(latents(frames=2))
            with pytest.raises(ValueError, match="first chunk must be 3"), session.stream("late"):
                call(latents(frames=2))
        with session.chunk(3), session.context_pass():
            call(latents())
            with session.stream("late"):
                late = call(latents(5))
        assert (session.committed(), session.committed("late")) == (8, 3)
    with attach(TRANSFORMER, Strict()) as session, session.chunk(3), session.context_pass():
        assert torch.equal(call(latents(5)), late)


def test_a_chunk_of_the_wrong_size_raises() -> None:
    with (
        attach(TRANSFORMER, Window()) as session,
        pytest.raises(ValueError, match="declared with 2 frames, got 3"),
        session.chunk(2),
        session.context_pass(),
    ):
        call(latents())


def test_a_policy_refuses_a_chunk_it_cannot_serve_while_the_user_loops() -> None:
    with attach(TRANSFORMER, TetherCache(1, 1, 3)) as session:
        with session.chunk(3), session.context_pass():
            call(latents())
        with pytest.raises(ValueError, match="reached by whole chunks"), session.chunk(3):
            pass


def _flows(names: list[str]) -> dict[str, list[Tensor]]:
    """Two chunks a stream, the streams interleaved within every pass."""
    texts = {"main": PROMPT, "negative": prompt(seed=11)}
    flows: dict[str, list[Tensor]] = {name: [] for name in names}
    with attach(TRANSFORMER, TetherCache(1, 2, 3)) as session:
        for chunk in range(4):
            with session.chunk(3):
                for declared in (session.denoising_pass, session.context_pass):
                    with declared():
                        for name in names:
                            with session.stream(name):
                                x = latents(seed=chunk if name == "main" else 50 + chunk)
                                flows[name].append(call(x, texts[name]))
    return flows


def test_streams_do_not_see_each_other() -> None:
    both = _flows(["main", "negative"])
    for name in both:
        for together, alone in zip(both[name], _flows([name])[name], strict=True):
            assert torch.equal(together, alone)


def test_text_is_projected_once_a_prompt_and_again_when_it_changes() -> None:
    calls = []
    counter = TRANSFORMER.condition_embedder.text_embedder.register_forward_hook(
        lambda *_: calls.append(1)
    )
    keys = TRANSFORMER.blocks[0].attn2.to_k.register_forward_hook(lambda *_: calls.append(2))
    text = PROMPT.clone()
    try:
        with attach(TRANSFORMER, Window()) as session:
            for _ in range(2):
                with session.chunk(3):
                    with session.denoising_pass():
                        call(latents(), text)
                    with session.context_pass():
                        call(latents(), text)
            assert calls == [1, 2]
            text.mul_(2)  # the same tensor, changed in place
            with session.chunk(3), session.context_pass():
                changed = call(latents(), text)
            assert calls == [1, 2, 1, 2]
    finally:
        counter.remove()
        keys.remove()
    with attach(TRANSFORMER, Window()) as session:
        for _ in range(2):
            with session.chunk(3), session.context_pass():
                call(latents(), PROMPT)
        with session.chunk(3), session.context_pass():
            assert torch.allclose(changed, call(latents(), text.clone()), atol=1e-6)


def test_fused_projections_give_the_same() -> None:
    def run() -> Tensor:
        with attach(TRANSFORMER, Window()) as session, session.chunk(3), session.context_pass():
            return call(latents())

    plain = run()
    TRANSFORMER.fuse_qkv_projections()
    try:
        torch.testing.assert_close(run(), plain)
    finally:
        TRANSFORMER.unfuse_qkv_projections()


def test_image_to_video_models_are_refused() -> None:
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(
        num_attention_heads=1,
        attention_head_dim=12,
        text_dim=8,
        ffn_dim=8,
        num_layers=1,
        image_dim=8,
        added_kv_proj_dim=12,
    )
    with pytest.raises(ValueError, match="image cross-attention"), attach(model, Window()):
        pass
