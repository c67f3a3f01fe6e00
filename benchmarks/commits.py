"""Is a chunk as fast as it was? Two commits take turns, chunk by chunk, in two processes.

    python benchmarks/commits.py main~20 HEAD --case tiny --case small

Each process has the sources of its commit, taken out of git into a temporary folder, and answers
over a pipe: attached by `tethercache.attach`, the only name of ours that it needs beside those of
the policies and the shipped model, it makes the next chunk of a long video when it is told so, four
denoising passes and the context pass, and says how long that took. Both make every chunk in turn,
in random order, so what slows the machine down slows both; what is compared is processor time. A
commit is as fast as the other if the 95 % interval of the median ratio reaches down to 1.02.

Prints a table, then one JSON line; the exit status is 1 if a ratio is above that. A wide interval
says nothing: take more rounds, or a quieter machine.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1.02
"""What the interval of new / old must reach down to."""

# as in `tethercache bench`: configuration of the transformer, rows and columns of the latents
RANDOM: dict[str, tuple[dict[str, int], tuple[int, int]]] = {
    "small": ({"num_layers": 2, "num_attention_heads": 6, "ffn_dim": 4480}, (30, 52)),
    "block": ({"num_layers": 1, "num_attention_heads": 12, "ffn_dim": 8960}, (60, 104)),
}
CASES = ("tiny", *RANDOM)
POLICIES = ("window", "tethercache")
CHUNK, SIGMAS, BUDGET = 3, (1000.0, 937.5, 833.3, 625.0), 21


def model(case: str) -> tuple[Any, tuple[int, ...], tuple[int, ...]]:
    """A transformer, and the shapes of its latents and of a prompt."""
    import torch
    from diffusers import WanTransformer3DModel

    if case == "tiny":
        from tethercache import CausalVideoPipeline

        pipe = CausalVideoPipeline.from_pretrained("tiny")
        scale, length = pipe.vae.config.scale_factor_spatial, pipe.config.max_sequence_length
        size = (pipe.config.height // scale, pipe.config.width // scale)
        transformer = pipe.transformer
    else:
        config, size = RANDOM[case]
        length = 512
        torch.manual_seed(0)
        transformer = WanTransformer3DModel(attention_head_dim=128, **config)
    transformer = transformer.eval().requires_grad_(False)
    channels = transformer.config.in_channels
    return transformer, (1, channels, CHUNK, *size), (1, length, transformer.config.text_dim)


def serve(case: str, threads: int) -> None:
    """Make a chunk of the policy that a line of the input names; answer with its seconds."""
    import copy

    import torch

    import tethercache

    torch.set_num_threads(threads)
    transformer, shape, text = model(case)
    generator = torch.Generator().manual_seed(0)
    latents, prompt = (torch.randn(s, generator=generator) for s in (shape, text))
    times = [torch.full((1,), sigma) for sigma in (*SIGMAS, 0.0)]
    shared = {id(t): t for t in (*transformer.parameters(), *transformer.buffers())}

    def chunk(attached: Any, session: Any) -> None:
        with session.chunk(CHUNK):
            for told in times[:-1]:
                with session.denoising_pass():
                    attached(latents, told, prompt, return_dict=False)
            with session.context_pass(output=False):
                attached(latents, times[-1], prompt, return_dict=False)

    with torch.no_grad(), ExitStack() as stack:
        makers: dict[str, Callable[[], None]] = {}
        policies = {
            "window": tethercache.Window(sink=3, window=BUDGET),
            "tethercache": tethercache.TetherCache(),
        }
        for name, policy in policies.items():
            own = copy.deepcopy(transformer, dict(shared))  # modules of its own, the same weights
            session = stack.enter_context(tethercache.attach(own, policy, chunk_size=CHUNK))
            makers[name] = lambda own=own, session=session: chunk(own, session)
            for _ in range(BUDGET // CHUNK + 2):  # full, and the first frames have left
                makers[name]()
        print(json.dumps(tethercache.__file__), flush=True)
        for line in sys.stdin:
            started = time.process_time()
            makers[line.strip()]()
            print(json.dumps(time.process_time() - started), flush=True)


class Commit:
    """The process of one commit.

    Args:
        sources: what has its `tethercache` in it.
        case: see `CASES`.
        threads: PyTorch's.
    """

    def __init__(self, sources: Path, case: str, threads: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", case, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(sources), "TQDM_DISABLE": "1"},
        )
        self._sources = sources

    def ready(self) -> None:
        """Wait until its caches are full."""
        loaded = Path(self._answer())
        if not loaded.is_relative_to(self._sources):
            raise SystemExit(f"the process took {loaded}, not the sources of its commit")

    def chunk(self, policy: str) -> float:
        """Make the next chunk; returns the seconds of processor time."""
        assert self._process.stdin is not None
        print(policy, file=self._process.stdin, flush=True)
        return float(self._answer())

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a process ended with status {self._process.wait()}; see above")
        return json.loads(line)


def git(*arguments: str) -> bytes:
    """What git prints."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {done.stderr.decode().strip()}")
    return done.stdout


