"""Checkpoints of every format, loaded and converted: the same output, with little memory."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor

from tests.models.checkpoints import made
from tests.models.checkpoints.formats import FORMATS, Format, self_forcing_dmd
from tethercache.alignment import is_aligned
from tethercache.errors import MissingModelError, TetherCacheError, WrongModelError
from tethercache.models.checkpoints.convert import convert
from tethercache.models.checkpoints.load import load_transformer
from tethercache.models.checkpoints.names import diffusers_name


def named(row: Format) -> str:
    return row.make.__name__


LOADED = pytest.mark.parametrize("row", [row for row in FORMATS if not row.refused], ids=named)


def flow(model: WanTransformer3DModel) -> Tensor:
    torch.manual_seed(1)
    latents, text = torch.randn(1, 16, 3, 8, 10), torch.randn(1, 16, 32)
    with torch.no_grad():
        return model(latents, torch.tensor([500.0]), text).sample


@LOADED
def test_every_format_gives_its_values_exactly(
    row: Format, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_transformer(row.make(tmp_path), dtype=torch.float32)
    expected = {diffusers_name(name): tensor for name, tensor in row.values().items()}
    assert set(expected) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert all(is_aligned(tensor) for tensor in (*model.parameters(), *model.buffers()))
    if row.values is made.plain:
        assert torch.allclose(flow(model), flow(made.reference()), atol=1e-6)
    assert row.said in caplog.text
    assert bool(row.said) == bool(caplog.records)


@LOADED
def test_every_format_converts_to_a_folder_that_diffusers_loads(
    row: Format, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    target = convert(row.make(source), tmp_path / "converted")
    stored = torch.bfloat16 if "bfloat16" in row.then else torch.float32
    model = WanTransformer3DModel.from_pretrained(target / "transformer", torch_dtype=stored)
    expected = {diffusers_name(name): tensor for name, tensor in row.values().items()}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name].to(tensor.dtype)), name
    assert (
        len(list(target.glob("transformer/*.safetensors"))) > 1
    )  # sharded, so that little is held at once
    assert {path.name for path in tmp_path.iterdir()} == {"source", "converted"}


@pytest.mark.parametrize("row", [row for row in FORMATS if row.refused], ids=named)
def test_other_formats_are_refused_by_name(row: Format, tmp_path: Path) -> None:
    path = row.make(tmp_path)
    with pytest.raises(TetherCacheError, match=row.refused) as raised:
        load_transformer(path)
    assert "\n" not in str(raised.value)


def test_a_configuration_of_another_model_in_the_folder_is_not_believed(tmp_path: Path) -> None:
    path = self_forcing_dmd(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"dim": 1536, "num_heads": 64}))
    with pytest.raises(WrongModelError, match="heads"):
        load_transformer(path)


def test_a_smaller_dtype_keeps_in_float32_what_diffusers_keeps(tmp_path: Path) -> None:
    source = self_forcing_dmd(tmp_path)
    ours = load_transformer(source, dtype=torch.bfloat16)
    convert(source, tmp_path / "converted")
    theirs = WanTransformer3DModel.from_pretrained(
        tmp_path / "converted/transformer", torch_dtype=torch.bfloat16
    )
    assert ours.dtype == theirs.dtype == torch.bfloat16
    for name, tensor in theirs.state_dict().items():
        assert ours.state_dict()[name].dtype == tensor.dtype, name
        assert torch.equal(ours.state_dict()[name], tensor), name


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    source = self_forcing_dmd(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="exists already"):
        convert(source, tmp_path / "mine")
    with pytest.raises(MissingModelError, match="no such folder"):
        convert(source, tmp_path / "no/where")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    source = self_forcing_dmd(tmp_path)
    # a limit on the size of files fails a write just as a full disk does
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(TetherCacheError, match="cannot write"):
            convert(source, tmp_path / "converted")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not (tmp_path / "converted").exists()
    assert not list(tmp_path.glob(".*"))


MEASURE = """
import sys, threading
from pathlib import Path
import torch
from tethercache.models.checkpoints.convert import convert
from tethercache.models.checkpoints.load import load_transformer
torch.set_num_threads(1)

def anonymous():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

peak, done = 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, anonymous())

threading.Thread(target=watch, daemon=True).start()
for number, (source, dtype) in enumerate(zip(sys.argv[2::2], sys.argv[3::2])):
    for work in (
        lambda dtype: convert(source, f"{sys.argv[1]}/{number}", dtype=dtype),
        lambda dtype: load_transformer(source, dtype=dtype),
    ):
        peak = before = anonymous()
        work(getattr(torch, dtype))
        print(peak - before)
done.set()
"""


def test_converting_and_loading_need_little_more_memory_than_the_model(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = WanTransformer3DModel(
            num_attention_heads=12, ffn_dim=4096, num_layers=2, text_dim=64
        ).state_dict()
    state = {name: torch.zeros(t.shape) for name, t in shapes.items()}
    torch.save({"generator": state}, tmp_path / "model.pt")
    save_file(state, tmp_path / "model.safetensors")
    small = state | {
        f"{name.removesuffix('.weight')}.weight_scale": torch.ones(len(t), 1)
        for name, t in state.items()
        if t.ndim == 2 and "blocks" in name
    }
    for name in [name.replace("_scale", "") for name in small if name not in state]:
        small[name] = state[name].to(torch.float8_e4m3fn)
    save_file(small, tmp_path / "scaled.safetensors")
    cases = [("model.pt", "bfloat16"), ("model.safetensors", "float32"), ("model.pt", "float32")]
    cases += [("scaled.safetensors", "bfloat16")]
    arguments = [part for file, dtype in cases for part in (str(tmp_path / file), dtype)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    size = sum(t.numel() for t in state.values())
    measured = map(int, done.stdout.split())
    for file, dtype in cases:
        model = size * (2 if dtype == "bfloat16" else 4)
        for work in ("converting", "loading"):
            used = next(measured) / model
            assert used <= 1.2, f"{work} {file} as {dtype}: {used:.2f} x the model"
