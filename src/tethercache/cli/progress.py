"""What `generate` prints: how videos are made, how far they are, and what was made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from tethercache.cli.stop import leaves
from tethercache.fit.execution import counted
from tethercache.policies import POLICIES
from tethercache.render.batch import IncompleteBatchError, Job
from tethercache.text import printable

if TYPE_CHECKING:
    from tethercache.cache import Policy
    from tethercache.render import Loaded, Recording
    from tethercache.video import Sidecar


def say_how(console: Console, loaded: Loaded) -> None:
    """Print what all videos of an order have in common."""
    import torch

    order, placement, execution = loaded.order, loaded.placement, loaded.execution
    console.print(
        f"policy [bold]{POLICIES.spec(order.policy)}[/] · "
        f"model {escape(printable(order.request.model))} · "
        f"seed {order.request.seed} · {placement.device} {placement.dtype} · "
        f"{counted(torch.get_num_threads(), 'thread')} · attention {execution.attention}"
        f"{' · compiled' * execution.compile}{' · overlapped' * placement.overlap} · "
        f"{order.plan.num_frames} frames at {order.parts.settings.fps} fps",
        highlight=False,
        soft_wrap=True,
    )


@contextmanager
def showing(console: Console, path: Path, loaded: Loaded) -> Iterator[Callable[[Recording], None]]:
    """A line of progress in the block; yields what moves it on by a chunk."""
    columns = (
        TextColumn(
            "{task.description}", markup=False, table_column=Column(no_wrap=True, max_width=16)
        ),
        BarColumn(bar_width=12),
        TextColumn("{task.completed:.0f}/{task.total:.0f} chunks"),
        _Done(loaded.order.parts.settings.fps),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        TextColumn("{task.fields[drift]}"),
    )
    from tethercache.video.target import partial_path

    with Progress(*columns, console=console, transient=True) as progress:
        chunks = loaded.order.plan.chunks.num_chunks
        task = progress.add_task(printable(path.name), total=chunks, frames=0, drift="")

        def show(recording: Recording) -> None:
            leaves(f"{partial_path(path)} keeps what is made, --resume goes on with it")
            drift = recording.drift
            progress.update(
                task,
                completed=recording.chunks,
                frames=recording.num_frames,
                drift=f"· {drift}" if drift else "",
            )

        yield show


class _Done(ProgressColumn):
    """Seconds of video done, and pixel frames a second of work."""

    def __init__(self, fps: int) -> None:
        super().__init__()
        self._fps = fps

    def render(self, task: Task) -> Text:
        frames = task.fields["frames"]
        speed = frames / task.elapsed if task.elapsed else 0.0
        return Text(f"{frames / self._fps:.1f} s done, {speed:.1f} frames/s", no_wrap=True)


def summary(job: Job, record: Sidecar) -> dict[str, Any]:
    """What the JSON line says about a video."""
    return {
        "path": str(job.path),
        "prompt": record.prompt,
        "sample": record.sample,
        "seed": record.seed,
        "policy": record.policy,
        "num_frames": record.num_frames,
        "seconds": record.num_frames / float(record.fps),
        "wall_seconds": round(record.wall_seconds, 3),
        "frames_per_second": round(record.frames_per_second, 2),
        "frames_hash": record.frames_hash,
        **({"drift": record.settings["drift"]} if "drift" in record.settings else {}),
    }


def say_made(made: dict[str, Any], policy: Policy) -> None:
    """Print a `summary`."""
    print(
        printable(
            f"{made['path']}: {made['num_frames']} frames, {made['seconds']:g} s of video in "
            f"{made['wall_seconds']:.1f} s, {made['frames_per_second']:.1f} frames/s, "
            f"policy {POLICIES.spec(policy)}"
        )
    )
    if "drift" in made:
        changes = made["drift"]["changes"].items()
        known = ", ".join(f"{name} {value:.3g}" for name, value in changes if value is not None)
        print(f"drift: {made['drift']['verdict'] or 'too short to say'} {known}".rstrip())


def finish(
    made: Sequence[dict[str, Any]], kept: Sequence[Path], failed: Sequence[Path], *, as_json: bool
) -> None:
    """Say how a batch went.

    Raises:
        IncompleteBatchError: videos are missing.
    """
    for path in kept:
        print(printable(f"{path}: made before, kept"))
    if as_json:
        print(
            json.dumps(
                {"videos": [*made], "kept": [*map(str, kept)], "failed": [*map(str, failed)]}
            )
        )
    if failed:
        total = len(made) + len(kept) + len(failed)
        raise IncompleteBatchError(
            f"{len(failed)} of {total} videos were not made: {', '.join(map(str, failed))}"
        )
