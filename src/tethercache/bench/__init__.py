"""How much memory management costs: policies against each other and against a bare transformer."""

from tethercache.bench.cases import CASES, Case, Model, default_cases
from tethercache.bench.report import Report, Row, Verdict
from tethercache.bench.run import MIN_CHUNKS, contestants, measure

__all__ = [
    "CASES",
    "MIN_CHUNKS",
    "Case",
    "Model",
    "Report",
    "Row",
    "Verdict",
    "contestants",
    "default_cases",
    "measure",
]
