"""Synthetic checkpoints of every published format, and the table of them in the documentation."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests import tables
from tests.models.checkpoints.made import CONFIG, noise, official, plain, reference

Make = Callable[[Path], Path]
State = dict[str, Tensor]


class Format(NamedTuple):
    """A format, as the page about real models has it in a row of its table.

    Attributes:
        make: writes a file or folder of it.
        what: what it is.
        who: who makes such files.
        then: what becomes of it.
        values: the weights that it holds, by original names.
        refused: what the message says, where it is not loaded.
        said: what a warning says, where it is loaded.
    """

    make: Make
    what: str
    who: str
    then: str
    values: Callable[[], State]
    refused: str = ""
    said: str = ""


FORMATS: list[Format] = []


def published(
    what: str,
    who: str,
    then: str = "loaded",
    *,
    values: Callable[[], State] = plain,
    refused: str = "",
    said: str = "",
) -> Callable[[Make], Make]:
    """Register a format; the function writes a synthetic file of it."""

    def register(make: Make) -> Make:
        FORMATS.append(Format(make, what, who, then, values, refused, said))
        return make

    return register


def table() -> str:
    """The formats and what becomes of them, as the page shows them."""
    return tables.table(
        ("format", "who makes it", "what happens"),
        ((row.what, row.who, row.then) for row in FORMATS),
    )


def configured(folder: Path) -> Path:
    """A folder that tells the number of heads, which tensors do not."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def _pt(folder: Path, content: object) -> Path:
    torch.save(content, configured(folder) / "model.pt")
    return folder / "model.pt"


def _safetensors(folder: Path, state: State, metadata: dict[str, str] | None = None) -> Path:
    save_file(state, configured(folder) / "wan.safetensors", metadata)
    return folder / "wan.safetensors"


@published("training state, `.pt` with `generator_ema` or `generator`", "Self-Forcing and kin")
def self_forcing_dmd(folder: Path) -> Path:
    return _pt(folder, {"generator_ema": official()})


@published("training state, `.pt` with `generator_ema` or `generator`", "Self-Forcing and kin")
def self_forcing_sid(folder: Path) -> Path:
    state = official()
    return _pt(folder, {"generator": noise(state), "critic": noise(state), "generator_ema": state})


@published("names wrapped by FSDP, checkpointing, `torch.compile` or DDP", "training scripts")
def causal_forcing_with_fsdp_names(folder: Path) -> Path:
    wrapped = {
        name.replace("model.", "model._fsdp_wrapped_module.", 1).replace(
            "blocks.1.", "blocks.1._checkpoint_wrapped_module."
        ): tensor
        for name, tensor in official().items()
    }
    return _pt(folder, {"generator_ema": wrapped})


@published("training state, `.pt` with `generator_ema` or `generator`", "Self-Forcing and kin")
def longlive_base(folder: Path) -> Path:
    return _pt(folder, {"generator": official()})


@published("names wrapped by FSDP, checkpointing, `torch.compile` or DDP", "training scripts")
def reward_forcing_compiled(folder: Path) -> Path:
    compiled = {f"model._orig_mod.{name[6:]}": tensor for name, tensor in official().items()}
    return _pt(folder, {"generator_ema": compiled})


@published("names wrapped by FSDP, checkpointing, `torch.compile` or DDP", "training scripts")
def saved_under_ddp(folder: Path) -> Path:
    return _pt(folder, {f"module.{name}": tensor for name, tensor in official().items()})


@published("names under `generator.model.` or `model.model.`", "whole pipelines saved as one")
def part_of_a_pipeline(folder: Path) -> Path:
    return _pt(folder, {f"generator.{name}": tensor for name, tensor in official().items()})


@published("names under `generator.model.` or `model.model.`", "whole pipelines saved as one")
def model_in_a_model(folder: Path) -> Path:
    return _safetensors(folder, {f"model.{name}": tensor for name, tensor in official().items()})


@published("plain state dict, `.pt`", "anyone")
def plain_state_dict(folder: Path) -> Path:
    return _pt(folder, plain())


@published("pickle from before PyTorch 1.6", "old scripts")
def legacy_pickle(folder: Path) -> Path:
    path = configured(folder) / "model.pt"
    torch.save({"generator": official()}, path, _use_new_zipfile_serialization=False)
    return path


