"""Models that others may have made: pipeline folders, checkpoints of both kinds, adapters."""

from __future__ import annotations

import base64
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save

from fuzz import mutate
from fuzz.guard import MARK
from fuzz.kind import Kind
from tests.models.checkpoints.made import wan_names
from tests.toys import toy_pipeline, toy_transformer
from tethercache.errors import TetherCacheError
from tethercache.fit.sizes import measure
from tethercache.models import fetch, find, read_settings
from tethercache.models.checkpoints.load import load_transformer
from tethercache.models.checkpoints.lora import merge_lora
from tethercache.pipeline import CausalVideoPipeline

_CODE = f"open({MARK!r}, 'w').close()"
_CONFIG = {"dim": 24, "num_heads": 2, "eps": 1e-6}
_ADDED = {
    "modeling_wan.py": _CODE.encode(),
    "pipeline.py": _CODE.encode(),
    "transformer/__init__.py": _CODE.encode(),
    "tokenizer/tokenization_custom.py": _CODE.encode(),
    "tokenizer/chat_template.jinja": b"{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "tokenizer/added_tokens.json": b'{"a": 1000000000}',
    "tokenizer/vocab.txt": b"\xff\xfe" * 100,
    "text_encoder/pytorch_model.bin": b"\x80\x02c" + f"builtins\nexec\n(V{_CODE}\ntR.".encode(),
    "text_encoder/generation_config.json": b'{"auto_map": {"a": "b.c"}, "max_length": -1}',
    "transformer/diffusion_pytorch_model.bin": b"PK\3\4",
    "transformer/diffusion_pytorch_model.safetensors.index.json": b'{"weight_map": {"a": "../b"}}',
    "vae/diffusion_pytorch_model.gguf": b"GGUF\3\0\0\0",
    "scheduler/config.json": b"{}",
}


class Folders(Kind):
    """Folders in the format of diffusers, with what people and programs may put there."""

    name = "folders"
    share = 1
    most = 3000
    short = 8
    refusals = (TetherCacheError,)

    def prepare(self) -> None:
        """Save a small pipeline."""
        toy_pipeline().save_pretrained("model")
        root = Path("model")
        self._files = {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }
        self._settings = read_settings(root)
        self._documents = [name for name in self._files if name.endswith(".json")]
        self._weights = [name for name in self._files if name.endswith(".safetensors")]

    def make(self, rng: Random) -> bytes:
        """Which files have which content: a JSON object, the contents in base 64."""
        changes: dict[str, bytes | None] = {}
        for _ in range(rng.choice((1, 1, 1, 2))):
            kind = rng.random()
            if kind < 0.7:
                name = rng.choice(self._documents)
                changes[name] = self._changed(name, rng)
            elif kind < 0.85:
                name = rng.choice(self._weights)
                changes[name] = damaged_safetensors(self._files[name], rng)
            elif kind < 0.95:
                name = rng.choice(list(_ADDED))
                changes[name] = _ADDED[name]
            else:
                changes[rng.choice(list(self._files))] = None
        made = {n: c if c is None else base64.b64encode(c).decode() for n, c in changes.items()}
        return json.dumps(made).encode()

    def _changed(self, name: str, rng: Random) -> bytes:
        document = mutate.changed(json.loads(self._files[name]), rng)
        if isinstance(document, dict) and rng.random() < 0.15:
            document |= rng.choice(
                (
                    {"auto_map": {"AutoModel": "modeling_wan.WanModel"}},
                    {"_class_name": ["pipeline", "WanPipeline"]},
                    {"trust_remote_code": True},
                    {"quantization_config": {"quant_method": "bitsandbytes"}},
                    {"torch_dtype": "os.system"},
                    {"_attn_implementation": "owner/kernel"},
                    {"chat_template": "{{ cycler.__init__.__globals__.os.system('true') }}"},
                    {"tokenizer_class": "tokenization_custom"},
                    {"transformer": ["pipeline", "WanTransformer3DModel"]},
                    {"custom_pipeline": "pipeline.py"},
                )
            )
        return mutate.written(document, rng)

    def take(self, content: bytes) -> None:
        """Find, fetch, measure and load it, encode a prompt and make a video of one chunk."""
        changes: dict[str, str | None] = json.loads(content)
        root = Path("model")
        try:
            for name, encoded in changes.items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                if encoded is not None:
                    path.write_bytes(base64.b64decode(encoded))
            self._load(root)
        finally:
            self._restore(root, changes)

    def _load(self, root: Path) -> None:
        parts = fetch(find(str(root)))
        measure(parts)
        pipe = CausalVideoPipeline.from_pretrained(parts)
        embeds = pipe.encode_prompt(["a red ball"])
        if parts.settings == self._settings:  # others may take hours, or another policy
            video = pipe.stream(
                "a", prompt_embeds=embeds, num_latent_frames=parts.settings.chunk_size, seed=1
            )
            for _ in video:
                pass

    def _restore(self, root: Path, changes: dict[str, str | None]) -> None:
        for name in changes:
            (root / name).unlink(missing_ok=True)
            if name in self._files:
                (root / name).write_bytes(self._files[name])


