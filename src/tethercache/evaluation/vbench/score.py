"""Scores of clips through the `vbench` package, for those who have it and its weights.

VBench fetches what is missing in the middle of a run, so everything is looked for before. What is
not there is skipped with the reason; nothing is downloaded and nothing is guessed. The semantic
dimensions need detectors and captioners with old dependencies: score them with VBench itself and
read its results.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tethercache.evaluation.images import file_hash
from tethercache.evaluation.inputs import Input
from tethercache.evaluation.metrics.frame import Image
from tethercache.evaluation.vbench.aggregate import ClipScore, Run, consistency
from tethercache.evaluation.vbench.clips import split_video
from tethercache.evaluation.vbench.dimensions import DIMENSIONS, FUSED
from tethercache.evaluation.vbench.weights import BETWEEN, WEIGHTS, missing_weights
from tethercache.files import write_atomically
from tethercache.text import reason
from tethercache.video import UnreadableVideoError, read_frames

Embed = Callable[[Sequence[Image]], list[Any]]
"""RGB images `[H, W, 3]` to one feature vector each."""


def score_videos(
    videos: Sequence[Input],
    weights_dir: Path,
    folder: Path,
    *,
    device: str = "cpu",
    embedders: Mapping[str, Callable[[Path, str], Embed]] | None = None,
) -> Run:
    """Split videos into clips, score the clips, and fuse the consistencies.

    Args:
        videos: the long videos.
        weights_dir: VBench's cache folder and torch.hub's, in one.
        folder: where clips and VBench's results go; a dimension that was finished with the same
            videos, by name and content, is not scored again.
        device: where VBench computes.
        embedders: for the similarity between clips, by dimension; default DINOv2 and DreamSim.

    Returns:
        The scores; dimensions that could not be scored are in `absent`, with the reason.
    """
    clips: dict[str, list[Path]] = {}
    hashes: dict[str, str] = {}
    problems = []
    for video in videos:
        name = _clip_name(video, taken=clips)
        try:
            if video.problem:
                raise UnreadableVideoError(video.problem)
            digest = file_hash(video.path)
            clips[name] = split_video(video.path, folder / "clips", name=name)
            hashes[name] = digest
        except (UnreadableVideoError, OSError, ValueError) as error:
            problems.append(f"{video.shown} is skipped: {' '.join(str(error).split())}")
    if not clips:
        return Run({}, problems=problems)
    wanted = {path for paths in clips.values() for path in paths}
    for path in (folder / "clips").glob("*.mp4"):  # of other videos, from an earlier run
        if path not in wanted:
            path.unlink()
    lacking = missing_weights(weights_dir)
    absent = {
        name: "needs VBench itself; read its results" for name in DIMENSIONS if name not in WEIGHTS
    }
    scores: dict[str, list[ClipScore]] = {}
    for name in WEIGHTS:
        inside = [w for w in lacking.get(name, []) if w.purpose != BETWEEN]
        if inside:
            absent[name] = f"missing {', '.join(w.path for w in inside)}"
            continue
        try:
            scores[name] = _inside_clips(name, clips, hashes, weights_dir, folder, device)
            if name in FUSED:
                between = [w for w in lacking.get(name, []) if w.purpose == BETWEEN]
                if between and embedders is None:
                    paths = ", ".join(w.path for w in between)
                    absent[name] = f"scored inside clips only: missing {paths}"
                else:
                    embed = (embedders or EMBEDDERS)[name](weights_dir, device)
                    scores[name] = _with_similarity(scores[name], clips, embed)
        except (ImportError, AttributeError, RuntimeError, OSError) as error:
            absent[name] = f"VBench failed: {type(error).__name__}: {reason(error)}"
    return Run(scores, problems=problems, absent=absent)


def _clip_name(video: Input, taken: Mapping[str, object]) -> str:
    """What the clips of a video are called, unlike those of others."""
    whole = video.name.replace("/", " - ")
    short = whole.removesuffix(video.path.suffix)
    return whole if short in taken else short


def _inside_clips(
    dimension: str,
    clips: Mapping[str, Sequence[Path]],
    hashes: Mapping[str, str],
    weights_dir: Path,
    folder: Path,
    device: str,
) -> list[ClipScore]:
    """Score single clips with VBench, which leaves a file that is reused if the videos agree.

    The clips' names are the same for every video of a name, so the videos' hashes stand beside it.
    """
    numbers = {
        path.name: (video, i) for video, paths in clips.items() for i, path in enumerate(paths)
    }
    results = folder / f"{dimension}_eval_results.json"
    scored = folder / f"{dimension}_videos.json"
    found = _read_scores(results, dimension)
    if set(found) != set(numbers) or _read_hashes(scored) != hashes:
        make = _import_vbench(weights_dir)
        scored.unlink(missing_ok=True)
        results.unlink(missing_ok=True)
        bench = make(torch.device(device), "", str(folder))
        with contextlib.redirect_stdout(sys.stderr):  # where VBench talks, our result would be
            bench.evaluate(
                videos_path=str(folder / "clips"),
                name=dimension,
                dimension_list=[dimension],
                local=True,
                mode="custom_input",
            )
        found = _read_scores(results, dimension)
        if set(found) != set(numbers):
            raise RuntimeError(f"VBench scored {len(found)} of {len(numbers)} clips")
        write_atomically(scored, json.dumps(hashes, indent=1).encode())
    return [ClipScore(*numbers[name], score=score) for name, score in sorted(found.items())]


def _read_scores(results: Path, dimension: str) -> dict[str, float]:
    if not results.is_file():
        return {}
    entries = json.loads(results.read_text(encoding="utf-8"))[dimension][1]
    return {Path(entry["video_path"]).name: float(entry["video_results"]) for entry in entries}


def _read_hashes(path: Path) -> Any:
    """What `_inside_clips` stored; None if it is not there or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _import_vbench(weights_dir: Path) -> Any:
    """The class `VBench`, told where the weights are; its modules read that when imported."""
    if find_spec("vbench") is None:
        raise ImportError("`vbench` is not installed: pip install --no-deps vbench")
    os.environ["VBENCH_CACHE_DIR"] = os.environ["TORCH_HOME"] = str(weights_dir.resolve())
    return importlib.import_module("vbench").VBench


