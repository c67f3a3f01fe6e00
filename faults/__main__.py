"""`python -m faults`: a campaign, which goes on where it was stopped, and its log.

What happens in a trial depends on its seed, which the log names, but for what depends on time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["COLUMNS"] = "1000"
for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

from faults.command import preload  # noqa: E402 - variables first
from faults.kinds import KINDS  # noqa: E402 - variables first
from faults.log import write_log  # noqa: E402 - variables first
from faults.trial import PROMPTS, Bench, Finding, NotHereError, Trial, Video, videos  # noqa: E402 - variables first

SHORT = (
    "snapshot 1",
    "finish 1",
    "again 1",
    "going on 4",
    "stopped 1",
    "full 1",
    "damage 1",
    "writers 1",
    "batch 1",
)


def main() -> int:
    """Run what is left of a campaign; 1 if there were findings."""
    arguments = _arguments()
    # in the background of a shell it is ignored, and so it would be by the runs
    signal.signal(signal.SIGINT, signal.default_int_handler)
    state: Path = arguments.state
    state.mkdir(parents=True, exist_ok=True)
    kept = state / f"{arguments.seed}.jsonl"
    outcomes = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    command = " ".join(("python -m faults", *sys.argv[1:]))
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        bench = _prepared(Path(folder))
        for name, number in _plan(arguments, outcomes):
            outcome = _carried_out(bench, arguments, name, number)
            outcomes.append(outcome)
            with kept.open("a") as file:
                file.write(json.dumps(outcome) + "\n")
            said = outcome["finding"] or "; ".join(outcome["story"])
            print(f"{name} {number}: {said}", flush=True)
            write_log(arguments.log, command, outcomes)
    return 1 if any(one["finding"] for one in outcomes) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults", description=main.__doc__)
    parser.add_argument("--kills", type=int, default=60, help="SIGKILLs at least")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="only this one")
    parser.add_argument("--number", type=int, help="only the trial of this number of the kinds")
    parser.add_argument("--short", action="store_true", help="a few trials, as in the suite")
    parser.add_argument("--log", type=Path, default=Path("faults/log.md"))
    parser.add_argument("--state", type=Path, default=Path(".runs/faults"), help="how far it is")
    arguments = parser.parse_args()
    arguments.log, arguments.state = arguments.log.absolute(), arguments.state.absolute()
    return arguments


def _prepared(folder: Path) -> Bench:
    """A toy model, and everything imported that the command imports."""
    from tests.toys import toy_pipeline

    bench = Bench(folder, folder / "model")
    toy_pipeline().save_pretrained(bench.model)
    bench.prompts.write_text("\n".join(PROMPTS) + "\n")
    work = folder / "imports"
    work.mkdir()
    preload(work, Video(6, ()).arguments(bench.model, bench.prompts))
    return bench


def _plan(
    arguments: argparse.Namespace, outcomes: list[dict[str, Any]]
) -> Iterator[tuple[str, int]]:
    """The trials that are left: those without kills, then kills in turn until there are enough."""
    done = {(one["kind"], one["number"]) for one in outcomes}
    if arguments.short:
        yield from ((name, int(number)) for name, number in (text.rsplit(" ", 1) for text in SHORT))
        return
    names = arguments.kind or list(KINDS)
    if arguments.number is not None:
        yield from ((name, arguments.number) for name in names)
        return
    for name in names:
        if not KINDS[name].kills:
            yield from ((name, i) for i in range(1, KINDS[name].share + 1) if (name, i) not in done)
    killing = {name: KINDS[name].share for name in names if KINDS[name].kills}
    turns = {name: 0 for name in killing}
    while killing and sum(one["kills"] for one in outcomes) < arguments.kills:
        name = min(killing, key=lambda name: (turns[name] + 1) / killing[name])
        turns[name] += 1
        if (name, turns[name]) not in done:
            yield name, turns[name]


def _carried_out(
    bench: Bench, arguments: argparse.Namespace, name: str, number: int
) -> dict[str, Any]:
    """Carry out a trial; what came of it."""
    seed = f"{arguments.seed} {name} {number}"
    rng = Random(seed)
    kind = KINDS[name]
    choice = videos(batch=kind.batch)
    trial = Trial(bench, rng, choice[number % len(choice)], bench.folder / seed)
    finding = ""
    try:
        trial.whole  # noqa: B018 - made before anything happens
        kind.run(trial)
    except NotHereError as reason:
        trial.tell(f"not carried out: {reason}")
    except (Finding, TimeoutError) as error:
        finding = str(error)
        kept = arguments.state / seed.replace(" ", "-")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(trial.notes, kept)
    shutil.rmtree(trial.notes, ignore_errors=True)
    went_on = [int(text.split()[-1]) for text in trial.story if text.startswith("went on")]
    return {
        "kind": name,
        "number": number,
        "seed": seed,
        "video": " ".join((str(trial.video.frames), *trial.video.asked, *trial.video.free)),
        "kills": trial.kills,
        "went_on": max(went_on, default=0),
        "story": trial.story,
        "finding": finding,
    }


if __name__ == "__main__":
    sys.exit(main())
