"""What every stage shares: a config, a log, checkpoints that restart, averaged weights.

A stage is a loop over steps. Everything random in a step is drawn from `step_generator(seed,
step)`, and a checkpoint holds model, optimizer and average, so a restarted run continues bit for
bit.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed as dist
import yaml

from tethercache.files import replacing, write_atomically


def load_config(description: str | None) -> dict[str, Any]:
    """Parse `--config FILE` (and `--set key=value`, repeated) and return the YAML mapping."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", required=True, type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    config = yaml.safe_load(args.config.read_text())
    for item in args.set:
        key, _, value = item.partition("=")
        if key not in config:
            raise SystemExit(f"--set {key}: {args.config} has no such key")
        config[key] = yaml.safe_load(value)
    return config


def pick_device(config: dict[str, Any]) -> torch.device:
    """The configured device, by default CUDA if there is one; sets the CPU thread count."""
    torch.set_num_threads(int(config.get("threads", 2)))
    name = config.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def join_workers() -> int:
    """This process's number among those that `torchrun` started together, 0 without `torchrun`.

    Each worker draws its own batches and `average_gradients` keeps their weights equal. On a CPU a
    process a core is several times faster than a thread a core: most operations of these small
    models are too short to be worth a thread's waking up.
    """
    if "RANK" not in os.environ:
        return 0
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank()


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by its mean over the workers (nothing to do for a single one)."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def step_generator(seed: int, step: int) -> torch.Generator:
    """A CPU generator that depends on nothing but seed, step and worker."""
    worker = dist.get_rank() if dist.is_initialized() else 0
    return torch.Generator().manual_seed(seed * 1_000_003 + step + 7_919_000_000 * worker)


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that gets its name when it is complete, whatever other processes do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        yield file


def save_atomic(state: object, path: Path) -> None:
    """`torch.save` that never leaves half a file under the final name."""
    with written_whole(path) as file:
        torch.save(state, file)


class Ema:
    """Exponential moving average of parameters, with a warm-up so that early steps count less."""

    def __init__(self, modules: dict[str, torch.nn.Module], decay: float) -> None:
        self.modules, self.decay = modules, decay
        self.shadow = {
            f"{name}.{key}": value.detach().clone()
            for name, module in modules.items()
            for key, value in module.state_dict().items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Blend the present weights in after optimisation step number `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, module in self.modules.items():
            for key, value in module.state_dict().items():
                shadow = self.shadow[f"{name}.{key}"]
                if value.is_floating_point():
                    shadow.lerp_(value, 1 - decay)


class CurveLog:
    """Appends rows to a CSV, whose first column is the step; `plot` draws the others as a PNG.

    Rows behind step `done`, of a run that was killed and now goes on from there, are dropped.
    """

    def __init__(self, path: Path, columns: list[str], done: int) -> None:
        self.path, self.columns = path, columns
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = path.read_text().splitlines()[1:] if path.exists() else []
        rows = [row for row in rows if float(row.partition(",")[0]) <= done]
        write_atomically(path, "\n".join([",".join(columns), *rows]) + "\n")

    def add(self, **values: float) -> None:
        """Append one row and print it."""
        with self.path.open("a", newline="") as file:
            row = [f"{values[column]:.6g}" for column in self.columns]
            csv.writer(file, lineterminator="\n").writerow(row)
        text = "  ".join(f"{c} {values[c]:.5g}" for c in self.columns)
        print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)

    def plot(self) -> None:
        """Write the curves beside the CSV (needs matplotlib; skipped where it is missing)."""
        try:
            import matplotlib
        except ImportError:
            return
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        with self.path.open() as file:
            rows = list(csv.DictReader(file))
        figure, axis = plt.subplots(figsize=(7, 4))
        x = [float(row["step"]) for row in rows]
        for column in self.columns:
            if column not in ("step", "seconds", "learning_rate"):
                axis.plot(x, [float(row[column]) for row in rows], label=column, linewidth=1)
        axis.set_xlabel("step")
        axis.set_yscale("symlog", linthresh=1e-3)
        axis.legend()
        figure.tight_layout()
        figure.savefig(self.path.with_suffix(".png"), dpi=110)
        plt.close(figure)


def run_stage(
    *,
    steps: int,
    state: Callable[[], dict[str, Any]],
    restore: Callable[[dict[str, Any]], None],
    step: Callable[[int], dict[str, float]],
    folder: Path,
    name: str,
    columns: list[str],
    log_every: int = 20,
    save_minutes: float = 3.0,
    stop_seconds: float | None = None,
) -> int:
    """Run `step(i)` for `i < steps` with a log and checkpoints; returns the steps done.

    The checkpoint `folder/name.pt` is restored first, if it exists. `stop_seconds` ends the stage
    early by the clock: seconds of training in total, earlier runs of the stage included (for a
    single process only). With several workers the first one logs and saves.
    """
    checkpoint = folder / f"{name}.pt"
    first, before = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        restore(saved["state"])
        first, before = saved["step"], saved["seconds"]
        print(f"{name}: restarting at step {first} ({before:.0f} s so far)", flush=True)
    leads = not dist.is_initialized() or dist.get_rank() == 0
    log = CurveLog(folder / f"{name}.csv", ["step", "seconds", *columns], first) if leads else None
    start = last_save = time.monotonic()
    sums: dict[str, float] = {}
    done = logged = first
    for index in range(first, steps):
        for key, value in step(index).items():
            sums[key] = sums.get(key, 0.0) + value
        done = index + 1
        now = time.monotonic()
        seconds = before + now - start
        out_of_time = stop_seconds is not None and seconds > stop_seconds
        last = done == steps or out_of_time
        if log and done % log_every == 0:
            means = {k: v / (done - logged) for k, v in sums.items()}
            log.add(step=done, seconds=seconds, **means)
            sums, logged = {}, done
        if log and (last or now - last_save > 60 * save_minutes):
            save_atomic({"step": done, "seconds": seconds, "state": state()}, checkpoint)
            log.plot()
            last_save = now
        if last:
            break
    if dist.is_initialized():
        dist.barrier()  # the checkpoint is there for whoever comes next
    return done


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalised (Jordan et al., 2024), for matrices and convolutions.

    A kernel `[out, in, ...]` counts as the matrix `[out, in * ...]`. The step's root mean square
    is that of AdamW (0.2), so both can share a learning rate.
    """

    def __init__(
        self, parameters: Any, lr: float, momentum: float = 0.95, decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                update = orthogonalise(update) * 0.2 * max(update.shape) ** 0.5
                parameter.mul_(1 - group["lr"] * group["decay"])
                parameter.add_(update.view_as(parameter), alpha=-group["lr"])


def orthogonalise(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Push all singular values of `[m, n]` towards 1, by a quintic Newton-Schulz iteration."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x if wide else x.T