class SafetensorsFiles(Kind):
    """Checkpoints in safetensors: damaged headers first of all."""

    name = "safetensors"
    share = 8
    most = 12_000
    refusals = (TetherCacheError,)

    def prepare(self) -> None:
        """Save a small transformer under the names of Wan."""
        Path("config.json").write_text(json.dumps(_CONFIG))
        state = wan_names(toy_transformer(layers=1, head_dim=12))
        self._content = save(state, {"config": json.dumps(_CONFIG)})

    def make(self, rng: Random) -> bytes:
        """A damaged file."""
        return damaged_safetensors(self._content, rng)

    def take(self, content: bytes) -> None:
        """Load it."""
        path = Path("wan.safetensors")
        path.write_bytes(content)
        load_transformer(path)


class Adapters(Kind):
    """LoRA adapters, with and without the configuration of PEFT beside them."""

    name = "adapters"
    share = 1
    most = 2000
    refusals = (TetherCacheError,)

    def prepare(self) -> None:
        """Make an adapter of one layer."""
        self._transformer = toy_transformer(layers=1)
        name = "base_model.model.blocks.0.self_attn.q.lora_{}.weight"
        state = {name.format("A"): torch.ones(2, 24), name.format("B"): torch.ones(24, 2)}
        self._content = save(state | {"blocks.0.self_attn.q.alpha": torch.tensor(2.0)})

    def make(self, rng: Random) -> bytes:
        """A configuration in a line, and the weights."""
        config = mutate.changed({"lora_alpha": 4, "r": 2, "peft_type": "LORA"}, rng)
        line = json.dumps(config).encode() if rng.random() < 0.5 else b""
        return line + b"\n" + damaged_safetensors(self._content, rng)

    def take(self, content: bytes) -> None:
        """Merge it."""
        config, _, weights = content.partition(b"\n")
        Path("adapter").mkdir(exist_ok=True)
        Path("adapter/adapter_config.json").unlink(missing_ok=True)
        if config:
            Path("adapter/adapter_config.json").write_bytes(config)
        Path("adapter/adapter_model.safetensors").write_bytes(weights)
        try:
            merge_lora(self._transformer, "adapter")
        finally:
            assert not getattr(self._transformer, "peft_config", None)


class Pickles(Kind):
    """Checkpoints of torch: damaged archives, damaged and hostile pickles."""

    name = "pickles"
    share = 6
    most = 8000
    refusals = (TetherCacheError,)

    def prepare(self) -> None:
        """Save a small transformer in both formats of torch."""
        Path("config.json").write_text(json.dumps(_CONFIG))
        state = {"generator_ema": wan_names(toy_transformer(layers=1, head_dim=12))}
        self._archive, self._legacy = (_saved(state, new) for new in (True, False))

    def make(self, rng: Random) -> bytes:
        """A damaged file, or an archive with another pickle in it."""
        kind = rng.random()
        if kind < 0.15:
            return mutate.damaged(self._archive, rng, len(self._archive))
        if kind < 0.3:
            return mutate.damaged(self._legacy, rng)
        if kind < 0.4:
            return _program(rng)
        return self._with_pickle(rng)

    def _with_pickle(self, rng: Random) -> bytes:
        made = io.BytesIO()
        with (
            zipfile.ZipFile(io.BytesIO(self._archive)) as old,
            zipfile.ZipFile(made, "w", rng.choice((0, 0, 0, 8))) as new,
        ):
            for entry in old.infolist():
                content = old.read(entry)
                if entry.filename.endswith("data.pkl"):
                    content = _program(rng) if rng.random() < 0.5 else mutate.damaged(content, rng)
                elif rng.random() < 0.02:
                    content = content[: rng.randrange(len(content) + 1)]
                new.writestr(entry.filename, content)
        return made.getvalue()

    def take(self, content: bytes) -> None:
        """Load it."""
        path = Path("model.pt")
        path.write_bytes(content)
        load_transformer(path)


