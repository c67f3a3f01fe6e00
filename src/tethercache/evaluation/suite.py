"""Results of many videos to one report: summary, pairs, and the conditions of `--fail-on`."""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tethercache.evaluation.drift import DEFAULT_PROTOCOL, PROTOCOLS, paired, statistics
from tethercache.evaluation.metrics import METRICS
from tethercache.evaluation.options import Options
from tethercache.evaluation.result import Skipped, VideoResult
from tethercache.evaluation.verdict import THRESHOLDS, WHOLE
from tethercache.software import versions

SCHEMA_VERSION = 1

_ORDER: Sequence[str] = ("stable", "watch", "drifting")
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Report:
    """All that an evaluation found.

    Attributes:
        videos: results, sorted by name.
        baseline: results of the baseline's videos.
        skipped: files that could not be evaluated, of both.
        options: of the measurement.
        warnings: about the set of videos as a whole.
        failed: conditions of `--fail-on` that hold, one sentence each.
    """

    videos: list[VideoResult]
    baseline: list[VideoResult]
    skipped: list[Skipped]
    options: Options
    warnings: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def pairs(self) -> list[tuple[VideoResult, VideoResult]]:
        """Videos of one name, ours and the baseline's: of one path, else of one file name."""
        others = {video.name: video for video in self.baseline}
        count = Counter(_file_name(video) for video in self.baseline)
        files = {_file_name(video): video for video in self.baseline}
        pairs = []
        for video in self.videos:
            other = others.get(video.name)
            if other is None and count[_file_name(video)] == 1:
                other = files[_file_name(video)]
            if other is not None:
                pairs.append((video, other))
        return pairs

    def as_json(self) -> dict[str, Any]:
        """The content of results.json; its keys stay as they are while the schema's number does."""
        made: dict[str, Any] = {
            "schema": "tethercache.evaluation",
            "schema_version": SCHEMA_VERSION,
            "suite": "drift",
            "protocol": DEFAULT_PROTOCOL.name,
            "protocols": {name: dataclasses.asdict(p) for name, p in PROTOCOLS.items()},
            "options": dataclasses.asdict(self.options),
            "metrics": _describe(self.options),
            "thresholds": [dataclasses.asdict(threshold) for threshold in (*THRESHOLDS, *WHOLE)],
            "videos": [_without_thumbnails(video) for video in self.videos],
            "summary": summarise(self.videos),
            "skipped": [dataclasses.asdict(skipped) for skipped in self.skipped],
            "warnings": self.warnings,
            "failed": self.failed,
            "versions": versions("numpy", "opencv-python-headless", "av"),
        }
        if self.baseline:
            made["baseline"] = {
                "videos": [_without_thumbnails(video) for video in self.baseline],
                "summary": summarise(self.baseline),
            }
            made["pairs"] = compare(self.pairs())
        return made


def worst_first(videos: Sequence[VideoResult]) -> list[VideoResult]:
    """The order of whoever reads: drifting before stable, and more symptoms before fewer."""

    def badness(video: VideoResult) -> tuple[int, int, int, str]:
        words = [_ORDER.index(word) for word in video.components.values()]
        return -_ORDER.index(video.verdict), -sum(words), -len(video.notes), video.name

    return sorted(videos, key=badness)


def _file_name(video: VideoResult) -> str:
    return video.name.rpartition("/")[2]


def set_warnings(videos: Sequence[VideoResult]) -> list[str]:
    """What makes the numbers of a set of videos hard to compare."""
    kinds = {
        "sizes": {f"{video.video['width']}x{video.video['height']}" for video in videos},
        "frame rates": {f"{video.video['fps']:.3g}" for video in videos},
        "codecs": {video.video["codec"] for video in videos},
        "lengths": {f"{video.video['seconds']:.0f} s" for video in videos},
    }
    return [
        f"the videos have different {kind}: {', '.join(sorted(found))}"
        for kind, found in kinds.items()
        if len(found) > 1
    ]


def summarise(videos: Sequence[VideoResult]) -> dict[str, Any]:
    """Verdicts counted, and each metric over the videos; changes with their signs."""
    metrics = {}
    for name in METRICS:
        values = [
            video.signed.get(name, video.metrics.get(name))
            for video in videos
            if video.metrics.get(name) is not None
        ]
        numbers = [value for value in values if value is not None]
        if numbers:
            metrics[name] = dataclasses.asdict(statistics(numbers))
    verdicts = {word: sum(video.verdict == word for video in videos) for word in _ORDER}
    return {"videos": len(videos), "verdicts": verdicts, "metrics": metrics}


