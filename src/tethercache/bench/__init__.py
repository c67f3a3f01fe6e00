"""How much memory management costs: policies against each other and against a bare transformer."""

from tethercache.bench.cases import CASES, MIN_CHUNKS, Case, Model, default_cases

__all__ = ["CASES", "MIN_CHUNKS", "Case", "Model", "default_cases"]