@published("folder with one checkpoint of any kind", "downloads")
def folder_with_one_checkpoint(folder: Path) -> Path:
    return self_forcing_dmd(folder).parent


@published("original safetensors, one file or shards with an index", "Wan")
def original_wan_file(folder: Path) -> Path:
    save_file(plain(), configured(folder) / "diffusion_pytorch_model.safetensors")
    return folder / "diffusion_pytorch_model.safetensors"


@published("original safetensors, one file or shards with an index", "Wan")
def original_wan_folder(folder: Path) -> Path:
    return original_wan_file(folder).parent


@published("original safetensors, one file or shards with an index", "Wan")
def original_wan_shards(folder: Path) -> Path:
    state, shards = plain(), {}
    for number, names in enumerate((sorted(state)[:40], sorted(state)[40:]), start=1):
        file = f"diffusion_pytorch_model-{number:05d}-of-00002.safetensors"
        save_file({name: state[name] for name in names}, configured(folder) / file)
        shards |= dict.fromkeys(names, file)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    return folder


@published("folder in diffusers' format, of the transformer or the pipeline", "diffusers")
def diffusers_folder(folder: Path) -> Path:
    reference().save_pretrained(folder / "transformer")
    return folder / "transformer"


@published("folder in diffusers' format, of the transformer or the pipeline", "diffusers")
def diffusers_pipeline(folder: Path) -> Path:
    return diffusers_folder(folder).parent


@published("safetensors under `model.diffusion_model.`", "ComfyUI")
def comfy_file(folder: Path) -> Path:
    return _safetensors(folder, _comfy(plain()))


def _comfy(state: State) -> State:
    return {f"model.diffusion_model.{name}": tensor for name, tensor in state.items()}


def _matrices(state: State) -> list[str]:
    """Names of the layers that are usually quantised."""
    return [name for name, tensor in state.items() if "blocks" in name and tensor.ndim == 2]


FP8 = torch.float8_e4m3fn


def in_fp8() -> State:
    state = plain()
    return state | {name: state[name].to(FP8) for name in _matrices(state)}


def _floats(state: State) -> State:
    return {name: tensor.float() for name, tensor in state.items()}


@published(
    "fp8 without scales",
    "Kijai, ComfyUI",
    "loaded; in bfloat16 unless a dtype is given",
    values=lambda: _floats(in_fp8()),
)
def plain_fp8(folder: Path) -> Path:
    return _safetensors(folder, _comfy(in_fp8()))


def scaled(dtype: torch.dtype, blocks: Callable[[Tensor], Tensor]) -> tuple[State, State, State]:
    """Weights in 8 bits, their scales by layer, and what they stand for."""
    state, scales = plain(), {}
    values = dict(state)
    most = 127 if dtype == torch.int8 else torch.finfo(dtype).max
    for name in _matrices(state):
        largest = blocks(state[name].abs())
        scale = largest / most
        wide = scale.expand_as(state[name]) if scale.ndim < 2 or scale.shape[1] == 1 else None
        if wide is None:
            side = len(state[name]) // len(scale)
            wide = torch.kron(scale, torch.ones(side, side))
        small = state[name] / wide
        state[name] = (small.round() if dtype == torch.int8 else small).to(dtype)
        values[name] = state[name].float() * wide
        scales[name.removesuffix(".weight")] = scale
    return state, scales, values


def whole(weight: Tensor) -> Tensor:
    return weight.max()


def rows(weight: Tensor) -> Tensor:
    return weight.amax(1, keepdim=True)


