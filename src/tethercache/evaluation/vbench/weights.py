"""The files that VBench's dimensions need, where they belong and where they come from.

VBench fetches what is missing in the middle of a run; with this table we look before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Weight:
    """A file or folder that a dimension needs.

    Attributes:
        path: below the folder of weights.
        origin: where it comes from.
        purpose: what it is needed for; `clip to clip` may be missing without harm to the rest.
    """

    path: str
    origin: str
    purpose: str = "inside clips"


_CLIP_B = Weight("clip_model/ViT-B-32.pt", "OpenAI CLIP, ViT-B/32")
BETWEEN = "clip to clip"

WEIGHTS: Mapping[str, tuple[Weight, ...]] = {
    "subject_consistency": (
        Weight(
            "hub/checkpoints/dino_vitbase16_pretrain.pth",
            "github.com/facebookresearch/dino, ViT-B/16",
        ),
        Weight("dino_model/facebookresearch_dino_main", "github.com/facebookresearch/dino, main"),
        Weight(
            "hub/checkpoints/dinov2_vitb14_pretrain.pth",
            "github.com/facebookresearch/dinov2, ViT-B/14",
            BETWEEN,
        ),
        Weight(
            "hub/facebookresearch_dinov2_main",
            "github.com/facebookresearch/dinov2, main",
            BETWEEN,
        ),
    ),
    "background_consistency": (
        _CLIP_B,
        Weight(
            "dreamsim/dino_vitb16_pretrain.pth",
            "github.com/ssundaram21/dreamsim, ensemble checkpoint",
            BETWEEN,
        ),
        Weight(
            "dreamsim/open_clip_vitb16_pretrain.pth.tar",
            "github.com/ssundaram21/dreamsim, ensemble checkpoint",
            BETWEEN,
        ),
        Weight(
            "dreamsim/clip_vitb16_pretrain.pth.tar",
            "github.com/ssundaram21/dreamsim, ensemble checkpoint",
            BETWEEN,
        ),
        Weight(
            "dreamsim/ensemble_lora",
            "github.com/ssundaram21/dreamsim, ensemble checkpoint",
            BETWEEN,
        ),
    ),
    "temporal_flickering": (),
    "motion_smoothness": (Weight("amt_model/amt-s.pth", "huggingface.co/lalala125/AMT"),),
    "dynamic_degree": (
        Weight("raft_model/models/raft-things.pth", "github.com/princeton-vl/RAFT, models.zip"),
    ),
    "aesthetic_quality": (
        Weight(
            "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",
            "github.com/LAION-AI/aesthetic-predictor",
        ),
        Weight("clip_model/ViT-L-14.pt", "OpenAI CLIP, ViT-L/14"),
    ),
    "imaging_quality": (
        Weight(
            "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",
            "github.com/chaofengc/IQA-PyTorch, release v0.1-weights",
        ),
    ),
}
"""What can be scored here: the quality dimensions. Layout: VBench's cache, and torch.hub's."""


def missing_weights(weights_dir: Path) -> dict[str, list[Weight]]:
    """The files that are not there, by dimension; dimensions that lack nothing are left out."""
    lacking = {
        name: [weight for weight in weights if not (weights_dir / weight.path).exists()]
        for name, weights in WEIGHTS.items()
    }
    return {name: weights for name, weights in lacking.items() if weights}
