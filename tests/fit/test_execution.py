"""Which attention, which compiler, which overlap: by what is here, and in one line where not."""

from __future__ import annotations

import pytest
import torch

from tethercache.errors import MissingToolError
from tethercache.fit import execution
from tethercache.fit.execution import (
    ATTENTION,
    Execution,
    choose_attention,
    default_threads,
    overlap_choices,
    overlap_pays,
    require_compiler,
    usable_attention,
)
from tethercache.fit.memory import WAN_1_3B
from tethercache.fit.sizes import measure
from tethercache.models import fetch, find


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attention": "flash9"}, "`attention` .flash9. must be auto, native, .* or sage"),
        ({"overlap": "yes"}, "`overlap` .yes. must be auto, on or off"),
        ({"decoder": "taehv"}, "`decoder` .taehv. must be vae or preview"),
    ],
)
def test_unknown_choices_are_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Execution(**given)


def test_every_backend_is_one_of_the_dispatcher() -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName

    known = {backend.value for backend in AttentionBackendName}
    assert set(ATTENTION.values()) <= known


def test_on_a_cpu_attention_is_the_native_one() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert usable_attention("cpu", dtype, 128) == ["native"]
        assert choose_attention("auto", "cpu", dtype, 128) == "native"
    for name in set(ATTENTION) - {"native"}:
        with pytest.raises(ValueError, match=f"`{name}` cannot be used on cpu: it needs a CUDA"):
            choose_attention(name, "cpu", torch.bfloat16, 128)


@pytest.mark.parametrize(
    ("capability", "works", "expected"),
    [
        ((9, 0), {"flash3", "cudnn", "flash", "sage"}, "flash3"),
        ((9, 0), {"cudnn", "flash"}, "cudnn"),
        ((10, 0), {"flash3", "cudnn"}, "cudnn"),
        ((8, 0), {"flash3", "cudnn", "flash"}, "flash"),
        ((8, 9), {"cudnn", "sage"}, "native"),
        ((7, 5), set(), "native"),
    ],
)
def test_auto_takes_the_best_that_works(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], works: set[str], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(
        execution,
        "_obstacle",
        lambda name, *_: "" if name in works | {"native"} else "not installed",
    )
    usable = usable_attention("cuda", torch.bfloat16, 128)
    assert usable[0] == expected == choose_attention("auto", "cuda", torch.bfloat16, 128)
    assert set(usable) == works | {"native"}


def test_overlap_pays_where_cores_are_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    for cores, expected in ((2 * threads, (True, False)), (2 * threads - 1, (False,))):
        monkeypatch.setattr(execution, "cores", lambda cores=cores: cores)
        assert overlap_choices(Execution(), "cpu") == expected
        assert overlap_choices(Execution(decoder="preview"), "cpu") == (False,)
        assert overlap_choices(Execution(overlap="on"), "cpu") == (True,)
        assert overlap_choices(Execution(overlap="off"), "cuda") == (False,)
    assert overlap_choices(Execution(), "cuda") == (True, False)


@pytest.mark.parametrize(
    ("count", "small", "large"),
    [(1, 1, 6), (2, 1, 6), (4, 1, 6), (8, 2, 6), (16, 4, 6), (96, 4, 6)],
)
def test_a_small_model_takes_few_threads_and_a_large_one_all(
    monkeypatch: pytest.MonkeyPatch, count: int, small: int, large: int
) -> None:
    monkeypatch.setattr(execution, "cores", lambda: count)
    monkeypatch.setattr(torch, "get_num_threads", lambda: large)  # what PyTorch takes of itself
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert default_threads(execution.LARGE - 1) == small
    assert default_threads(execution.LARGE) == large
    assert overlap_pays("cpu") is (count >= 2 * large)
    monkeypatch.setattr(torch, "get_num_threads", lambda: small)
    assert overlap_pays("cpu") is (count > 1)  # so the second core decodes
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert default_threads(1) == default_threads(execution.LARGE) == 3


def test_the_shipped_model_is_small_and_a_published_one_large() -> None:
    assert measure(fetch(find("tiny"))).activations < execution.LARGE
    assert WAN_1_3B.activations >= execution.LARGE


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder, exc

    def missing() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    with pytest.raises(MissingToolError, match=r"install g\+\+"):
        require_compiler("cpu")
    monkeypatch.setattr(execution.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingToolError, match="pip install triton"):
        require_compiler("cuda")
