"""What can be attached, and what is refused by name: the table of `docs/real-models.md`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    ChronoEditTransformer3DModel,
    SkyReelsV2Transformer3DModel,
    WanAnimateTransformer3DModel,
    WanTransformer3DModel,
    WanVACETransformer3DModel,
)
from torch import Tensor, nn

from tests import tables
from tests.toys import toy_pipeline, toy_transformer
from tethercache.backbones import attach
from tethercache.policies.window import Window

TOY = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 8,
    "freq_dim": 32,
    "ffn_dim": 32,
    "num_layers": 2,
}
IMAGE = {"image_dim": 8, "added_kv_proj_dim": 24}
FRAMES = 3
TOKENS = 4  # of a latent frame

# (who has it, its class, what is special about it, in a toy's configuration, why it is refused)
MODELS: list[tuple[str, Any, str, dict[str, Any], str | None]] = [
    ("Wan2.1-T2V-1.3B and 14B", WanTransformer3DModel, "", {}, None),
    ("Wan2.2-T2V-A14B", WanTransformer3DModel, "two models, a session each", {}, None),
    (
        "Wan2.2-TI2V-5B",
        WanTransformer3DModel,
        "48 channels; a timestep for each token",
        {"in_channels": 48, "out_channels": 48, "timestep": (FRAMES * TOKENS,)},
        None,
    ),
    (
        "Wan2.2-I2V-A14B and other inputs of 36 channels",
        WanTransformer3DModel,
        "the caller puts latents, mask and picture together",
        {"in_channels": 36, "out_channels": 16},
        None,
    ),
    ("SkyReels-V2", SkyReelsV2Transformer3DModel, "", {}, None),
    (
        "SkyReels-V2-DF",
        SkyReelsV2Transformer3DModel,
        "a timestep for each latent frame; its own causal mask is not used",
        {"timestep": (FRAMES,), "enable_diffusion_forcing": True, "num_frame_per_block": FRAMES},
        None,
    ),
    ("ChronoEdit", ChronoEditTransformer3DModel, "without image embeddings", {}, None),
    (
        "Wan2.1-I2V-14B",
        WanTransformer3DModel,
        "image embeddings",
        IMAGE,
        "image-to-video transformers with image cross-attention are not supported",
    ),
    (
        "Wan2.1-VACE",
        WanVACETransformer3DModel,
        "a control branch, which would see no history",
        {"vace_layers": [0], "vace_in_channels": 4},
        "is a VACE model",
    ),
    (
        "Wan2.2-Animate",
        WanAnimateTransformer3DModel,
        "pose and face branches",
        {"image_dim": None, "motion_encoder_channel_sizes": {"4": 4, "8": 4}}
        | {
            "motion_encoder_size": 8,
            "motion_style_dim": 4,
            "motion_dim": 2,
            "motion_encoder_dim": 4,
            "face_encoder_hidden_dim": 8,
            "face_encoder_num_heads": 2,
        },
        "not WanAnimateTransformer3DModel",
    ),
]
IDS = [name for name, *_ in MODELS]
CALLED = ("timestep", "enable_diffusion_forcing")


def build(kind: Any, options: dict[str, Any]) -> Any:
    """A toy of a class, with weights that all matter."""
    torch.manual_seed(0)
    config = {name: value for name, value in options.items() if name not in CALLED}
    made = kind(**(TOY | config)).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    return made


def flow(model: Any, latents: Tensor, options: dict[str, Any]) -> Tensor:
    """One call at timestep 500, in the form that the model's users know."""
    timestep = torch.full((len(latents), *options.get("timestep", ())), 500)
    more = {name: options[name] for name in CALLED[1:] if name in options}
    text = torch.randn(len(latents), 6, 8, generator=torch.Generator().manual_seed(1))
    made: Tensor = model(latents, timestep, text, **more).sample
    return made


@pytest.mark.parametrize(("name", "kind", "special", "options", "refusal"), MODELS, ids=IDS)
def test_a_model_is_served_exactly_or_refused_by_name(
    name: str, kind: Any, special: str, options: dict[str, Any], refusal: str | None
) -> None:
    model = build(kind, options)
    if refusal:
        with pytest.raises(ValueError, match=refusal), attach(model, Window()):
            pass
        return
    channels = options.get("in_channels", 16)
    latents = torch.randn(2, channels, 2 * FRAMES, 4, 4, generator=torch.Generator().manual_seed(2))
    first, second = latents.split(FRAMES, dim=2)
    alone = [flow(model, chunk, options) for chunk in (first, second)]
    with attach(model, Window()) as session:
        made = []
        for chunk in (first, second):
            with session.chunk(FRAMES):
                with session.denoising_pass():
                    made.append(flow(model, chunk, options))
                with session.context_pass(output=False):
                    flow(model, chunk, options)
    assert (made[0] - alone[0]).abs().max() < 1e-5  # nothing is remembered yet
    assert (made[1] - alone[1]).abs().max() > 1e-3
    assert torch.equal(flow(model, first, options), alone[0])


def table() -> str:
    """The models and what becomes of them, as the page shows them."""
    return tables.table(
        ("transformer", "`attach`", ""),
        (
            (name, "served" if refusal is None else "refused", special)
            for name, _, special, _, refusal in MODELS
        ),
    )


@pytest.mark.parametrize(
    "other", [nn.Linear(2, 2), "a/path", None, AutoencoderKLWan], ids=lambda x: type(x).__name__
)
def test_what_is_no_transformer_is_told_so(other: Any) -> None:
    name = type(other).__name__
    with (
        pytest.raises(ValueError, match=f"`transformer` must be .* not {name}$"),
        attach(other, Window()),
    ):
        pass


def test_a_pipeline_is_told_to_pass_its_transformer() -> None:
    with (
        pytest.raises(ValueError, match="not CausalVideoPipeline; pass its `transformer`"),
        attach(toy_pipeline(), Window()),  # type: ignore[arg-type]
    ):
        pass


@torch.no_grad()
def test_what_peft_has_made_of_a_model_can_be_attached() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    model = peft.get_peft_model(toy_transformer(), config).eval()
    options = {"in_channels": 4}
    latents = torch.randn(1, 4, FRAMES, 4, 4)
    expected = flow(model, latents, options)
    assert not torch.allclose(expected, flow(toy_transformer(), latents, options), atol=1e-3)
    with attach(model, Window()) as session, session.chunk(FRAMES):
        with session.denoising_pass():
            assert (flow(model, latents, options) - expected).abs().max() < 1e-5
        with session.context_pass():
            flow(model, latents, options)
