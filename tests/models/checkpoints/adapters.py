"""Synthetic adapters of every published kind, and the table of them in the documentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tests import tables
from tests.toys import toy_transformer

State = dict[str, Tensor]

MODULES = {
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q",
    "blocks.1.cross_attn.o": "blocks.1.attn2.to_out.0",
    "blocks.0.ffn.0": "blocks.0.ffn.net.0.proj",
    "blocks.1.ffn.2": "blocks.1.ffn.net.2",
}
"""The layers that are adapted: official names and those of diffusers."""

RANK = 2


def adapter(down: str = "lora_A", up: str = "lora_B", prefix: str = "") -> State:
    """A random adapter under official names."""
    state, random = {}, torch.Generator().manual_seed(5)
    model = toy_transformer()
    for official, name in MODULES.items():
        layer = model.get_submodule(name)
        for side, shape in (
            (down, (RANK, layer.in_features)),
            (up, (layer.out_features, RANK)),
        ):
            key = f"{prefix}{official}.{side}.weight"
            state[key] = torch.randn(shape, generator=random)
    return state


def flat(state: State) -> State:
    """Names as kohya and musubi write them."""
    renamed = {}
    for name, tensor in state.items():
        module, _, rest = name.partition(".lora_")
        renamed[f"lora_unet_{module.replace('.', '_')}.lora_{rest}"] = tensor
    return renamed


def of_diffusers(state: State) -> State:
    """Names as diffusers writes them."""
    renamed = {}
    for name, tensor in state.items():
        module, side = name.split(".lora_")
        renamed[f"transformer.{MODULES[module]}.lora_{side}"] = tensor
    return renamed


def updated(scale: float = 1.0) -> State:
    """The weights that the adapter makes of the toy's, W + scale x B A."""
    plain, made = adapter(), {}
    for official, name in MODULES.items():
        up, down = (plain[f"{official}.lora_{side}.weight"] for side in "BA")
        made[f"{name}.weight"] = toy_transformer().get_submodule(name).weight + scale * up @ down
    return made


def magnitudes() -> State:
    """Of each row of each adapted layer, by official names of layers."""
    random, model = torch.Generator().manual_seed(11), toy_transformer()
    rows = {module: model.get_submodule(name).out_features for module, name in MODULES.items()}
    return {module: 0.5 + torch.rand(n, generator=random) for module, n in rows.items()}


def decomposed(scale: float = 1.0) -> State:
    """The weights that a DoRA makes of the toy's: m W' / |W'|, row by row.

    W' is `updated(scale)`; this is equation 5 of arXiv 2402.09353.
    """
    sizes = {f"{name}.weight": magnitudes()[module] for module, name in MODULES.items()}
    return {
        name: (sizes[name] / moved.pow(2).sum(dim=1).sqrt())[:, None] * moved
        for name, moved in updated(scale).items()
    }


def dora(name: str = "dora_scale", prefix: str = "", column: bool = True) -> State:
    """The adapter with magnitudes under a name, `[out, 1]` or `[out]`."""
    sizes = {
        f"{prefix}{module}.{name}": size[:, None].clone() if column else size
        for module, size in magnitudes().items()
    }
    return adapter(prefix=prefix) | sizes


def of_kohya(dora: bool) -> State:
    """Flat names, with alphas that are the rank."""
    named = {f"lora_unet_{m.replace('.', '_')}": size for m, size in magnitudes().items()}
    sizes = {f"{layer}.dora_scale": size[:, None].clone() for layer, size in named.items()}
    alphas = {f"{layer}.alpha": torch.tensor(float(RANK)) for layer in named}
    return flat(adapter("lora_down", "lora_up")) | alphas | (sizes if dora else {})


CHANGED = {
    "blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
    "blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
    "blocks.1.norm3.diff_b": "blocks.1.norm2.bias",
    "blocks.1.diff_m": "blocks.1.scale_shift_table",
    "patch_embedding.diff": "patch_embedding.weight",
    "head.head.diff": "proj_out.weight",
}
"""Differences of whole parameters: their names, and the parameters that they are of."""


def differences() -> State:
    """Random differences of the parameters in `CHANGED`, by the parameters' names."""
    plain, random = toy_transformer().state_dict(), torch.Generator().manual_seed(9)
    return {name: torch.randn(plain[name].shape, generator=random) for name in CHANGED.values()}


