"""What does a policy remember? Videos whose camera comes back, read by `evaluation.world.revisits`.

    python -m training.returns --config training/configs/returns.yaml            # run or resume
    python -m training.returns --config training/configs/returns.yaml --set report_only=true

Held-out prompts with a turning camera x seeds x policies, the same noise for every policy. A
finished batch is a small file, as in `training.longrun`. The report says for each policy how many
returns show what the first visit showed (colour, shape and place of the sign), by the number of
turns since, with 95 % bootstrap intervals over prompts, and how far the policies lie apart prompt
by prompt; beside them the renders after the VAE, which no transformer can exceed. The picture
`places.png` has a row a policy: one place at its first visit and at later ones.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from diffusers import AutoencoderKLWan
from PIL import Image
from torch import Tensor

from tethercache import POLICIES, Policy
from tethercache.cache import Bank, Slots
from tethercache.evaluation import world
from tethercache.evaluation.world import oracle, revisits
from tethercache.files import write_atomically
from tethercache.policies import grab
from tethercache.policies.recall import Recall
from tethercache.policies.tethercache import TetherCache
from training import batches
from training.common import load_config
from training.sample import through_vae
from training.summing import difference, interval, markdown, spelled

Array = npt.NDArray[Any]
SECONDS_A_TURN = world.TURN / world.TURN_SPEED / world.FPS
SHARES = ("same", "colour", "shape", "place")


@dataclass(frozen=True)
class NewestMemory(Recall):
    """TetherCache without GRAB: the newest frames are the memory."""

    @property
    def strength(self) -> float:
        """That of TetherCache."""
        return TetherCache.tau

    def choose(self, bank: Bank, candidates: Slots) -> Tensor:
        """The newest."""
        index = bank.frame_index.gather(1, candidates.index).float()
        return grab.keep_best(bank.prefer(index, candidates), self.memory)


def policy_of(name: str) -> Policy:
    """A policy by its spec, or `newest`, which is TetherCache without GRAB."""
    return NewestMemory() if name == "newest" else POLICIES.parse(name)


def run_batch(
    pipe: Any, policy: str, part: list[batches.Video], config: dict[str, Any]
) -> dict[str, Array]:
    """Generate and read one batch of videos.

    Returns:
        `frames` uint8 `[V, F, H, W, 3]` of the first video alone (`[1, ...]`), for the picture;
        `found` `[V]`, what `_read` says of each video, as JSON.
    """
    frames, scenes = batches.generate(pipe, policy_of(policy), part, config)
    every = config["every"]
    found = [json.dumps(_read(v, s, every)) for v, s in zip(frames, scenes, strict=True)]
    return {"found": np.array(found), "frames": frames[:1]}


def _read(frames: Array, scene: world.Scene, every: int) -> dict[str, Any]:
    """One video's visits, returns and adherence, of every `every`-th frame."""
    readings = oracle.read(frames)
    visits = revisits.visits(frames, scene, every, readings)
    adherence = oracle.adherence_per_second(readings, scene, world.FPS // every)
    return {
        "visits": [asdict(visit) for visit in visits],
        "returns": [asdict(one) | {"same": one.same} for one in revisits.returns(visits)],
        "adherence": float(adherence.mean()),
    }


def summarise(found: list[dict[str, Any]], prompts: list[int], turns: int) -> dict[str, Any]:
    """Shares of returns that show the same: of all, and by turns since the first visit.

    Args:
        found: what `_read` says of each video.
        prompts: each video's prompt.
        turns: so many rows of `by_turn`.

    Returns:
        `same`, `colour`, `shape`, `place`, `adherence`: mean and interval over prompts. `by_turn`:
        the same of `same`, by the number of turns since the first visit, from 1 on. `signs`: the
        share of first visits that showed a sign. `by_prompt`: of `same`; `returns`: how many.
    """
    names = sorted(set(prompts))
    groups = [[f for f, p in zip(found, prompts, strict=True) if p == name] for name in names]
    all_of = [[one for video in group for one in video["returns"]] for group in groups]
    result: dict[str, Any] = {
        key: _over([[one[key] for one in part] for part in all_of]) for key in SHARES
    }
    result["adherence"] = _over([[video["adherence"] for video in group] for group in groups])
    result["by_turn"] = [
        _over(
            [
                [one["same"] for one in part if round(one["since"] / SECONDS_A_TURN) == turn]
                for part in all_of
            ]
        )
        for turn in range(1, turns + 1)
    ]
    firsts = [bool(v["shape"]) for f in found for v in f["visits"][: world.SIGNS]]
    result["signs"] = float(np.mean(firsts)) if firsts else 0.0
    result["returns"] = sum(len(part) for part in all_of)
    result["by_prompt"] = {
        str(name): float(np.mean([one["same"] for one in part]))
        for name, part in zip(names, all_of, strict=True)
        if part
    }
    return result


def _over(values: list[list[float]]) -> list[float] | None:
    """Mean of the prompts' means and its interval; None if no prompt has a value."""
    means = np.array([np.mean(part) for part in values if part])
    return interval(means) if len(means) else None


def ceiling(config: dict[str, Any], folder: Path, vae: AutoencoderKLWan) -> dict[str, Any]:
    """`summarise` of the renders of the same prompts after the VAE, two and a half turns long."""
    path = folder / "ceiling.json"
    if not path.exists():
        latents = round(2.5 * SECONDS_A_TURN * world.FPS / 4)
        found = [
            _read(through_vae(vae, scene, latents)[:: config["every"]], scene, config["every"])
            for scene in batches.scenes(config)[: config["ceiling_prompts"]]
        ]
        write_atomically(path, json.dumps(summarise(found, list(range(len(found))), 2)))
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def table(result: dict[str, Any]) -> str:
    """A report as Markdown tables."""
    turns = max(len(one["by_turn"]) for one in result["policies"].values())
    heads = [
        *SHARES,
        "adherence",
        *(f"after {SECONDS_A_TURN * (n + 1):.0f} s" for n in range(turns)),
    ]
    rows = []
    for name, one in {**result["policies"], "renders after the VAE": result["ceiling"]}.items():
        cells = [one[key] for key in (*SHARES, "adherence")] + one["by_turn"]
        cells += [None] * (len(heads) - len(cells))
        rows.append([name, *("" if cell is None else spelled(cell, 2) for cell in cells)])
    made = [markdown(["policy", *heads], rows)]
    for base, found in result["differences"].items():
        gaps = [[name, spelled(gap, 2, "+")] for name, gap in found.items() if gap]
        made.append(markdown([f"same, minus {base}", ""], gaps))
    return "\n\n".join(made)


def places(rows: dict[str, tuple[Array, list[dict[str, Any]]]], every: int, path: Path) -> None:
    """One place under each policy: its first visit, and its visits after 2, 4 and 6 turns.

    Args:
        rows: by policy the frames `[F, H, W, 3]` of one video and its visits.
        every: of how many frames one is there.
        path: of the PNG; not written if no place is seen often enough.
    """
    first = {n: visits[0] for n, (_, visits) in rows.items() if visits}
    if len(first) < len(rows):
        return
    place = (min(one["number"] for one in first.values()) + 2) % world.SIGNS
    strips = []
    for frames, visits in rows.values():
        seen = [one for one in visits if one["number"] % world.SIGNS == place][::2][:4]
        picks = [min(round(one["second"] * world.FPS / every), len(frames) - 1) for one in seen]
        shown = [np.pad(frames[i], ((2, 2), (2, 2), (0, 0)), constant_values=255) for i in picks]
        blank = np.full((world.SIZE + 4, world.SIZE + 4, 3), 255, np.uint8)
        strips.append(np.concatenate([*shown, *[blank] * (4 - len(shown))], axis=1))
    image = Image.fromarray(np.concatenate(strips))
    image.resize((image.width * 3, image.height * 3), Image.Resampling.NEAREST).save(path)


def report(config: dict[str, Any], folder: Path, vae: AutoencoderKLWan) -> dict[str, Any]:
    """What the batches that are there show; also writes `places.png`."""
    todo = batches.videos(config)
    turns = int(config["seconds"] / SECONDS_A_TURN) - 1
    result: dict[str, Any] = {
        "made": json.loads((folder / "made.json").read_text()),
        "policies": {},
    }
    rows = {}
    for policy in config["policies"]:
        parts = batches.finished(folder, policy)
        if not parts:
            continue
        found = [json.loads(str(one)) for part in parts for one in part["found"]]
        numbers = [int(number) for part in parts for number in part["videos"]]
        entry = summarise(found, [todo[number][0] for number in numbers], turns)
        result["policies"][policy] = entry | {"videos": len(numbers)}
        if policy in config["pictured"]:
            rows[policy] = (parts[0]["frames"][0], found[0]["visits"])
    result["ceiling"] = ceiling(config, folder, vae)
    result["differences"] = {
        base: {
            policy: difference(entry["by_prompt"], result["policies"][base]["by_prompt"])
            for policy, entry in result["policies"].items()
            if policy != base
        }
        for base in config["compare_with"]
        if base in result["policies"]
    }
    places(rows, config["every"], folder / "places.png")
    return result


def main() -> None:
    """Run what is missing, then write the report."""
    config: dict[str, Any] = load_config(__doc__)
    folder, pipe = Path(config["out"]), batches.run(config, run_batch)
    result = report(config, folder, pipe.vae)
    write_atomically(folder / "report.json", json.dumps(result) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
