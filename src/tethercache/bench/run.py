"""The measurement: every case, all contestants in turn, chunk by chunk."""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from tethercache.bench.cases import Case, Model
from tethercache.bench.contestants import CACHE, DECODE, TRANSFORMER, Contestant, Lap, MemoryUse
from tethercache.bench.flops import chunk_flops
from tethercache.bench.meters import Clock, Timeline, matrix_peak, memory_meter
from tethercache.bench.report import BARE, CONTROL, FIFO, SINK, Report, Row, verdicts
from tethercache.bench.statistics import Ratio, paired_ratio, spread
from tethercache.cache import Policy
from tethercache.fit.execution import ATTENTION, choose_attention, counted, use_threads
from tethercache.policies import POLICIES
from tethercache.policies.window import Window


def measure(
    cases: Mapping[str, Case],
    policies: Sequence[str],
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    chunks: int = 9,
    threads: int | None = None,
    attention: str = "auto",
    compile_blocks: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Time policies against windows of the same size and against the bare transformer.

    Args:
        cases: by name.
        policies: specs, such as `tethercache:tau=0`; all must have the same K.
        device: where to compute.
        dtype: number format; None: that of each case.
        chunks: timed chunks of each contestant, and so rounds.
        threads: PyTorch's, which it keeps; None: on a CPU `execution.default_threads` of each case.
        attention: backend, see `execution.choose_attention`.
        compile_blocks: compile the transformer blocks. The bare transformer is not compiled, so it
            does not take part.
        say: is told what is going on, a line at a time.

    Returns:
        The results, the cases in their order.

    Raises:
        ValueError: if the policies cannot be compared or cannot serve a model's chunks, or if the
            attention backend cannot be used.
    """
    field = contestants(policies, bare=not compile_blocks)
    peaks: dict[str, float] = {}
    backends: dict[str, str] = {}
    used: dict[str, int] = {}
    rows: list[Row] = []
    for name, case in cases.items():
        default = "float32" if device.type == "cpu" else "bfloat16"
        chosen = dtype or getattr(torch, case.dtype or default)
        say(f"{name}: {case.summary}, {_name(chosen)}")
        model = case.build(device, chosen)
        use_threads(threads, device, model.activations)
        used[name] = torch.get_num_threads()
        kind = f"{_name(chosen)} with {counted(used[name], 'thread')}"
        if kind not in peaks:
            say(f"matrix product in {kind}")
            peaks[kind] = matrix_peak(device, chosen)
        head_dim = model.transformer.config.attention_head_dim
        backends[name] = choose_attention(attention, device, chosen, head_dim)
        budget = next(policy.budget for policy in field.values() if policy is not None)
        entered = [
            Contestant(
                label,
                policy,
                model,
                budget=budget,
                chunks=1 + chunks + case.profiled,
                attention=ATTENTION[backends[name]],
                compile_blocks=compile_blocks,
            )
            for label, policy in field.items()
        ]
        results = _run(entered, model, device, chunks, case.profiled, say)
        flops = chunk_flops(
            model.transformer.config,
            tokens_per_frame=model.tokens_per_frame,
            frames=model.settings.chunk_size,
            budget=budget,
            text=model.prompt_embeds.shape[1],
            steps=len(model.settings.sigmas),
            context_stops=True,
        )
        rows += _rows(name, case, model, results, flops, peaks[kind], device, chosen)
        del model, entered
    return Report(
        rows=rows,
        verdicts=verdicts(rows, cases),
        device=device,
        chunks=chunks,
        peaks=peaks,
        threads=used,
        attention=backends,
        compiled=compile_blocks,
    )


def contestants(policies: Sequence[str], *, bare: bool = True) -> dict[str, Policy | None]:
    """The policies by name, after windows of the same K and S, and None for the bare transformer.

    A policy that equals one of these windows is there once.

    Raises:
        ValueError: for an unknown policy, or if K differs between the policies.
    """
    parsed = [POLICIES.parse(spec) for spec in policies]
    if not parsed:
        raise ValueError("there must be a policy to measure")
    budget = parsed[0].budget
    for policy in parsed:
        if policy.budget != budget:
            raise ValueError(
                f"policies are compared at the same K: `{POLICIES.spec(policy)}` reads "
                f"{policy.budget} latent frames, `{POLICIES.spec(parsed[0])}` {budget}"
            )
    fifo = Window(window=budget)
    sink = Window(sink=max(policy.sink_size for policy in parsed), window=budget)
    field: dict[str, Policy | None] = {BARE: None} if bare else {}
    field |= {FIFO: fifo, SINK: sink, CONTROL: sink}
    return field | {POLICIES.spec(p): p for p in parsed if p not in (fifo, sink)}


@dataclass(frozen=True)
class Result:
    """What was measured of one contestant."""

    laps: list[Lap]
    memory: MemoryUse
    phases: dict[str, float]


@torch.no_grad()
def _run(
    entered: Sequence[Contestant],
    model: Model,
    device: torch.device,
    chunks: int,
    profiled: int,
    say: Callable[[str], None],
) -> dict[str, Result]:
    clock = Clock(device)
    known = [*model.tensors(), model.prompt_embeds]
    memory: dict[str, MemoryUse] = {}
    laps: dict[str, list[Lap]] = {contestant.name: [] for contestant in entered}
    phases: dict[str, dict[str, float]] = {}
    order = list(entered)
    shuffle = random.Random(0).shuffle
    with ExitStack() as stack:
        for contestant in entered:
            say(f"  filling the cache of {contestant.name}")
            contestant.enter(stack)
            memory[contestant.name] = contestant.warm_up(memory_meter(device, known))
        say("  a round that does not count")
        for contestant in entered:
            contestant.lap(clock)
        with _no_collection():
            for number in range(chunks):
                say(f"  round {number + 1} of {chunks}")
                # a new order each time, so that nobody always follows the same neighbour
                shuffle(order)
                for contestant in order:
                    laps[contestant.name].append(contestant.lap(clock))
        say("  where the time goes")
        for contestant in entered:
            taken = [contestant.profile(clock) for _ in range(profiled)]
            names = dict.fromkeys(name for found in taken for name in found)
            phases[contestant.name] = {
                name: statistics.median(found.get(name, 0.0) for found in taken) for name in names
            }
    return {c.name: Result(laps[c.name], memory[c.name], phases[c.name]) for c in entered}


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector comes when it likes, and not to everybody alike."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _rows(
    case_name: str,
    case: Case,
    model: Model,
    results: Mapping[str, Result],
    flops: int,
    peak: float,
    device: torch.device,
    dtype: torch.dtype,
) -> list[Row]:
    """The rows of one case's table."""
    # on a CPU what others do in between must not count; a GPU works while its host does nothing
    work = {
        name: [lap.made.cpu if device.type == "cpu" else lap.made.wall for lap in result.laps]
        for name, result in results.items()
    }
    rows = []
    for name, result in results.items():
        wall = statistics.median(lap.made.wall for lap in result.laps)
        decodes = [lap.decoded.wall for lap in result.laps if lap.decoded is not None]
        decode = statistics.median(decodes) if decodes else None
        reached = flops / wall
        ratios: dict[str, Ratio | None] = {
            other: paired_ratio(work[name], work[other]) if other in work else None
            for other in (FIFO, SINK, BARE)
        }
        rows.append(
            Row(
                case=case_name,
                policy=name,
                wall_ms=1e3 * wall,
                cpu_ms=1e3 * statistics.median(lap.made.cpu for lap in result.laps),
                spread=spread(work[name]),
                laps_ms=[round(1e3 * seconds, 3) for seconds in work[name]],
                to_fifo=ratios[FIFO],
                to_sink=ratios[SINK],
                to_bare=ratios[BARE],
                split_ms=_split(result.phases, wall, decode),
                cache_ms=_parts(result.phases, wall),
                decode_ms=None if decode is None else 1e3 * decode,
                pixel_frames=model.pixel_frames,
                peak_bytes=result.memory.peak,
                state_bytes=result.memory.state,
                admission_bytes=result.memory.admission,
                flops=flops,
                flops_per_second=reached,
                share_of_peak=reached / peak,
                dtype=_name(dtype),
            )
        )
    return rows


def _scale(phases: Mapping[str, float], wall: float) -> float:
    """Milliseconds of a timed chunk for a second of a profiled one, decode aside."""
    return 1e3 * wall / sum(seconds for name, seconds in phases.items() if name != DECODE)


def _split(phases: Mapping[str, float], wall: float, decode: float | None) -> dict[str, float]:
    scale = _scale(phases, wall)
    cache = sum(seconds for name, seconds in phases.items() if name.startswith(CACHE))
    return {
        "transformer": scale * phases.get(TRANSFORMER, 0.0),
        "cache": scale * cache,
        "decode": 1e3 * (decode or 0.0),
        "waiting": scale * phases.get(Timeline.REST, 0.0),
    }


def _parts(phases: Mapping[str, float], wall: float) -> dict[str, float]:
    scale = _scale(phases, wall)
    prefix = f"{CACHE}: "
    return {
        name.removeprefix(prefix): scale * seconds
        for name, seconds in phases.items()
        if name.startswith(prefix)
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
