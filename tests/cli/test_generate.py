"""`tethercache generate`: files, sidecars, names, and failures in one line."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tethercache.cli import main
from tethercache.pipeline import CausalVideoPipeline
from tethercache.video import probe, read_frames, read_sidecar, writer
from tethercache.video.mp4 import DEFAULT_CRF

PROMPT = "a red ball rolling over grass"


def generate(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["generate", *map(str, arguments)])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def test_a_prompt_becomes_an_mp4_with_a_sidecar_that_repeats_it(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    video = tmp_path / "ball.mp4"
    options = ("--model", model, "--policy", "tethercache:alpha=0.5", "--seed", 3)
    assert generate(PROMPT, *options, "--seconds", 10, "-o", video, "--json") == 0
    captured = capsys.readouterr()
    assert "· 1 thread ·" in captured.err
    info = probe(video)
    assert (info.num_frames, info.fps, info.codec) == (160, 16, "h264")
    assert not list(tmp_path.glob("*.partial.mp4"))

    out = captured.out.splitlines()
    assert "160 frames" in out[0]
    assert "tethercache" in out[0]
    assert "frames/s" in out[0]
    (summary,) = json.loads(out[-1])["videos"]
    sidecar = read_sidecar(video)
    assert sidecar.frames_hash == summary["frames_hash"]
    assert sidecar.prompt == PROMPT
    assert "alpha=0.5" in sidecar.policy
    assert "tau=0.35" in sidecar.policy
    assert sum(sidecar.chunk_sizes) == sidecar.num_latent_frames == 42
    assert sidecar.settings["flow_shift"] == 5.0
    assert sidecar.settings["threads"] == torch.get_num_threads()
    assert sidecar.settings["text_encoder_device"] == sidecar.device == "cpu"

    assert str(model) not in video.with_suffix(".json").read_text("utf-8")
    monkeypatch.chdir(tmp_path)  # paths in the record are relative to it
    again = tmp_path / "again.mp4"
    recorded = ("--policy", sidecar.policy, "--seed", sidecar.seed, "--model", sidecar.model)
    assert generate(sidecar.prompt, *recorded, "--seconds", 10, "-o", again) == 0
    assert again.read_bytes() == video.read_bytes()


def test_the_number_of_threads_is_a_choice_that_is_recorded(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "ball.mp4"
    options = ("--model", model, "--latent-frames", 3, "--threads", 2, "-o", video)
    try:
        assert generate(PROMPT, *options) == 0
    finally:
        torch.set_num_threads(1)
    assert "· 2 threads ·" in capsys.readouterr().err
    assert read_sidecar(video).settings["threads"] == 2


def test_several_prompts_and_samples_go_into_a_folder(model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{PROMPT}\n\nA blue   Ball, über sand!\n", encoding="utf-8")
    folder = tmp_path / "videos"
    arguments = ("--prompts", prompts, "--num-samples", 2, "--model", model, "-o", folder)
    assert generate(*arguments, "--latent-frames", 6) == 0
    names = sorted(path.name for path in folder.glob("*.mp4"))
    assert names == [
        "000-a-red-ball-rolling-over-grass-0.mp4",
        "000-a-red-ball-rolling-over-grass-1.mp4",
        "001-a-blue-ball-uber-sand-0.mp4",
        "001-a-blue-ball-uber-sand-1.mp4",
    ]
    assert all(probe(folder / name).num_frames == 21 for name in names)
    hashes = {read_sidecar(folder / name).frames_hash for name in names}
    assert len(hashes) == 4


def test_the_embeddings_of_all_prompts_wait_on_the_cpu(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnDevice:
        """Embeddings that nothing can be done with but to bring them here."""

        def __init__(self, embeds: torch.Tensor) -> None:
            self._embeds = embeds

        def cpu(self) -> torch.Tensor:
            return self._embeds

    encode = CausalVideoPipeline.encode_prompt
    monkeypatch.setattr(
        CausalVideoPipeline, "encode_prompt", lambda *given: OnDevice(encode(*given))
    )
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{PROMPT}\na blue ball\n")
    arguments = ("--prompts", prompts, "--model", model, "--latent-frames", 3)
    assert generate(*arguments, "-o", tmp_path / "videos") == 0


def test_a_batch_makes_what_is_missing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, folder = tmp_path / "prompts.txt", tmp_path / "videos"
    prompts.write_text(f"{PROMPT}\na blue ball\nred grass\n")
    arguments = ("--prompts", prompts, "--model", model, "-o", folder, "--latent-frames", 3)
    assert generate(*arguments) == 0
    first, second, third = sorted(folder.glob("*.mp4"))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    second.unlink()
    capsys.readouterr()
    assert generate(*arguments, "--json") == 1  # its record is there, and nobody said --overwrite
    assert f"{second.with_suffix('.json')}: file exists" in capsys.readouterr().err
    second.with_suffix(".json").unlink()
    assert generate(*arguments, "--json") == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [video["path"] for video in said["videos"]] == [str(second)]
    assert said["kept"] == [str(first), str(third)]
    after = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {second, second.with_suffix(".json")}


def test_a_video_of_another_request_is_not_taken_for_this_one(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, folder = tmp_path / "prompts.txt", tmp_path / "videos"
    prompts.write_text(f"{PROMPT}\na blue ball\n")
    arguments = ("--prompts", prompts, "--model", model, "-o", folder, "--latent-frames", 3)
    assert generate(*arguments, "--seed", 1) == 0
    first, second = sorted(folder.glob("*.mp4"))
    for path in (second, second.with_suffix(".json")):
        path.unlink()
    before = first.read_bytes()
    assert generate(*arguments, "--json") == 1
    said = capsys.readouterr()
    summary = said.err.strip().splitlines()[-1]
    assert f"{first}: file exists" in said.err
    assert summary == f"error: 1 of 2 videos were not made: {first}"
    assert json.loads(said.out.splitlines()[-1])["failed"] == [str(first)]
    assert first.read_bytes() == before
    assert second.exists()


def test_a_batch_goes_on_when_one_video_fails(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rollout = CausalVideoPipeline.rollout

    def fail(pipe: CausalVideoPipeline, prompt: str, **options: object) -> object:
        if prompt == PROMPT:
            raise RuntimeError("CUDA out of memory")
        return rollout(pipe, prompt, **options)

    monkeypatch.setattr(CausalVideoPipeline, "rollout", fail)
    prompts, folder = tmp_path / "prompts.txt", tmp_path / "videos"
    prompts.write_text(f"{PROMPT}\na blue ball\n")
    arguments = ("--prompts", prompts, "--model", model, "-o", folder, "--latent-frames", 3)
    assert generate(*arguments) == 1
    failed = folder / "000-a-red-ball-rolling-over-grass-0.mp4"
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert errors == [
        f"error: {failed}: RuntimeError: CUDA out of memory (use --debug for the traceback)",
        f"error: 1 of 2 videos were not made: {failed}",
    ]
    assert not failed.exists()
    assert (folder / "001-a-blue-ball-0.mp4").exists()


def test_a_batch_goes_on_when_nobody_reads_what_it_says(model: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\na blue ball\n")
    arguments = ["--prompts", "prompts.txt", "--model", str(model), "--latent-frames", "3"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tethercache", "generate", *arguments, "-o", "视频"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
    )
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=120)
    assert said.splitlines()[-1] == b"error: standard output: Broken pipe"
    assert process.returncode == 141
    assert len(list((tmp_path / "视频").glob("*.mp4"))) == 2


def test_what_a_model_does_not_read_of_a_prompt_is_named_and_recorded(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, short = tmp_path / "long.mp4", tmp_path / "short.mp4"
    arguments = ("--model", model, "--latent-frames", 3)
    assert generate(f"{PROMPT} sand over grass", *arguments, "-o", video) == 0
    assert "6 tokens of a prompt, not: sand over grass" in " ".join(capsys.readouterr().err.split())
    assert read_sidecar(video).settings["prompt_cut_off"] == "sand over grass"
    assert generate("a red ball", *arguments, "-o", short) == 0
    assert "prompt_cut_off" not in read_sidecar(short).settings


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "give a prompt"),
        ([os.fsdecode(b"W\xfcrfel")], 2, "the prompt is not text in UTF-8"),
        (["red\x1b[31m ball"], 2, "control characters, but has U+001B"),
        ([PROMPT, "-o", os.fsdecode(b"W\xfcrfel.mp4")], 2, "an argument is not text in UTF-8"),
        ([PROMPT, "-o", "video"], 2, "must end in .mp4 or be a folder that exists"),
        ([PROMPT, "-o", "/dev/null"], 2, "must end in .mp4"),
        ([PROMPT, "--seconds", "1e300"], 2, "must be at most"),
        ([PROMPT, "--seconds", "inf"], 2, "must be a positive number"),
        ([PROMPT, "--latent-frames", "99999999999"], 2, "must be at most"),
        ([PROMPT, "--num-samples", "999999999"], 2, "must have at most 100000"),
        ([PROMPT, "--seed", str(2**64)], 2, "`seed`"),
        ([PROMPT, "--vram", "1e300"], 2, "`vram` (1e300) must be"),
        ([PROMPT, "--vram", "1e-300"], 2, "`vram` (1e-300) must be"),
        ([PROMPT, "--vram", "nan"], 2, "`vram` (nan) must be"),
        ([PROMPT, "--lora", "/dev/null:nan"], 2, "`scale` (nan)"),
        ([PROMPT, "--prefix", "/dev/null"], 2, "`prefix` (/dev/null) must be a file"),
        ([PROMPT, "--num-samples", "2", "-o", "/dev/null/videos"], 1, "/dev/null: not a folder"),
        ([PROMPT, "--num-samples", "2", "-o", "x.mp4"], 2, "must be a folder"),
        ([""], 2, "prompt must not be empty"),
        (["  "], 2, "prompt must not be empty"),
        ([PROMPT, "--seconds", "0"], 2, "must be a positive number"),
        ([PROMPT, "--seconds", "-4"], 2, "must be a positive number"),
        ([PROMPT, "--seconds", "nan"], 2, "must be a positive number"),
        ([PROMPT, "--seconds", "soon"], 2, "'--seconds'"),
        ([PROMPT, "--seconds", "1", "--latent-frames", "3"], 2, "not both"),
        ([PROMPT, "--threads", "0"], 2, "`threads` (0) must be a whole number from 1 to 512"),
        ([PROMPT, "--threads", "513"], 2, "`threads` (513) must be a whole number from 1 to 512"),
        ([PROMPT, "--latent-frames", "0"], 2, "must be a whole number of at least 1"),
        ([PROMPT, "--num-samples", "0"], 2, "`num_samples` (0)"),
        ([PROMPT, "--policy", "tethercash"], 2, "did you mean `tethercache`"),
        ([PROMPT, "--policy", "tethercache:alfa=1"], 2, "did you mean `alpha`"),
        ([PROMPT, "--policy", "tethercache:alpha=much"], 2, "must be a number"),
        ([PROMPT, "--policy", "tethercache:sink=1.5"], 2, "must be a whole number"),
        ([PROMPT, "--policy", "tethercache:alpha"], 2, "key=value"),
        ([PROMPT, "--policy", "fifo:positions=sideways"], 2, "must be one of"),
        ([PROMPT, "--policy", "tethercache:memory=13"], 2, "reached by whole chunks"),
        ([PROMPT, "--policy", "tethercache:recent=2,memory=16"], 2, "`recent` (2)"),
        ([PROMPT, "--policy", "fifo:window=30"], 2, "must not exceed the 21"),
        ([PROMPT, "--device", "abacus"], 2, "`device` (abacus) cannot be used"),
        ([PROMPT, "--attention", "flash"], 2, "`flash` cannot be used on cpu"),
        ([PROMPT, "--attention", "quick"], 2, "`attention` (quick) must be auto"),
        ([PROMPT, "--overlap", "maybe"], 2, "`overlap` (maybe) must be auto, on or off"),
        ([PROMPT, "--decoder", "taehv"], 2, "`decoder` (taehv) must be vae or preview"),
        ([PROMPT, "--vae-dtype", "int8"], 2, "'--vae-dtype'"),
        ([PROMPT, "--prompts", "prompts.txt"], 2, "one of the three"),
        ([PROMPT, "-o", "video.avi"], 2, "must end in .mp4"),
        ([PROMPT, "-o", "x" * 243 + ".mp4"], 2, "too long"),  # that of the partial record is
        ([PROMPT, "-o", "nowhere/video.mp4"], 1, "no such folder"),
        ([PROMPT, "--model", "./nothing"], 1, "no model at"),
        ([PROMPT, "--colour", "red"], 2, "--colour"),
    ],
)
def test_a_failure_is_one_line_and_leaves_nothing(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "--model" not in arguments:
        arguments = [*arguments, "--model", str(model)]
    assert generate(*arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_how_it_is_computed_is_printed_and_what_matters_of_it_is_recorded(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(name: str, *options: str) -> tuple[str, dict[str, object]]:
        given = (PROMPT, "--model", model, "--latent-frames", 9, "-o", tmp_path / name)
        assert generate(*given, "--device", "cpu", *options) == 0
        sidecar = read_sidecar(tmp_path / name)
        frames[name] = sidecar.frames_hash
        return capsys.readouterr().err, dict(sidecar.settings)

    frames: dict[str, str] = {}
    said, plain = make("plain.mp4", "--overlap", "off")
    assert "attention native" in said
    assert "overlapped" not in said
    said, overlapped = make("overlapped.mp4", "--overlap", "on")
    assert "overlapped" in said
    assert overlapped == plain
    assert frames["overlapped.mp4"] == frames["plain.mp4"]
    _, preview = make("preview.mp4", "--decoder", "preview")
    assert preview == plain | {"decoder": "preview"}
    _, other = make("other.mp4", "--vae-dtype", "bfloat16", "--channels-last")
    assert other == plain | {"vae_dtype": "bfloat16", "channels_last": True}
    assert len(set(frames.values())) == 3


def test_attention_is_checked_for_the_model_s_own_heads_before_its_weights_are_loaded(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def obstacle(name: str, device: object, dtype: object, head_dim: int) -> str:
        return "" if head_dim == 128 else f"it has no heads of {head_dim} channels"

    monkeypatch.setattr("tethercache.fit.execution._obstacle", obstacle)
    monkeypatch.setattr(CausalVideoPipeline, "from_pretrained", None)
    options = ("--model", model, "--attention", "flash", "-o", tmp_path / "x.mp4")
    assert generate(PROMPT, *options) == 2
    assert "it has no heads of 12 channels" in capsys.readouterr().err


@pytest.mark.gpu
def test_the_record_names_the_gpu(model: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    video = tmp_path / "x.mp4"
    options = ("--model", model, "--latent-frames", 3, "--device", "cuda", "-o", video)
    assert generate(PROMPT, *options) == 0
    assert read_sidecar(video).device == torch.cuda.get_device_name()


def test_a_missing_compiler_is_one_line(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from torch._inductor import cpp_builder, exc

    def missing() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    options = ("--model", model, "--device", "cpu", "--compile", "-o", tmp_path / "x.mp4")
    assert generate(PROMPT, *options) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: --compile needs a C++ compiler")
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_refused_unless_told(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    video = tmp_path / "ball.mp4"
    video.write_bytes(b"precious")
    arguments = (PROMPT, "--model", model, "--latent-frames", 3, "-o", video)
    assert generate(*arguments) == 2
    assert "exists" in capsys.readouterr().err
    assert video.read_bytes() == b"precious"
    assert generate(*arguments, "--overwrite") == 0
    assert probe(video).num_frames == 9


def test_a_file_or_folder_in_the_place_of_the_sidecar_is_refused_before_any_work(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "package.json"
    record.write_text("precious")
    arguments = (PROMPT, "--model", model, "--latent-frames", 3, "-o", tmp_path / "package.mp4")
    assert generate(*arguments) == 2
    assert "package.json: file exists and `overwrite` is off" in capsys.readouterr().err
    assert record.read_text() == "precious"
    record.unlink()
    record.mkdir()
    assert generate(*arguments, "--overwrite") == 1
    assert "package.json: a folder has this name" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["package.json"]


def test_a_video_that_could_not_be_named_is_completed_by_the_same_command(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    video = tmp_path / "ball.mp4"
    arguments = (PROMPT, "--model", model, "--latent-frames", 3, "-o", video, "--json")
    with monkeypatch.context() as patch:
        patch.setattr(writer, "remux", full)
        assert generate(*arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {tmp_path / 'ball.partial.mp4'}: No space left on device")
    assert error.endswith("run the same command again")
    assert not video.exists()

    assert generate(*arguments, "--seed", 1) == 2
    assert "an unfinished video is here" in capsys.readouterr().err
    monkeypatch.setattr(CausalVideoPipeline, "from_pretrained", None)  # nothing is made again
    assert generate(*arguments) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{video}: made before, kept"
    assert json.loads(out[-1])["kept"] == [str(video)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ball.json", "ball.mp4"]
    assert probe(video).num_frames == read_sidecar(video).num_frames == 9


def test_a_disk_without_room_for_the_videos_is_refused_before_weights_load(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nearly_full = SimpleNamespace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: nearly_full)
    monkeypatch.setattr(CausalVideoPipeline, "from_pretrained", None)
    assert generate(PROMPT, "--model", model, "-o", tmp_path / "x.mp4") == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(r"about [0-9.]+ MB are needed here and 0.0 MB are free", line)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("crf", [0, 52, "good"])
def test_a_quality_that_does_not_exist_is_a_usage_error(
    crf: int | str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(PROMPT, "--crf", crf) == 2
    assert "--crf" in capsys.readouterr().err


def test_the_quality_is_chosen_and_recorded(model: Path, tmp_path: Path) -> None:
    sizes = []
    for crf in (DEFAULT_CRF, 45):
        video = tmp_path / f"{crf}.mp4"
        chosen = () if crf == DEFAULT_CRF else ("--crf", crf)
        assert generate(PROMPT, "--model", model, "--latent-frames", 3, "-o", video, *chosen) == 0
        assert read_sidecar(video).settings["crf"] == crf
        sizes.append(video.stat().st_size)
    assert sizes[1] < sizes[0]


def test_damaged_weights_are_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in model.rglob("*"):
        target = damaged / path.relative_to(model)
        if path.is_dir():
            target.mkdir()
        else:
            content = path.read_bytes()
            kept = len(content) // 2 if path.suffix == ".safetensors" else len(content)
            target.write_bytes(content[:kept])
    assert generate(PROMPT, "--model", damaged, "-o", tmp_path / "x.mp4") == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "cannot load" in line
    assert not list(tmp_path.glob("*.mp4"))


def test_a_full_disk_is_one_line_and_leaves_nothing_under_the_final_name(
    model: Path, tmp_path: Path
) -> None:
    # a limit on the size of files fails a write just as a full disk does
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
        "from tethercache.cli import main; main()"
    )
    arguments = ["generate", PROMPT, "--model", str(model), "--seconds", "10", "-o", "x.mp4"]
    done = subprocess.run(
        [sys.executable, "-c", limited, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "free some space" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.mp4").exists()


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert generate("", "--debug") == 2
        assert "Traceback" in capsys.readouterr().err
    finally:
        from tethercache.cli import failures

        failures._debugging = False


@pytest.mark.slow
def test_an_interrupt_is_one_line_and_keeps_the_partial_video(model: Path, tmp_path: Path) -> None:
    process = _start_an_hour(model, tmp_path)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.decode().strip().splitlines()[-1] == (
        "error: interrupted; long.partial.mp4 keeps what is made, --resume goes on with it"
    )
    assert "Traceback" not in said.decode()
    assert probe(tmp_path / "long.partial.mp4").num_frames > 9
    assert not (tmp_path / "long.mp4").exists()


@pytest.mark.slow
def test_after_kill_9_the_partial_file_plays_up_to_the_last_chunk(
    model: Path, tmp_path: Path
) -> None:
    process = _start_an_hour(model, tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    frames = sum(1 for _ in read_frames(tmp_path / "long.partial.mp4"))
    assert frames > 9
    assert (frames - 9) % 12 == 0
    assert not (tmp_path / "long.mp4").exists()


def _start_an_hour(model: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Begin an hour of video in a process of its own; returns when some chunks are written."""
    arguments = [PROMPT, "--model", str(model), "--seconds", "3600", "-o", "long.mp4"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tethercache", "generate", *arguments],
        cwd=folder,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    partial = folder / "long.partial.mp4"
    for _ in range(600):
        if partial.exists() and partial.stat().st_size > 20_000:
            break
        time.sleep(0.1)
    return process
