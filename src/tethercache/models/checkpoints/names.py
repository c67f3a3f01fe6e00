"""Names of parameters: those of the original Wan code, under any wrapper, and diffusers'."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_INSIDE = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""What FSDP, checkpointing and `torch.compile` put between the parts of a name."""

_IN_FRONT = re.compile(
    r"^(?:(?:base_model|default|diffusion_model|generator|model|module|transformer)\.)+"
)
"""What Self-Forcing, ComfyUI, PEFT, DDP and diffusers put before the names of a model's parts."""

_FLAT = re.compile(
    r"^lora_unet_(?:(blocks)_(\d+)_(self_attn|cross_attn|ffn)"
    r"|(time_embedding|text_embedding|time_projection|head))_(\w+)\."
)
"""The layers of a model as kohya's and musubi's trainers name them, without dots."""

_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
        (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
        (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
        (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
        (r"^time_projection\.1\.", "condition_embedder.time_proj."),
        (r"^head\.modulation$", "scale_shift_table"),
        (r"^head\.head\.", "proj_out."),
        (r"^(blocks\.\d+)\.modulation$", r"\1.scale_shift_table"),
        (r"^(blocks\.\d+\.ffn)\.0\.", r"\1.net.0.proj."),
        (r"^(blocks\.\d+\.ffn)\.2\.", r"\1.net.2."),
        (r"^(blocks\.\d+)\.norm3\.", r"\1.norm2."),
        (r"^(blocks\.\d+)\.self_attn\.", r"\1.attn1."),
        (r"^(blocks\.\d+)\.cross_attn\.", r"\1.attn2."),
        (r"^(blocks\.\d+\.attn[12])\.([qkv])\.", r"\1.to_\2."),
        (r"^(blocks\.\d+\.attn[12])\.o\.", r"\1.to_out.0."),
    )
)

_BACK = (
    ("condition_embedder.time_embedder.linear_1.", "time_embedding.0."),
    ("condition_embedder.time_embedder.linear_2.", "time_embedding.2."),
    ("condition_embedder.text_embedder.linear_1.", "text_embedding.0."),
    ("condition_embedder.text_embedder.linear_2.", "text_embedding.2."),
    ("condition_embedder.time_proj.", "time_projection.1."),
    ("proj_out.", "head.head."),
    (".scale_shift_table", ".modulation"),
    (".ffn.net.0.proj.", ".ffn.0."),
    (".ffn.net.2.", ".ffn.2."),
    (".norm2.", ".norm3."),
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".to_out.0.", ".o."),
)


def diffusers_name(name: str) -> str:
    """The diffusers name of a parameter, from any of the names that it has in published files."""
    if flat := _FLAT.match(name):
        name = ".".join((*filter(None, flat.groups()), name[flat.end() :]))
    for wrapper in _INSIDE:
        name = name.replace(wrapper, "")
    name = _IN_FRONT.sub("", name)
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


def original_name(name: str) -> str:
    """The name that a parameter of diffusers' Wan transformer has in the original code."""
    for ours, theirs in _BACK:
        name = name.replace(ours, theirs)
    return "head.modulation" if name == "scale_shift_table" else name


def module_name(name: str) -> str:
    """The diffusers name of a layer; see `diffusers_name`."""
    return diffusers_name(f"{name}.weight").removesuffix(".weight")


def to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a whole state dict; tensors are shared, not copied."""
    return {diffusers_name(name): tensor for name, tensor in state.items()}
