"""`python -m fuzz`: a campaign, which goes on where it was stopped, and its log.

Inputs of the corpus come first and have numbers below 0. That of a number above is always the same:
it depends on the seed, the kind and the number.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import time
import warnings
from collections import Counter
from itertools import chain
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from fuzz.kind import Kind
from fuzz.kinds import KINDS
from fuzz.log import write_log
from fuzz.runner import Outcome, Tally, content_of, prepared, run

_CORPUS = Path(__file__).parent / "corpus"
_SAVED = 10.0  # seconds between two notes of how far it is


def main() -> int:
    """Run what is left of a campaign; 1 if there were findings."""
    arguments = _arguments()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    names = arguments.kind or list(KINDS)
    plan = {name: KINDS[name].short for name in names}
    if not arguments.short:
        plan = _plan(arguments.inputs, names)
    arguments.state.mkdir(parents=True, exist_ok=True)
    tallies, command = {}, " ".join(("python -m fuzz", *sys.argv[1:]))
    for name, number in plan.items():
        tallies[name] = _campaign(name, arguments.seed, number, arguments.state)
        write_log(arguments.log, command, tallies)
    return 1 if any(tally.findings for tally in tallies.values()) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=main.__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="how many, of all kinds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="a few of each kind, as in the suite")
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="only this one")
    parser.add_argument("--log", type=Path, default=Path("fuzz/log.md"))
    parser.add_argument("--state", type=Path, default=Path(".runs/fuzz"), help="how far it is")
    arguments = parser.parse_args()
    arguments.log, arguments.state = arguments.log.absolute(), arguments.state.absolute()
    return arguments


def _plan(inputs: int, names: list[str]) -> dict[str, int]:
    """How many inputs of each kind."""
    shares = sum(KINDS[name].share for name in names) or 1
    plan = {}
    for name in names:
        kind = KINDS[name]
        number = max(kind.least, math.ceil(inputs * kind.share / shares))
        plan[name] = number if kind.most is None else min(number, kind.most)
    return plan


def _campaign(name: str, seed: int, number: int, state: Path) -> Tally:
    """Run what is left of the inputs of a kind, those of the corpus first."""
    kept = state / f"{seed}-{name}.json"
    tally = _read(kept)
    if tally.done >= number:
        return tally
    corpus = [path.read_bytes() for path in sorted((_CORPUS / name).glob("*"))]
    saved = time.monotonic()
    with prepared(KINDS[name]()) as kind:
        old = ((index - len(corpus), content) for index, content in enumerate(corpus))
        new = ((index, content_of(kind, seed, index)) for index in range(tally.done, number))
        for outcome in run(kind, new if tally.done else chain(old, new)):
            tally.add(outcome)
            if outcome.finding:
                _keep(name, seed, outcome, kind, state)
            if time.monotonic() - saved > _SAVED:
                saved = time.monotonic()
                kept.write_text(json.dumps(vars(tally)))
                print(f"{name} {tally.done} of {number}", file=sys.stderr, flush=True)
    kept.write_text(json.dumps(vars(tally)))
    return tally


def _keep(name: str, seed: int, outcome: Outcome, kind: Kind, state: Path) -> None:
    """Say what was found, and keep the input unless it is in the corpus already."""
    print(f"{name} {outcome.index}: {outcome.finding}\n{outcome.trace}", flush=True)
    if outcome.index >= 0:
        content = content_of(kind, seed, outcome.index)
        (state / f"{seed}-{name}-{outcome.index}.input").write_bytes(content)


def _read(kept: Path) -> Tally:
    if not kept.exists():
        return Tally()
    found = json.loads(kept.read_text())
    return Tally(**found | {"outcomes": Counter(found["outcomes"])})


if __name__ == "__main__":
    sys.exit(main())
