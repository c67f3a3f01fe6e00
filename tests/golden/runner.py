"""Re-run the official code's runs through this project's public code paths and compare.

A folder has the format that `tests/golden/README.md` describes: `model.safetensors`,
`inputs.safetensors` and one `run_*.safetensors` a run, whose metadata names the options.

Axes in the files: `[B, F, C, h, w]`; in the project: `[B, C, F, h, w]`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchLCMScheduler, WanTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tethercache.backbones import Session, attach, float64_sinusoid
from tethercache.cache import Bank, Policy
from tethercache.models.checkpoints.names import to_diffusers
from tethercache.policies.tethercache import TetherCache
from tethercache.policies.window import Window
from tethercache.rollout import Plan, Rollout, Steps

CHUNK = 3


@dataclass(frozen=True)
class Tolerance:
    """Largest absolute differences allowed with one way of computing the time sinusoid.

    Attributes:
        latents: of the clean latents.
        caches: of keys and values.
        scores: of masses, diversities and scores.
    """

    latents: float
    caches: float
    scores: float


TOLERANCES = {"float32": Tolerance(5e-5, 1e-4, 2e-5), "float64": Tolerance(1e-5, 2e-5, 1e-6)}


class Refused(ValueError):
    """This project does not serve the options of a run, and says why."""


@dataclass(frozen=True)
class Comparison:
    """Largest absolute differences between one run and its golden file.

    What the file does not hold is None; it always holds latents.
    """

    latents: float
    caches: float | None
    scores: float | None
    indices_equal: bool | None

    def within(self, tolerance: Tolerance) -> bool:
        """Whether everything that was compared agrees."""
        return self.indices_equal is not False and all(
            difference is None or difference <= limit
            for difference, limit in (
                (self.latents, tolerance.latents),
                (self.caches, tolerance.caches),
                (self.scores, tolerance.scores),
            )
        )


class InjectedNoise:
    """Stored noise behind the interface of the counter-based source."""

    def __init__(self, noise: Tensor, renoise: Tensor, starts: Mapping[int, int]) -> None:
        self._noise, self._renoise, self._starts = noise, renoise, starts

    def __call__(self, chunk: int, draw: int, shape: tuple[int, ...]) -> Tensor:
        frames = shape[1]
        if draw == 0:
            start = self._starts[chunk]
            frames_first = self._noise[:, start : start + frames]
        else:
            frames_first = self._renoise[None, chunk, draw - 1, :frames]
        return frames_first.movedim(1, 2)


def load_transformer(folder: Path) -> WanTransformer3DModel:
    """The golden model in diffusers' class, from a state dict with the official names."""
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    transformer = WanTransformer3DModel(
        patch_size=tuple(config.get("patch_size", (1, 2, 2))),
        num_attention_heads=config["num_heads"],
        attention_head_dim=config["dim"] // config["num_heads"],
        in_channels=config.get("in_dim", 16),
        out_channels=config.get("out_dim", 16),
        text_dim=config["text_dim"],
        freq_dim=config["freq_dim"],
        ffn_dim=config["ffn_dim"],
        num_layers=config["num_layers"],
        cross_attn_norm=config.get("cross_attn_norm", True),
        eps=config.get("eps", 1e-6),
    )
    transformer.load_state_dict(to_diffusers(load_file(path)), strict=True)
    return transformer.eval().requires_grad_(False)


def _policy(options: Mapping[str, str]) -> Policy:
    budget, sink, recent = (
        int(options.get(name, default)) for name, default in (("K", 21), ("S", 3), ("R", 4))
    )
    if options.get("backend") == "baseline":
        return Window(sink=sink, window=budget, positions="absolute")
    return TetherCache(
        sink=sink,
        memory=budget - sink - recent,
        recent=recent,
        alpha=float(options.get("alpha", 0.35)),
        tau=float(options.get("tau", 0.35)),
        temperature=float(options.get("temp", 1.0)),
    )


def _plan(options: Mapping[str, str], frames: int) -> Plan:
    return Plan(
        num_latent_frames=frames,
        chunk_size=CHUNK,
        first_chunk_size=1 if options.get("independent_first_frame") == "True" else None,
        prefix=frames - int(options.get("noise_frames", frames)),
    )


@dataclass(frozen=True)
class Repeated:
    """One golden run, ready to be made again.

    Attributes:
        golden: the tensors of its file.
        policy: what its options describe.
        plan: its chunks.
        session: remembers.
        rollout: makes the chunks.
    """

    golden: Mapping[str, Tensor]
    policy: Policy
    plan: Plan
    session: Session
    rollout: Rollout