@contextmanager
def sources(commits: list[str], parts: tuple[str, ...] = ("src",)) -> Iterator[list[Path]]:
    """Folders with the sources of commits, and `parts` beside them, until the end of the block."""
    with tempfile.TemporaryDirectory() as folder:
        folders = []
        for number, commit in enumerate(commits):
            place = Path(folder).resolve() / str(number)
            with tarfile.open(fileobj=io.BytesIO(git("archive", commit, *parts))) as files:
                files.extractall(place, filter="data")
            folders.append(place / "src")
        yield folders


def compare(folders: list[Path], case: str, rounds: int, threads: int) -> list[dict[str, Any]]:
    """One row a policy."""
    from tethercache.bench.statistics import paired_ratio

    with ExitStack() as stack:
        both = [Commit(folder, case, threads) for folder in folders]
        for commit in both:
            stack.callback(commit.stop)
        for commit in both:
            commit.ready()
        seconds: dict[str, list[list[float]]] = {policy: [[], []] for policy in POLICIES}
        order = random.Random(0)
        for number in range(rounds + 1):
            print(f"{case}: round {number} of {rounds}", file=sys.stderr)
            for policy in order.sample(POLICIES, len(POLICIES)):
                for side in order.sample((0, 1), 2):
                    took = both[side].chunk(policy)
                    if number:  # the first round warms up
                        seconds[policy][side].append(took)
    rows = []
    for policy, (old, new) in seconds.items():
        ratio = paired_ratio(new, old)
        rows.append(
            {
                "case": case,
                "policy": policy,
                "old_ms": round(1e3 * statistics.median(old), 2),
                "new_ms": round(1e3 * statistics.median(new), 2),
                "ratio": round(ratio.median, 4),
                "interval": [round(ratio.low, 4), round(ratio.high, 4)],
                "as_fast": ratio.low <= LIMIT,
            }
        )
    return rows


def main() -> int:
    """Compare two commits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", nargs="?", help="the commit to compare with")
    parser.add_argument("new", nargs="?", default="HEAD", help="default HEAD")
    parser.add_argument("--case", action="append", choices=CASES, help="default tiny")
    parser.add_argument("--rounds", type=int, default=41, help="timed chunks of each")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's")
    parser.add_argument("--serve", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.threads)
        return 0
    if options.old is None or options.rounds < 1 or options.threads < 1:
        parser.error("give a commit to compare with, and at least 1 round and thread")
    names = {"old": options.old, "new": options.new}
    commits = {
        side: git("rev-parse", "--short=10", "--verify", f"{name}^{{commit}}").decode().strip()
        for side, name in names.items()
    }
    with sources(list(commits.values())) as folders:
        rows = [
            row
            for case in options.case or ["tiny"]
            for row in compare(folders, case, options.rounds, options.threads)
        ]
    print(f"{'case':8}{'policy':14}{'old ms':>10}{'new ms':>10}  new / old [95 %]")
    for row in rows:
        low, high = row["interval"]
        print(
            f"{row['case']:8}{row['policy']:14}{row['old_ms']:>10}{row['new_ms']:>10}  "
            f"{row['ratio']:.3f} [{low:.3f}, {high:.3f}]{'' if row['as_fast'] else '  SLOWER'}"
        )
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": options.threads,
    }
    print(json.dumps({"benchmark": "commits"} | commits | {"cases": rows, "machine": machine}))
    return 0 if all(row["as_fast"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