def extracted() -> State:
    """An adapter with differences beside it."""
    changes = differences()
    beside = {f"diffusion_model.{name}": changes[changed] for name, changed in CHANGED.items()}
    return adapter(prefix="diffusion_model.") | beside


def extracted_values() -> State:
    plain = toy_transformer().state_dict()
    return updated() | {name: plain[name] + change for name, change in differences().items()}


def _columns() -> State:
    first = next(iter(MODULES))
    return dora() | {f"{first}.dora_scale": torch.ones(1, 24)}


def _in_part() -> State:
    first = next(iter(MODULES))
    return {name: tensor for name, tensor in dora().items() if name != f"{first}.dora_scale"}


class Kind(NamedTuple):
    """A kind of adapter, as the page about real models has it in a row of its table.

    Attributes:
        make: tensors of a file.
        what: what is in the file.
        who: who makes such files.
        then: what becomes of it.
        values: the weights that it makes of the toy's at scale 1.
        refused: what the message says, where it is not taken.
        merged_only: whether it cannot stay beside the weights.
    """

    make: Callable[[], State]
    what: str
    who: str
    then: str = "taken"
    values: Callable[[], State] = updated
    refused: str = ""
    merged_only: bool = False


_PLAIN = "`lora_A` and `lora_B`, or `lora_down` and `lora_up`, under any prefix"
_DORA = "DoRA: `dora_scale` or `lora_magnitude_vector` beside it"


KINDS = [
    Kind(lambda: adapter(prefix="base_model.model."), _PLAIN, "PEFT, LongLive, ComfyUI, diffusers"),
    Kind(
        lambda: adapter("lora_down", "lora_up", "diffusion_model."),
        _PLAIN,
        "PEFT, LongLive, ComfyUI, diffusers",
    ),
    Kind(lambda: of_diffusers(adapter()), _PLAIN, "PEFT, LongLive, ComfyUI, diffusers"),
    Kind(
        lambda: of_kohya(dora=False),
        "flat names (`lora_unet_blocks_0_self_attn_q`), with or without `alpha`",
        "kohya, musubi",
    ),
    Kind(
        extracted,
        "differences of whole weights beside it: `.diff`, `.diff_b`, `.diff_m`",
        "LightX2V's extractions",
        "merged; beside the weights refused, as no scale can be given to them",
        extracted_values,
        merged_only=True,
    ),
    Kind(dora, _DORA, "LyCORIS, kohya, PEFT, diffusers", values=decomposed),
    Kind(
        lambda: dora(prefix="diffusion_model."),
        _DORA,
        "LyCORIS, kohya, PEFT, diffusers",
        values=decomposed,
    ),
    Kind(lambda: of_kohya(dora=True), _DORA, "LyCORIS, kohya, PEFT, diffusers", values=decomposed),
    Kind(
        lambda: dora("lora_magnitude_vector", "transformer.", column=False),
        _DORA,
        "LyCORIS, kohya, PEFT, diffusers",
        values=decomposed,
    ),
    Kind(
        lambda: dora("lora_magnitude_vector.default.weight", column=False),
        _DORA,
        "LyCORIS, kohya, PEFT, diffusers",
        values=decomposed,
    ),
    Kind(
        _columns,
        "DoRA with magnitudes of columns",
        "older LyCORIS",
        "refused: PEFT has those of rows",
        refused="1 layers have a magnitude of each column.*blocks.0.attn1.to_q",
    ),
    Kind(
        _in_part,
        "DoRA with magnitudes for a part of the layers",
        "mixtures",
        "refused: PEFT has them for all layers or for none",
        refused="1 layers have no magnitude.*blocks.0.attn1.to_q",
    ),
    Kind(
        lambda: {"blocks.0.self_attn.q.hada_w1_a": torch.ones(24, 2)},
        "LoHa, LoKr",
        "LyCORIS",
        "refused by the names of their tensors",
        refused="1 tensors are no LoRA .blocks.0.self_attn.q.hada_w1_a",
    ),
    Kind(
        lambda: {"blocks.0.self_attn.q.lokr_w1": torch.ones(2, 2)},
        "LoHa, LoKr",
        "LyCORIS",
        "refused by the names of their tensors",
        refused="1 tensors are no LoRA .blocks.0.self_attn.q.lokr_w1",
    ),
]


def table() -> str:
    """The kinds and what becomes of them, as the page shows them."""
    return tables.table(
        ("adapter", "who makes it", "what happens"),
        ((kind.what, kind.who, kind.then) for kind in KINDS),
    )