def _saved(state: object, new: bool) -> bytes:
    made = io.BytesIO()
    torch.save(state, made, _use_new_zipfile_serialization=new)
    return made.getvalue()


def damaged_safetensors(content: bytes, rng: Random) -> bytes:
    """A file whose header says something else, or whose bytes are damaged."""
    if rng.random() < 0.3:
        return mutate.damaged(content, rng)
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    written = mutate.written(mutate.changed(header, rng), rng)
    length = len(written) if rng.random() < 0.95 else rng.choice(mutate.NUMBERS) % (1 << 64)
    return length.to_bytes(8, "little") + written + content[8 + size :]


_GLOBALS = (
    "os system", "posix system", "builtins exec", "builtins eval", "builtins getattr",
    "builtins __import__", "builtins open", "subprocess Popen", "importlib import_module",
    "functools partial", "operator attrgetter", "torch load", "torch.hub load",
    "torch.serialization load", "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch FloatStorage", "torch.storage UntypedStorage", "torch Tensor", "torch Size",
    "torch.storage _load_from_bytes", "collections OrderedDict", "collections Counter",
    "numpy.core.multiarray scalar", "numpy dtype", "builtins bytearray", "builtins range",
    "_codecs encode", "torch._tensor _rebuild_from_type_v2", "torch nn.Linear", "torch ByteStorage",
    "torch.sparse _rebuild_sparse_tensor", "torch._utils _rebuild_qtensor", "torch device",
)  # fmt: skip
_STRINGS = (_CODE, f"touch {MARK}", "generator_ema", "storage", "0", "cpu", "a", "__class__", "w")


def _program(rng: Random) -> bytes:
    """A pickle by its grammar: values, calls of anything, containers, in any order."""
    made = bytearray(b"\x80\x02")
    for _ in range(rng.randrange(1, 14)):
        made += rng.choice(_OPERATIONS)(rng)
    if rng.random() < 0.3:
        made += b"}(" + pickle.dumps("model", 2)[2:-1] + _call(rng) + b"u"
    return bytes(made + b".")


def _call(rng: Random) -> bytes:
    code = b"c" + "\n".join(rng.choice(_GLOBALS).split(" ")).encode() + b"\n"
    arguments = b"".join(_value(rng) for _ in range(rng.randrange(4)))
    return code + b"(" + arguments + b"t" + rng.choice((b"R", b"R", b"R", b"\x81", b"b"))


def _value(rng: Random) -> bytes:
    value = rng.choice((*_STRINGS, *mutate.NUMBERS, None, True, 0.5, (), [], {}, b"a"))
    return pickle.dumps(value, 2)[2:-1]


def _instance(rng: Random) -> bytes:
    return b"(" + _value(rng) + b"i" + rng.choice(_GLOBALS).replace(" ", "\n").encode() + b"\n"


_OPERATIONS: tuple[Callable[[Random], bytes], ...] = (
    _call,
    _call,
    _value,
    _value,
    _instance,
    lambda rng: bytes([rng.randrange(256)]),
    lambda rng: rng.choice((b"(", b"t", b"l", b"d", b"e", b"u", b"s", b"a", b"b", b"o", b"R")),
    lambda rng: rng.choice((b"q", b"h")) + bytes([rng.randrange(4)]),
    lambda rng: rng.choice(
        (b"Q", b"P0\n", b"\x85", b"\x86", b"\x87", b"}", b"]", b")", b"2", b"0")
    ),
)
