"""Names of parameters in published files."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from tests.models.checkpoints import made
from tethercache.models.checkpoints.names import diffusers_name, original_name


@pytest.mark.parametrize(
    ("official", "diffusers"),
    [
        ("model.head.modulation", "scale_shift_table"),
        ("model.blocks.3.modulation", "blocks.3.scale_shift_table"),
        ("model._fsdp_wrapped_module.blocks.0.ffn.2.bias", "blocks.0.ffn.net.2.bias"),
        ("blocks.10.self_attn.o.weight", "blocks.10.attn1.to_out.0.weight"),
        ("blocks.10.cross_attn.norm_q.weight", "blocks.10.attn2.norm_q.weight"),
        ("model.blocks.1.norm3.weight", "blocks.1.norm2.weight"),
        ("model._orig_mod.time_projection.1.weight", "condition_embedder.time_proj.weight"),
        ("patch_embedding.bias", "patch_embedding.bias"),
    ],
)
def test_official_names_become_diffusers_names(official: str, diffusers: str) -> None:
    assert diffusers_name(official) == diffusers


def test_names_of_the_golden_file_are_all_renamed() -> None:
    names = {diffusers_name(name) for name in load_file(made.GOLDEN / "model.safetensors")}
    assert names == set(made.reference().state_dict())


def test_the_names_of_the_original_code_come_back() -> None:
    for name in made.plain():
        assert original_name(diffusers_name(name)) == name
