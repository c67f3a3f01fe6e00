"""A model of nothing but what a case needs, and the contestants on it."""

from __future__ import annotations

import torch

from tethercache.bench import Case
from tethercache.bench.cases import random_wan

DEVICE = torch.device("cpu")
TOY = Case(
    "toy",
    random_wan(layers=2, heads=2, head_dim=12, ffn=32, grid=(2, 3), text=(6, 8)),
    profiled=1,
)