def squares(weight: Tensor) -> Tensor:
    side = 32
    n, k = weight.shape
    return weight.view(n // side, side, k // side, side).amax((1, 3))


UNDONE = "dequantised exactly; in bfloat16 unless a dtype is given"


@published(
    "fp8 with `scale_weight` and `scaled_fp8`",
    "ComfyUI, Kijai",
    UNDONE,
    values=lambda: scaled(FP8, whole)[2],
)
def scaled_fp8(folder: Path) -> Path:
    state, scales, _ = scaled(FP8, whole)
    for layer, scale in scales.items():
        state[f"{layer}.scale_weight"] = scale
        state[f"{layer}.scale_input"] = torch.tensor(3.0)
    return _safetensors(folder, _comfy(state | {"scaled_fp8": torch.zeros(2, dtype=FP8)}))


def _marked(dtype: torch.dtype, blocks: Callable[[Tensor], Tensor], layout: object) -> State:
    state, scales, _ = scaled(dtype, blocks)
    mark = torch.tensor(list(json.dumps(layout).encode()), dtype=torch.uint8)
    for layer, scale in scales.items():
        state |= {f"{layer}.weight_scale": scale, f"{layer}.comfy_quant": mark.clone()}
    return _comfy(state)


@published(
    "fp8 or int8 with `weight_scale` and `comfy_quant`",
    "ComfyUI",
    UNDONE,
    values=lambda: scaled(FP8, whole)[2],
)
def comfy_fp8(folder: Path) -> Path:
    return _safetensors(folder, _marked(FP8, whole, {"format": "float8_e4m3fn"}))


@published(
    "fp8 or int8 with `weight_scale` and `comfy_quant`",
    "ComfyUI",
    UNDONE,
    values=lambda: scaled(torch.int8, squares)[2],
)
def comfy_int8_in_blocks(folder: Path) -> Path:
    layout = {"format": "int8_blockwise", "group_size": 32}
    return _safetensors(folder, _marked(torch.int8, squares, layout))


@published(
    "fp8 or int8 with `weight_scale` and `comfy_quant`",
    "ComfyUI",
    UNDONE,
    values=lambda: scaled(torch.float8_e5m2, whole)[2],
)
def comfy_fp8_told_in_the_header(folder: Path) -> Path:
    state, scales, _ = scaled(torch.float8_e5m2, whole)
    layers = {layer: {"format": "float8_e5m2"} for layer in scales}
    told = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    state |= {f"{layer}.weight_scale": scale for layer, scale in scales.items()}
    return _safetensors(folder, state, told)


@published(
    "nvfp4, mxfp8, rotated int8",
    "ComfyUI",
    "refused: what was done to the weights is not undone here",
    refused="stored as int8_tensorwise with convrot",
)
def comfy_rotated(folder: Path) -> Path:
    layout = {"format": "int8_tensorwise", "convrot": True}
    return _safetensors(folder, _marked(torch.int8, rows, layout))


@published(
    "nvfp4, mxfp8, rotated int8",
    "ComfyUI",
    "refused: what was done to the weights is not undone here",
    refused="stored as mxfp8",
)
def comfy_mxfp8(folder: Path) -> Path:
    return _safetensors(folder, _marked(FP8, rows, {"format": "mxfp8"}))


def _by_rows(folder: Path, dtype: torch.dtype) -> Path:
    state, scales, _ = scaled(dtype, rows)
    state |= {f"{layer}.weight_scale": scale for layer, scale in scales.items()}
    return _safetensors(folder, state)


@published(
    "fp8 or int8 with a `weight_scale` of each row",
    "LightX2V",
    UNDONE,
    values=lambda: scaled(FP8, rows)[2],
)
def lightx2v_fp8(folder: Path) -> Path:
    return _by_rows(folder, FP8)


@published(
    "fp8 or int8 with a `weight_scale` of each row",
    "LightX2V",
    UNDONE,
    values=lambda: scaled(torch.int8, rows)[2],
)
def lightx2v_int8(folder: Path) -> Path:
    return _by_rows(folder, torch.int8)


def _in_gguf(kind: str) -> tuple[State, State]:
    """Weights in blocks of ggml, and what they stand for."""
    gguf = pytest.importorskip("gguf", reason="GGUF is an extra")
    kind = getattr(gguf.GGMLQuantizationType, kind)
    state, values = plain(), plain()
    packed = {name: gguf.quantize(state[name].numpy(), kind) for name in _matrices(state)}
    for name, blocks in packed.items():
        values[name] = torch.from_numpy(gguf.dequantize(blocks, kind).copy())
    return packed, values


def _gguf(folder: Path, kind: str) -> Path:
    packed, _ = _in_gguf(kind)
    import gguf

    writer = gguf.GGUFWriter(configured(folder) / "wan.gguf", "wan")
    for name, tensor in plain().items():
        if name in packed:
            kinds = gguf.GGMLQuantizationType
            writer.add_tensor(name, packed[name], raw_dtype=getattr(kinds, kind))
        elif tensor.ndim == 5:  # more axes than ggml has
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(tensor.shape))
            writer.add_tensor(name, tensor.flatten(1).numpy())
        else:
            writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "wan.gguf"