def compare(pairs: Sequence[tuple[VideoResult, VideoResult]]) -> dict[str, Any]:
    """Each metric over the pairs of one name; changes by their size, not their sign."""
    metrics = {}
    for name in METRICS:
        both = [(a.metrics.get(name), b.metrics.get(name)) for a, b in pairs]
        known = [(a, b) for a, b in both if a is not None and b is not None]
        if known:
            ours, baseline = zip(*known, strict=True)
            result = dataclasses.asdict(paired(ours, baseline, METRICS[name].better))
            metrics[name] = {"n": len(known), "better": METRICS[name].better, **result}
    return {
        "n": len(pairs),
        "names": [ours.name for ours, _ in pairs],
        "metrics": metrics,
        "videos": [
            {
                "name": ours.name,
                "verdict": ours.verdict,
                "baseline_verdict": baseline.verdict,
                "better": [name for name in METRICS if better(name, ours, baseline) is True],
                "worse": [name for name in METRICS if better(name, ours, baseline) is False],
            }
            for ours, baseline in pairs
        ],
    }


def better(name: str, ours: VideoResult, baseline: VideoResult) -> bool | None:
    """Whether ours is better by a metric; None where it is even, or where that means nothing."""
    a, b = ours.metrics.get(name), baseline.metrics.get(name)
    direction = METRICS[name].better
    if a is None or b is None or a == b or direction == "neither":
        return None
    return (a < b) == (direction == "lower")


@dataclass(frozen=True)
class Condition:
    """One condition of `--fail-on`: a metric against a number, or the verdict against a word.

    Attributes:
        text: as it was given.
        name: the metric, or `verdict`.
        sign: how to compare.
        limit: the number; for the verdict, the place of the word.
    """

    text: str
    name: str
    sign: str
    limit: float

    def holds(self, video: VideoResult) -> bool | None:
        """Whether a video meets the condition; None if the metric was not measured."""
        if self.name == "verdict":
            return _ORDER.index(video.verdict) >= self.limit
        value = video.metrics.get(self.name)
        return None if value is None else _COMPARE[self.sign](value, self.limit)


def parse_conditions(expression: str, options: Options) -> list[Condition]:
    """Read `metric>number, ...` or `verdict=watch`; any one that holds for any video fails.

    Raises:
        ValueError: it cannot be read, or names a metric that is not measured.
    """
    conditions = []
    for text in filter(None, (part.strip() for part in re.split(r",|\bor\b", expression))):
        found = re.fullmatch(r"(\w+)\s*(>=|<=|>|<|==?)\s*(\S+)", text)
        if not found:
            raise ValueError(f"--fail-on `{text}` must have the form metric>number")
        name, sign, limit = found.groups()
        if name == "verdict":
            if limit not in _ORDER[1:] or sign not in ("=", "==", ">="):
                raise ValueError(f"--fail-on `{text}` must be verdict=watch or verdict=drifting")
            conditions.append(Condition(text, name, ">=", float(_ORDER.index(limit))))
            continue
        if METRICS[name].needs == "embed" and not options.embed:
            raise ValueError(f"--fail-on `{text}` needs --embed")
        if sign not in _COMPARE:
            raise ValueError(f"--fail-on `{text}` must compare with one of >, >=, <, <=")
        conditions.append(Condition(text, name, sign, _limit(text, limit)))
    if not conditions:
        raise ValueError("--fail-on must not be empty")
    return conditions


def _limit(text: str, limit: str) -> float:
    try:
        number = float(limit)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"--fail-on `{text}`: `{limit}` is no number")
    return number


def failures(conditions: Sequence[Condition], videos: Sequence[VideoResult]) -> list[str]:
    """The conditions that hold; one that cannot be checked counts, for a check must not pass so."""
    found = []
    for condition in conditions:
        for video in videos:
            holds = condition.holds(video)
            if holds is None:
                found.append(f"{video.name}: {condition.name} could not be measured")
            elif holds:
                value = video.metrics.get(condition.name)
                shown = video.verdict if value is None else f"{condition.name} is {value:.4g}"
                found.append(f"{video.name}: {shown} ({condition.text})")
    return found


def _describe(options: Options) -> dict[str, Any]:
    measured = options.metrics()
    return {
        name: {
            "spec": METRICS.spec(metric, full=True),
            "version": metric.version,
            "summary": METRICS[name].summary,
            "unit": METRICS[name].unit,
            "better": METRICS[name].better,
            "needs": METRICS[name].needs,
            "reference": METRICS[name].source,
        }
        for name, metric in measured.items()
    }


def _without_thumbnails(video: VideoResult) -> dict[str, Any]:
    record = dataclasses.asdict(video)
    del record["thumbnails"]
    return record