@contextmanager
def repeat(folder: Path, path: Path, sinusoid: str = "float32") -> Iterator[Repeated]:
    """Begin one golden run; the arguments are those of `run`."""
    with safe_open(path, "pt") as file:
        options = file.metadata()
        _, frames, *_ = file.get_slice("latents").get_shape()
    try:
        policy, plan = _policy(options), _plan(options, frames)
        plan.check(policy)
    except ValueError as error:
        raise Refused(str(error)) from None
    golden, inputs = load_file(path), load_file(folder / "inputs.safetensors")
    transformer = load_transformer(folder)
    starts = {c.generated: c.start - plan.prefix for c in plan if c.generated is not None}
    precise = float64_sinusoid(transformer) if sinusoid == "float64" else nullcontext()
    with torch.no_grad(), precise, attach(transformer, policy, chunk_size=CHUNK) as session:
        rollout = Rollout(
            transformer,
            session,
            plan,
            Steps.from_scheduler(FlowMatchLCMScheduler(shift=5.0), [1.0, 0.75, 0.5, 0.25]),
            InjectedNoise(inputs["noise"], inputs["renoise"], starts),
            inputs["prompt_embeds"],
            latent_size=tuple(golden["latents"].shape[-2:]),
            context_noise=float(options.get("context_noise", 0)),
            prefix=inputs["initial_latent"].movedim(1, 2)[:, :, : plan.prefix]
            if plan.prefix
            else None,
        )
        yield Repeated(golden, policy, plan, session, rollout)


def run(folder: Path, path: Path, sinusoid: str = "float32") -> Comparison:
    """Repeat one golden run.

    Args:
        folder: where the model and the inputs lie.
        path: the run's file.
        sinusoid: `float32` as in diffusers or `float64` as in the official code.

    Raises:
        Refused: if the policy cannot serve the run's geometry, before inputs and model are read.
    """
    with repeat(folder, path, sinusoid) as repeated:
        meter, layers = _Meter(repeated.golden, repeated.policy), repeated.session.caches()
        for bank in layers:
            bank.observer = meter.told
        made = [
            (latents, meter.look(i, layers))[0]
            for i, latents in zip(range(repeated.plan.num_chunks), repeated.rollout, strict=True)
        ]
    return Comparison(
        latents=_difference(torch.cat(made, dim=2), repeated.golden["latents"].movedim(1, 2)),
        caches=meter.caches,
        scores=meter.scores,
        indices_equal=meter.indices_equal,
    )


class _Meter:
    """Compares the caches after every chunk with what the golden file holds."""

    def __init__(self, golden: Mapping[str, Tensor], policy: Policy) -> None:
        self.golden, self.policy = golden, policy
        self.caches: float | None = None
        self.scores: float | None = None
        self.indices_equal: bool | None = None
        self._decisions: dict[int, Mapping[str, Any]] = {}
        self._events = {int(c): e for e, c in enumerate(golden.get("grab_chunk", []))}

    def told(self, event: str, bank: Bank, facts: Mapping[str, Any]) -> None:
        """Remember the last decision of each layer."""
        if event == "recall":
            self._decisions[bank.layer] = facts

    def look(self, chunk: int, layers: list[Bank]) -> None:
        if "mem_idx" in self.golden and isinstance(self.policy, TetherCache):
            for layer, cache in enumerate(layers):
                self._memory(self.golden["mem_idx"][chunk, layer], cache)
        for layer, cache in enumerate(layers):
            self._contents(f"l{layer}_chunk{chunk:02d}", cache)
            if chunk in self._events:
                self._decision(self._events[chunk], layer)

    def _memory(self, expected: Tensor, cache: Bank) -> None:
        policy = self.policy
        assert isinstance(policy, TetherCache)
        if cache.readable < cache.budget:
            self._indices(bool((expected == -1).all()))
            return
        memory = cache.frame_index[0, policy.sink : policy.sink + policy.memory]
        self._indices(torch.equal(memory.sort().values, expected.long()))

    def _contents(self, suffix: str, cache: Bank) -> None:
        if f"cache_k_{suffix}" not in self.golden:
            return
        in_time = cache.frame_index[0, : cache.readable].argsort()
        # the official baseline stores rotated keys, the official TetherCache unrotated ones
        keys = cache.key if isinstance(self.policy, TetherCache) else cache.rotated
        for name, tensor in (("k", keys), ("v", cache.value)):
            ours = tensor[0, in_time].flatten(0, 1)
            theirs = self.golden[f"cache_{name}_{suffix}"][: len(ours)]
            self.caches = _larger(self.caches, _difference(ours, theirs))

    def _decision(self, event: int, layer: int) -> None:
        decision = self._decisions.get(layer)
        if decision is None:
            self._indices(False)
            return
        order = decision["index"][0].argsort()
        theirs = self.golden["grab_cand_idx"][event, layer].long()
        their_order = theirs.argsort()
        self._indices(torch.equal(decision["index"][0, order], theirs[their_order]))
        for name, ours in (
            ("grab_mass", decision["mass"]),
            ("grab_div", decision["diversity"]),
            ("grab_score", decision["score"]),
        ):
            expected = self.golden[name][event, layer][their_order]
            self.scores = _larger(self.scores, _difference(ours[0, order], expected))
        keep = self.golden["grab_keep"][event, layer][their_order].bool()
        self._indices(torch.equal(decision["keep"][0, order], keep))

    def _indices(self, equal: bool) -> None:
        self.indices_equal = equal and self.indices_equal is not False


def _larger(known: float | None, difference: float) -> float:
    return difference if known is None else max(known, difference)


def _difference(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    difference = (ours.float() - theirs.float()).abs().max().item()
    return difference if difference == difference else float("inf")