BLOCKS = "dequantised by the `gguf` library (extra `gguf`); in bfloat16 unless a dtype is given"


@published(
    "GGUF, every kind that the library can undo",
    "city96",
    BLOCKS,
    values=lambda: _in_gguf("Q8_0")[1],
)
def gguf_q8_0(folder: Path) -> Path:
    return _gguf(folder, "Q8_0")


@published(
    "GGUF, every kind that the library can undo",
    "city96",
    BLOCKS,
    values=lambda: _in_gguf("Q4_0")[1],
)
def gguf_q4_0(folder: Path) -> Path:
    return _gguf(folder, "Q4_0")


@published(
    "GGUF, every kind that the library can undo",
    "city96",
    BLOCKS,
    values=lambda: _in_gguf("BF16")[1],
)
def gguf_bf16(folder: Path) -> Path:
    return _gguf(folder, "BF16")


def with_adapter() -> tuple[State, State]:
    """A model wrapped by PEFT, and what it computes with."""
    random = torch.Generator().manual_seed(7)
    state, values = {}, plain()
    for name, tensor in plain().items():
        layer, _, leaf = name.rpartition(".")
        if tensor.ndim == 2 and "attn" in name:
            down = torch.randn(4, tensor.shape[1], generator=random)
            up = torch.randn(len(tensor), 4, generator=random)
            state |= {f"{layer}.lora_A.default.weight": down, f"{layer}.lora_B.default.weight": up}
            values[name] = tensor + up @ down
        wrapped = "attn" in name and not name.endswith(("norm_q.weight", "norm_k.weight"))
        state[f"{layer}.base_layer.{leaf}" if wrapped else name] = tensor
    return {f"base_model.model.{name}": tensor for name, tensor in state.items()}, values


@published(
    "generator wrapped by PEFT (`base_layer`, `lora_A`, `lora_B`)",
    "LongLive's training",
    "loaded, the adapter merged, and said; alpha is that of an `adapter_config.json`, or the rank",
    values=lambda: with_adapter()[1],
    said="it is merged, with an alpha equal to its rank",
)
def wrapped_by_peft(folder: Path) -> Path:
    return _pt(folder, {"generator": {f"model.{n}": t for n, t in with_adapter()[0].items()}})


@published(
    "text-to-video model with VACE's branch merged in",
    "ComfyUI users",
    "the text-to-video part is loaded, and said",
    said="control branch, which is left out: 2 tensors",
)
def merged_with_vace(folder: Path) -> Path:
    control = {"vace_blocks.0.before_proj.weight": torch.zeros(4, 4)}
    control["vace_patch_embedding.weight"] = torch.zeros(4, 4)
    return _safetensors(folder, _comfy(plain() | control))


@published("image-to-video model (`img_emb`)", "Wan", "refused by name", refused="image-to-video")
def image_to_video(folder: Path) -> Path:
    return _safetensors(folder, plain() | {"img_emb.proj.0.weight": torch.zeros(4)})


@published("an adapter alone", "trainers of LoRA", "refused: `--lora` takes it", refused="--lora")
def adapter_alone(folder: Path) -> Path:
    return _safetensors(folder, {"blocks.0.self_attn.q.lora_A.weight": torch.zeros(2, 128)})


@published(
    "pickle with anything but tensors, TorchScript",
    "careless scripts",
    "refused unopened, with a way out",
    refused="nothing was executed. Look for the same weights as safetensors",
)
def pickle_with_code(folder: Path) -> Path:
    return _pt(folder, {"generator": official(), "args": Namespace(lr=1e-5)})


@published(
    "pickle with anything but tensors, TorchScript",
    "careless scripts",
    "refused unopened, with a way out",
    refused="TorchScript program.* Look for the same weights as safetensors",
)
def torchscript(folder: Path) -> Path:
    torch.jit.script(torch.nn.Linear(1, 1)).save(folder / "script.pt")
    return folder / "script.pt"
