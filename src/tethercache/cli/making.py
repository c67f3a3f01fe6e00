"""From videos to make to what was made, and what is said of it meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tethercache.cli.failures import report
from tethercache.cli.output import quiet_libraries
from tethercache.cli.progress import finish, say_how, say_made, showing, summary
from tethercache.cli.stop import leaves
from tethercache.render import check, prepare
from tethercache.render.batch import Job, Resume, check_names, check_room, made_before
from tethercache.text import printable

if TYPE_CHECKING:
    from tethercache.render import Order


def carry_out(
    jobs: Sequence[Job], *, overwrite: bool = False, resume: Resume = Resume.NO, as_json: bool
) -> None:
    """Make videos of one order, and say how it went.

    Everything that can be wrong is found out before weights are loaded.

    Raises:
        IncompleteBatchError: some of several were not made.
        Exception: whatever kept the only one from being made.
    """
    blocked = check_names(jobs, overwrite=overwrite, resume=resume)
    checked = check(jobs[0].request)
    quiet_libraries()
    order = prepare(checked)
    kept = made_before(jobs, order, blocked, overwrite=overwrite)
    failed = [path for path in blocked if path not in kept]
    for path in failed:
        if len(jobs) == 1:
            raise blocked[path]
        report(blocked[path])
    left = [job for job in jobs if job.path not in {*blocked, *kept}]
    several = len(jobs) > 1
    made = _make(left, order, failed, overwrite, resume, several=several) if left else []
    finish(made, kept, failed, as_json=as_json)


def _make(
    jobs: Sequence[Job],
    order: Order,
    failed: list[Path],
    overwrite: bool,
    resume: Resume,
    *,
    several: bool,
) -> list[dict[str, Any]]:
    """Make videos, and say what was made; those of several that fail are added to `failed`."""
    from tethercache.render import load
    from tethercache.render.durable import latest
    from tethercache.video import command_line

    check_room(jobs, order)
    if several:
        jobs[0].path.parent.mkdir(parents=True, exist_ok=True)
    begun = None
    if resume is not Resume.NO:
        begun = next(filter(None, (latest(job.path) for job in jobs)), None)
    loaded = load(order, [job.request.prompt for job in jobs], like=begun)
    console, made = Console(stderr=True), []
    say_how(console, loaded)
    for job in jobs:
        try:
            with showing(console, job.path, loaded) as show:
                record = loaded.make(
                    job.request,
                    job.path,
                    overwrite=overwrite,
                    resume=resume,
                    command=command_line(keep=job.request.prompt),
                    told=show,
                    said=partial(_say, console, job.path),
                )
        except Exception as error:
            if not several:
                raise
            report(error, where=str(job.path))  # the next one may well be made
            failed.append(job.path)
        else:
            made.append(summary(job, record))
            say_made(made[-1], order.policy)
        leaves("")
    return made


def _say(console: Console, path: Path, text: str) -> None:
    if text:
        console.print(printable(f"{path}: {text}"), markup=False, highlight=False, soft_wrap=True)