def _with_similarity(
    scores: Sequence[ClipScore], clips: Mapping[str, Sequence[Path]], embed: Embed
) -> list[ClipScore]:
    """Add the consistency of the first frames of all clips of a video."""
    similarity = {}
    for video, paths in clips.items():
        similarity[video] = consistency(embed([next(read_frames(path)) for path in paths]))
    return [
        ClipScore(score.video, score.clip, score.score, similarity[score.video]) for score in scores
    ]


def _dino(weights_dir: Path, device: str) -> Embed:
    """DINOv2 ViT-B/14 from a cached torch.hub folder."""
    os.environ["TORCH_HOME"] = str(weights_dir.resolve())
    folder = weights_dir / "hub/facebookresearch_dinov2_main"
    load: Any = torch.hub.load
    model = load(str(folder), "dinov2_vitb14", source="local").to(device).eval()
    mean = torch.tensor([0.485, 0.456, 0.406], device=device)[:, None, None]
    spread = torch.tensor([0.229, 0.224, 0.225], device=device)[:, None, None]

    @torch.no_grad()
    def embed(images: Sequence[Image]) -> list[Any]:
        features = []
        for image in images:
            pixels = torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1).float() / 255
            small = torch.nn.functional.interpolate(
                pixels[None], size=(224, 224), mode="bilinear", align_corners=False
            )
            features.append(model((small - mean) / spread)[0].float().cpu().numpy())
        return features

    return embed


def _dreamsim(weights_dir: Path, device: str) -> Embed:
    """DreamSim's ensemble, through its package."""
    from PIL import Image as Pictures

    dreamsim: Any = importlib.import_module("dreamsim")
    model, prepare = dreamsim.dreamsim(
        pretrained=True, cache_dir=str(weights_dir / "dreamsim"), device=device
    )

    @torch.no_grad()
    def embed(images: Sequence[Image]) -> list[Any]:
        return [
            model.embed(prepare(Pictures.fromarray(image)).to(device))[0].float().cpu().numpy()
            for image in images
        ]

    return embed


EMBEDDERS: Mapping[str, Callable[[Path, str], Embed]] = {
    "subject_consistency": _dino,
    "background_consistency": _dreamsim,
}
