"""How passes are executed: traced whole, compiled by blocks, captured, and without waste."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from tests.policies.runs import LATENT_SIZE, latents_of, prompt
from tests.toys import toy_transformer
from tethercache.backbones import Session, attach
from tethercache.cache import Policy
from tethercache.policies.tethercache import TetherCache
from tethercache.policies.window import Window
from tethercache.rollout import Plan

POLICIES = [Window(sink=1, window=6), TetherCache(1, 2, 3)]
PROMPT = prompt()
TIME = torch.tensor([500.0])


def latents(seed: int) -> Tensor:
    return torch.randn(1, 4, 3, *LATENT_SIZE, generator=torch.Generator().manual_seed(seed))


def chunk(session: Session, call: Callable[..., Any], seed: int, text: Tensor = PROMPT) -> Tensor:
    """Two denoising passes and the context pass of a chunk; returns the last flow."""
    with torch.no_grad(), session.chunk(3):
        for step in range(2):
            with session.denoising_pass():
                flow = call(latents(10 * seed + step), TIME, text, return_dict=False)[0]
        with session.context_pass(output=False):
            call(flow, TIME, text, return_dict=False)
    return flow


@pytest.mark.parametrize("policy", POLICIES, ids=["window", "tethercache"])
def test_a_steady_chunk_is_traced_whole_and_gives_the_same(policy: Policy) -> None:
    def run(whole: bool) -> Tensor:
        torch.compiler.reset()
        model = toy_transformer()
        traced = torch.compile(model, fullgraph=True, backend="eager") if whole else model
        with attach(model, policy, chunk_size=3) as session:
            for seed in range(3):
                chunk(session, model, seed)
            return torch.cat([chunk(session, traced, seed) for seed in (3, 4)], dim=2)

    assert torch.equal(run(whole=True), run(whole=False))


def test_compiled_blocks_share_their_code_and_give_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.compiler.reset()
    counter = CompileCounterWithBackend("eager")
    compile_block = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **given: compile_block(self, backend=counter, **given)
    )

    def run(layers: int, compile_blocks: bool) -> Tensor:
        model = toy_transformer(layers=layers)
        with attach(model, POLICIES[1], chunk_size=3, compile_blocks=compile_blocks) as session:
            made = torch.cat([chunk(session, model, seed) for seed in range(5)], dim=2)
        assert all(block._compiled_call_impl is None for block in model.blocks)
        return made

    assert torch.equal(run(2, compile_blocks=True), run(2, compile_blocks=False))
    pieces = counter.frame_count
    assert 0 < pieces <= 12
    assert torch.equal(run(5, compile_blocks=True), run(5, compile_blocks=False))
    assert counter.frame_count == pieces  # neither more layers nor a second video compile again


def test_the_context_pass_ends_with_the_last_commit() -> None:
    model = toy_transformer(layers=3)
    counts: dict[bool, int] = {}
    caches: dict[bool, list[Tensor]] = {}
    for output in (True, False):
        with torch.no_grad(), attach(model, POLICIES[1], chunk_size=3) as session:
            for seed in range(4):
                with session.chunk(3):
                    with session.denoising_pass():
                        model(latents(seed), TIME, PROMPT)
                    counter = FlopCounterMode(display=False)
                    countable = sdpa_kernel(SDPBackend.MATH)  # the fused one is not counted on CPUs
                    with session.context_pass(output=output), counter, countable:
                        flow = model(latents(seed), TIME, PROMPT).sample
            assert flow.isnan().all() == (not output)
            layers = session.caches()
            caches[output] = [x for c in layers for x in (c.frames, c.rotated, c.frame_index)]
        counts[output] = counter.get_total_flops()
    assert all(torch.equal(*pair) for pair in zip(*caches.values(), strict=True))

    width, ffn, tokens, text, read = 24, 32, 12, PROMPT.shape[1], 6 * 4
    attention = 2 * tokens * 2 * width * (read + text)
    linear = 2 * tokens * width * (width + 2 * width + 2 * ffn + 4 * 4)  # out; q, out; ffn; head
    assert counts[True] - counts[False] == attention + linear


def test_a_model_with_offload_hooks_inside_its_blocks_is_run_whole() -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    ran = []

    class Hook(ModelHook):
        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            ran.append(module)
            return args, kwargs

    model = toy_transformer()
    expected = latents_of(POLICIES[1], Plan(12), transformer=model)
    hooked = model.blocks[-1].ffn.net[2]
    add_hook_to_module(hooked, Hook())
    assert torch.equal(latents_of(POLICIES[1], Plan(12), transformer=model), expected)
    assert len(ran) == 4 * 3  # chunks and passes
    remove_hook_from_module(hooked)


class NoHostTensors(TorchDispatchMode):
    """Refuses operations on tensors of the host, copies of them among these."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                assert tensor.is_meta, f"{func} takes a tensor of the host"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("policy", POLICIES, ids=["window", "tethercache"])
def test_a_steady_chunk_takes_nothing_from_the_host(policy: Policy) -> None:
    """As a CUDA graph asks for it; the device here is one without storage."""
    model, text, told = toy_transformer().to("meta"), PROMPT.to("meta"), TIME.to("meta")
    noisy = latents(0).to("meta")
    with torch.no_grad(), attach(model, policy, chunk_size=3) as session:
        for number in range(5):
            with session.chunk(3), NoHostTensors() if number > 2 else nullcontext():
                for _ in range(2):
                    with session.denoising_pass():
                        model(noisy, told, text)
                with session.context_pass(output=False):
                    model(noisy, told, text)


@pytest.mark.gpu
@pytest.mark.parametrize("policy", POLICIES, ids=["window", "tethercache"])
def test_a_steady_chunk_is_captured_in_a_cuda_graph(policy: Policy) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    model, text, told = toy_transformer().cuda(), PROMPT.cuda(), TIME.cuda()
    inputs = torch.stack([latents(seed) for seed in range(3)]).cuda()

    def steady(session: Session, given: Tensor) -> list[Tensor]:
        flows = []
        with session.chunk(3):
            for noisy in given[:2]:
                with session.denoising_pass():
                    flows.append(model(noisy, told, text, return_dict=False)[0])
            with session.context_pass(output=False):
                model(given[2], told, text, return_dict=False)
        return flows

    def run(capture: bool) -> list[Tensor]:
        with torch.no_grad(), attach(model, policy, chunk_size=3) as session:
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):  # where a capture has to be warmed up
                for factor in range(4):
                    steady(session, inputs * (1 + factor))
            torch.cuda.current_stream().wait_stream(side)
            if not capture:
                return [x for factor in (7, 8) for x in steady(session, inputs * factor)]
            given, graph, made = inputs.clone(), torch.cuda.CUDAGraph(), []
            with torch.cuda.graph(graph):
                flows = steady(session, given)
            for factor in (7, 8):  # every replay is the next chunk
                given.copy_(inputs * factor)
                graph.replay()
                made += [flow.clone() for flow in flows]
            return made

    for captured, eager in zip(run(capture=True), run(capture=False), strict=True):
        torch.testing.assert_close(captured, eager, atol=1e-4, rtol=1e-4)
