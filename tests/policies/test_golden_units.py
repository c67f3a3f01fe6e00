"""GRAB and TAME alone against numbers of the official functions."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.conftest import ROOT
from tethercache.cache import FrameStats
from tethercache.policies import grab, tame

GRAB = ROOT / "tests/golden/unit_grab.safetensors"
TAME = ROOT / "tests/golden/unit_tame.safetensors"


def _parameters(path: object, case: int) -> dict[str, float]:
    with safe_open(path, "pt") as file:
        parameters: dict[str, float] = json.loads(file.metadata()[f"case{case}"])
    return parameters


@pytest.mark.parametrize("case", range(5))
def test_grab_equals_the_official_function(case: int) -> None:
    options, golden = _parameters(GRAB, case), load_file(GRAB)
    q, k, index, mass, diversity, score, keep = (
        golden[f"case{case}.{name}"] for name in ("q", "k", "idx", "mass", "div", "score", "keep")
    )
    frames = k.unflatten(1, (len(index), -1))
    batch_index = index.long().expand(q.shape[0], -1)
    our_mass = grab.attention_mass(q.mean(1), frames.mean(2), options["temperature"])
    our_diversity = grab.temporal_diversity(our_mass, batch_index)
    torch.testing.assert_close(our_mass, mass, atol=1e-6, rtol=0)
    torch.testing.assert_close(our_diversity, diversity, atol=1e-6, rtol=0)
    # the official code averages over the batch; scores are zero where nothing has to be chosen
    our_score = grab.balance(our_mass, our_diversity, options["alpha"]).mean(0)
    size = int(options["memory_size"])
    if len(index) > size:
        torch.testing.assert_close(our_score, score, atol=1e-6, rtol=0)
    kept = grab.keep_best(our_score[None], size)[0]
    assert kept.tolist() == keep.bool().tolist()


@pytest.mark.parametrize("case", range(7))
def test_tame_equals_the_official_function(case: int) -> None:
    options, golden = _parameters(TAME, case), load_file(TAME)
    x, trusted, out = (golden[f"case{case}.{name}"] for name in ("x", "trusted", "out"))
    # the official statistics are pooled over the batch, so the batch is folded into the tokens
    folded = x.flatten(0, 1)[None, None]
    pool = trusted.flatten(0, 1)[None, None]
    own, to = (
        FrameStats(*reversed(torch.var_mean(t.float(), dim=2, correction=0)))
        for t in (folded, pool)
    )
    ours, after = tame.align(folded, own, tame.pool(to), options["tau"])
    assert ours.dtype == x.dtype
    # one unit in the last place of bfloat16 at values around 4
    tolerance = 2e-2 if x.dtype == torch.bfloat16 else 2e-6
    torch.testing.assert_close(ours.view_as(out).float(), out.float(), atol=tolerance, rtol=1e-5)
    var, mean = torch.var_mean(ours.float(), dim=2, correction=0)
    torch.testing.assert_close(after.mean, mean, atol=tolerance, rtol=1e-5)
    torch.testing.assert_close(
        after.var, var, atol=tolerance, rtol=1e-2 if tolerance > 1e-3 else 1e-5
    )
    assert options["edited"] == (not torch.equal(ours.view_as(out), x))


def test_pooled_statistics_are_those_of_all_tokens_together() -> None:
    frames = torch.randn(2, 5, 7, 3, 4, generator=torch.Generator().manual_seed(0))
    var, mean = torch.var_mean(frames, dim=2, correction=0)
    pooled = tame.pool(FrameStats(mean, var))
    var, mean = torch.var_mean(frames.flatten(1, 2), dim=1, correction=0, keepdim=True)
    torch.testing.assert_close(pooled.mean, mean)
    torch.testing.assert_close(pooled.var, var)
