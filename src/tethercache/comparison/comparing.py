"""`compare`: all of a comparison in one call."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tethercache.arguments import as_path
from tethercache.comparison.page import page
from tethercache.comparison.plan import Plan, Subject, of_prompts
from tethercache.comparison.sidebyside import side_by_side
from tethercache.comparison.summary import Summary, summarise, table
from tethercache.comparison.units import Unit, run
from tethercache.evaluation.report import markdown_table
from tethercache.files import write_atomically
from tethercache.request import VideoRequest

if TYPE_CHECKING:
    from tethercache.cache import Policy


def compare(
    policies: Sequence[Policy | str],
    subjects: Sequence[Subject | str],
    folder: str | os.PathLike[str],
    *,
    seeds: int = 1,
    request: VideoRequest | None = None,
    done: Callable[[Unit], None] = lambda unit: None,
) -> Summary:
    """Compare policies: the same prompts and seeds, the same noise.

    What is there already is not made again, so a comparison that broke off goes on, and a complete
    one can be given more policies, prompts (behind the others) or seeds.

    Args:
        policies: two or more, or one to measure it; the others are compared with the first.
        subjects: prompts, or scenes of the rendered world (`of_scenes`), which the oracle reads.
        folder: where videos, records, readings and the report go.
        seeds: videos of each prompt and policy.
        request: model, length and all else that is the same for each; its seed is the first one.
        done: is called when a video is made and read.

    Returns:
        Means and differences with their intervals. The folder has them as `comparison.json`,
        `comparison.md` and `index.html`, which also has curves, and videos side by side.

    Raises:
        ValueError: if something asked for cannot be, or the folder has videos of something else.
        TetherCacheError: if a model, tool or memory is missing.
        OSError: if the files cannot be written.
    """
    from tethercache.policies import POLICIES

    place = as_path("folder", folder)
    specs = [text if isinstance(text, str) else POLICIES.spec(text) for text in policies]
    each = [of_prompts([s])[0] if isinstance(s, str) else s for s in subjects]
    base = request or VideoRequest(each[0].prompt if each else "-")
    plan = Plan(base, tuple(specs), tuple(each), seeds)
    for unit in run(plan, place):
        done(unit)
    return write(plan, place)


def write(plan: Plan, folder: Path, *, videos: bool = True) -> Summary:
    """Write the report of what there is of a comparison into its folder.

    Args:
        plan: what is compared.
        folder: where it is.
        videos: also make the videos side by side.
    """
    summary = summarise(plan, folder)
    made = side_by_side(plan, folder) if videos else {}
    write_atomically(folder / "index.html", page(plan, folder, summary, made))
    write_atomically(folder / "comparison.json", json.dumps(summary.to_dict(), indent=1) + "\n")
    found = table(summary)
    lines = ["# Comparison", "", found.title, "", *markdown_table(found), ""]
    write_atomically(folder / "comparison.md", "\n".join(lines))
    return summary
