"""The report of long runs: curves, differences prompt by prompt, tables and a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training import frechet
from training.batches import finished, videos
from training.readings import MEASURES
from training.summing import difference, interval, markdown, spelled

Array = npt.NDArray[Any]
COMPARED = (*MEASURES, "speed error")  # prompt by prompt
SHARES = ("adherence", "identity")  # from 0 to 1, and so with more digits


def report(config: dict[str, Any], folder: Path, truth: dict[str, Array]) -> dict[str, Any]:
    """What the batches that are there show.

    Args:
        config: of the run.
        folder: of its batches.
        truth: of `readings.read_renders`.

    Returns:
        `policies`: for each policy the number of its `videos`, its `prompts`, the means
        `by_prompt` of each measure and of the `speed error` (how far a prompt's mean speed is from
        that of its renders) from the second window on, and the curve of each measure, `[windows]`
        of (mean, low, high). `differences`: see there; by the policy to compare with,
        then by policy; with `frechet`, the mean over the windows but the first, where both have the
        same prompts. `renders`, `vae`: the truth's values, without and with the VAE. `state`:
        complete or partial. `made`: see `batches.declare`. Speeds are in pixels a second.
    """
    todo = videos(config)
    axes = frechet.main_axes(truth["features"].reshape(-1, truth["features"].shape[-1]))
    renders = list(truth["features"] @ axes)
    result: dict[str, Any] = {key: config[key] for key in ("seconds", "window_seconds")}
    result["made"] = json.loads((folder / "made.json").read_text())
    for name, prefix, seen in (("renders", "", "others"), ("vae", "vae ", "vae features")):
        result[name] = {key: interval(np.nanmean(truth[prefix + key], 1)) for key in MEASURES}
        draw = frechet.distances(list(truth[seen] @ axes), renders)
        result[name]["frechet"] = frechet.interval(draw)

    merged = {policy: _merged(folder, policy) for policy in config["policies"]}
    read = {policy: found for policy, found in merged.items() if found}
    done = [len(found["videos"]) for found in read.values()]
    result["state"] = "complete" if done == [len(todo)] * len(config["policies"]) else "partial"
    result["policies"] = {}
    draws: dict[str, Array] = {}
    for policy, found in read.items():
        curves, draws[policy] = _of_policy(config, found, truth["speed"], renders, axes)
        result["policies"][policy] = curves
    result["differences"] = {base: {} for base in config["compare_with"] if base in read}
    for base, gaps in result["differences"].items():
        for policy, curves in result["policies"].items():
            if policy == base:
                continue
            gaps[policy] = differences(curves, result["policies"][base])
            if curves["prompts"] == result["policies"][base]["prompts"]:
                gaps[policy]["frechet"] = frechet.interval(draws[policy] - draws[base])
    return result


def _of_policy(
    config: dict[str, Any], read: dict[str, Array], speeds: Array, renders: list[Array], axes: Array
) -> tuple[dict[str, Any], Array]:
    """A policy's entry, and `frechet.distances` averaged over its windows but the first."""
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
        draws.append(frechet.distances(seen, [renders[p] for p in prompts]))
        curves["frechet"].append(frechet.interval(draws[-1]))
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


def _merged(folder: Path, policy: str) -> dict[str, Array]:
    """The finished batches of a policy as one: the measures of `read`, and `videos`."""
    parts = finished(folder, policy)
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]} if parts else {}


def table(result: dict[str, Any], at: tuple[int, ...] = (0, 30, 60, 120)) -> str:
    """A report as a Markdown table: the windows that begin `at` so many seconds, and the last.

    Behind them the truth after the VAE, and the truth.
    """
    width = result["window_seconds"]
    last = result["seconds"] - width
    starts = [start for start in at if start < last and start % width == 0] + [last]
    heads = [*(f"{s}-{s + width} s" for s in starts), "renders after the VAE", "renders"]
    rows = []
    for key in (*MEASURES, "frechet"):
        digits = 2 if key in SHARES else 1
        for policy, curves in result["policies"].items():
            cells = [spelled(curves[key][start // width], digits) for start in starts]
            cells += [f"{result[truth][key][0]:.{digits}f}" for truth in ("vae", "renders")]
            rows.append([key, policy, *cells])
    return markdown(["", "policy", *heads], rows)


def differences_table(found: dict[str, Any], title: str) -> str:
    """`differences` by policy as a Markdown table, whose first column has this title."""
    heads = [*COMPARED, *(["frechet"] if any("frechet" in gaps for gaps in found.values()) else [])]
    rows = []
    for policy, gaps in found.items():
        digits = {key: 3 if key in SHARES else 1 for key in gaps}
        rows.append(
            [policy, *(spelled(gaps[k], digits[k], "+") if k in gaps else "" for k in heads)]
        )
    return markdown([title, *heads], rows)


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
