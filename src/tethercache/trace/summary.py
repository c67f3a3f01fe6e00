"""What a model remembered while it made a chunk, all its layers together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ROLES = ("sink", "memory", "recent")

_SURE = 1e9
"""Scores that policies give to what is sure to win or to lose."""


def memory_of(chunk: Mapping[str, Any]) -> dict[str, Any]:
    """What the model remembered while it made a chunk, all layers together.

    Args:
        chunk: what `Tracer.take` returned.

    Returns:
        `{"layers": number of layers, "frames": [...]}`, where each latent frame that at least one
        layer could read has `frame`; `role`, `sink`, `memory` or `recent`, the one that most of
        these layers give it; `share` of layers that could read it; `score`, the mean of those that
        kept it, or None; and `marks`, all that any layer has put on it.
    """
    layers, frames = chunk["layers"], sorted({f for each in chunk["layers"] for f in each["seen"]})
    parts = [roles(layer, chunk["sink"], chunk["recent"]) for layer in layers]
    found = []
    for frame in frames:
        holding = [i for i, layer in enumerate(layers) if frame in layer["seen"]]
        given = [parts[i][frame] for i in holding]
        scores = [_score_of(layers[i], frame) for i in holding]
        known = [score for score in scores if score is not None]
        marks = {m for i in holding for m, some in layers[i]["marks"].items() if frame in some}
        found.append(
            {
                "frame": frame,
                "role": max(ROLES, key=given.count),
                "share": number(len(holding) / len(layers)),
                "score": number(sum(known) / len(known)) if known else None,
                "marks": sorted(marks),
            }
        )
    return {"layers": len(layers), "frames": found}


def roles(layer: Mapping[str, Any], sink: int, recent: int) -> dict[int, str]:
    """What each of the frames that a layer could read is there for.

    The first `sink` of them are the sink, the newest `recent` of the others are recent; but one
    that was merged or packed is memory, however new it is among the others.

    Args:
        layer: the layer's part of what `Tracer.take` returned.
        sink: S.
        recent: R.
    """
    seen, newest = layer["seen"], max(len(layer["seen"]) - recent, sink)
    changed = {*layer["marks"].get("merged", ()), *layer["marks"].get("packed", ())}
    return {
        frame: "sink" if i < sink else "memory" if i < newest or frame in changed else "recent"
        for i, frame in enumerate(seen)
    }


def _score_of(layer: Mapping[str, Any], frame: int) -> float | None:
    score: float | None = layer["scores"][layer["seen"].index(frame)]
    return score


def number(value: float) -> float | None:
    """A number with six digits; None for one that is not finite, or stands for infinity."""
    return float(f"{value:.6g}") if abs(value) < _SURE else None
