"""Does a video drift? Metrics, drift, verdict, reports, and VBench-Long's arithmetic.

Files to results in `measure.py`, results to a report in `suite.py`. The libraries are an extra of
the package, so nothing is imported before `need` has looked for them.
"""

from __future__ import annotations

from tethercache.errors import TetherCacheError
from tethercache.evaluation.metrics import missing


def need(extra: str) -> None:
    """Raise unless an extra of the package is installed.

    Raises:
        TetherCacheError: it is not; the message says how to get it.
    """
    if absent := missing(extra):
        raise TetherCacheError(f"evaluation {absent}")
