"""`tethercache eval`: reports, pairs, exit status, and drift on the stream of `generate`."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation import files
from tests.evaluation.scenes import FPS, HEIGHT, WIDTH, frames, write
from tests.toys import toy_pipeline
from tethercache.cli import main
from tethercache.evaluation.measure import measure_video
from tethercache.evaluation.options import Options
from tethercache.evaluation.report import prepare_folder
from tethercache.evaluation.watch import WATCHED, DriftWatch
from tethercache.video import VideoWriter, read_frames, read_sidecar


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(list(map(str, arguments)))
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two prompts: ours stays, the baseline's saturation runs away; one more without a twin."""
    root = tmp_path_factory.mktemp("pairs")
    ours, baseline = root / "ours", root / "baseline"
    ours.mkdir()
    baseline.mkdir()
    plain, bad = write(root / "plain.mp4"), write(root / "bad.mp4", "saturation")
    for name in ("a cat-0.mp4", "a <b>dog</b>-0.mp4".replace("/", "")):
        shutil.copy(plain, ours / name)
        shutil.copy(bad, baseline / name)
    shutil.copy(plain, ours / "alone.mp4")
    return ours, baseline


def test_a_folder_against_its_baseline_becomes_four_reports(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, baseline = folders
    out = tmp_path / "report"
    assert run("eval", ours, "--baseline", baseline, "-o", out) == 0
    printed = capsys.readouterr().out
    assert "stable" in printed
    assert "2 pairs" in printed
    content = json.loads((out / "results.json").read_text())
    assert content["schema_version"] == 1
    assert {"videos", "summary", "pairs", "skipped"} <= set(content)
    assert [video["verdict"] for video in content["videos"]] == ["stable"] * 3
    assert content["summary"]["verdicts"] == {"stable": 3, "watch": 0, "drifting": 0}
    chroma = content["pairs"]["metrics"]["chroma"]
    assert (chroma["n"], chroma["wins"], chroma["losses"]) == (2, 2, 0)
    assert chroma["difference"]["mean"] < -20
    assert len(chroma["difference"]["interval"]) == 2
    assert content["skipped"] == []
    assert all("thumbnails" not in video for video in content["videos"])

    rows = list(csv.DictReader(io.StringIO((out / "results.csv").read_text())))
    assert [row["set"] for row in rows] == ["ours"] * 3 + ["baseline"] * 2
    assert "| **stable** |" in (out / "report.md").read_text()
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3 * 5
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # nothing outside the file
    assert "<b>dog" not in page

    before = (out / "results.json").read_text()
    assert run("eval", ours, "--baseline", baseline, "-o", out) == 0
    assert (out / "results.json").read_text() == before


@pytest.mark.parametrize("format_", ["json", "csv", "md"])
def test_what_is_printed_is_what_is_written(
    folders: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    format_: str,
) -> None:
    assert run("eval", folders[0] / "alone.mp4", "-o", tmp_path, "--format", format_) == 0
    name = {"json": "results.json", "csv": "results.csv", "md": "report.md"}[format_]
    assert capsys.readouterr().out == (tmp_path / name).read_text()


def test_bad_files_are_named_and_the_rest_is_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    bad = {
        "empty.mp4": files.empty,
        "one.mp4": lambda path: files.encode(path, count=1),
        "sound.m4a": files.sound,
        "text.mp4": files.text,
        "truncated.mp4": files.truncated,
    }
    for name, make in bad.items():
        make(folder / name)
    files.encode(folder / "good.mp4")
    assert run("eval", folder, "-o", tmp_path / "out") == 1
    content = json.loads((tmp_path / "out/results.json").read_text())
    assert [skipped["name"] for skipped in content["skipped"]] == sorted(bad)
    assert all(skipped["reason"] for skipped in content["skipped"])
    assert [video["name"] for video in content["videos"]] == ["good.mp4"]
    said = capsys.readouterr().err
    assert all(name in said for name in bad)
    assert "Traceback" not in said


def test_one_odd_file_never_ends_the_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "videos"
    (folder / "sub").mkdir(parents=True)
    good = files.encode(folder / "good.mp4")
    shutil.copy(good, folder / "sub/good.mp4")
    latin = os.fsdecode(b"caf\xe9.mp4")
    shutil.copy(good, folder / latin)
    formula = "=cmd|' !A1.mp4"
    shutil.copy(good, folder / formula)
    html = "<img src=x onerror=alert(1)>.mp4"
    shutil.copy(good, folder / html)
    files.text(folder / "sub/\x1b[31mred\u202e.mp4")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "gone.mp4").symlink_to("nowhere")
    out = tmp_path / "out"
    assert run("eval", folder, "-o", out) == 1
    printed = capsys.readouterr()
    shown = "sub/\\u001b[31mred\\u202e.mp4"
    for text in (printed.out, printed.err):
        assert "\x1b[31m" not in text
        assert "\u202e" not in text
    assert f"skipped: videos/{shown} " in printed.err
    content = json.loads((out / "results.json").read_text())
    names = [formula, html, latin, "good.mp4", "sub/good.mp4"]
    assert [video["name"] for video in content["videos"]] == sorted(names)
    reasons = {skipped["name"]: skipped["reason"] for skipped in content["skipped"]}
    assert set(reasons) == {"gone.mp4", "pipe.mp4", "sub/\x1b[31mred\u202e.mp4"}
    assert str(tmp_path) not in "".join(path.read_text() for path in out.glob("re*"))
    with (out / "results.csv").open(newline="") as file:
        rows = [row["name"] for row in csv.DictReader(file)]
    assert f"'{formula}" in rows
    assert formula not in rows
    assert shown in rows
    markdown, page = (out / "report.md").read_text(), (out / "report.html").read_text()
    assert "<img src=x" not in markdown + page
    assert "&lt;img src=x onerror=alert(1)&gt;.mp4" in page
    assert "\\udce9" in markdown
    assert "\\udce9" in page


def test_a_report_is_written_where_nothing_could_be_measured(tmp_path: Path) -> None:
    files.text(tmp_path / "a.mp4")
    assert run("eval", tmp_path / "a.mp4", "-o", tmp_path / "out") == 1
    assert {"results.json", "results.csv", "report.md", "report.html"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }


def test_reports_are_not_written_through_links(tmp_path: Path) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_text("mine")
    names = ("results.json", "results.csv", "report.md", "report.html")
    for name in (*names, *(f"{name}.partial" for name in names)):
        (out / name).symlink_to(victim)
    assert run("eval", files.encode(tmp_path / "a.mp4"), "-o", out) == 0
    assert victim.read_text() == "mine"
    assert not any((out / name).is_symlink() for name in names)


def test_a_report_in_folders_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="File name too long"):
        prepare_folder(tmp_path.joinpath(*["a"] * 1500))


def test_a_folder_in_the_place_of_a_report_is_refused_before_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out/report.html").mkdir(parents=True)
    assert run("eval", files.encode(tmp_path / "a.mp4"), "-o", tmp_path / "out") == 1
    assert "report.html: a folder has this name" in capsys.readouterr().err
    assert not (tmp_path / "out/finished").exists()


def test_a_tampered_stored_result_is_said_and_reaches_no_report(tmp_path: Path) -> None:
    video, out = files.encode(tmp_path / "a.mp4"), tmp_path / "out"
    assert run("eval", video, "-o", out) == 0
    (kept,) = (out / "finished").iterdir()
    record = json.loads(kept.read_text())
    script = '"><script>alert(1)</script>'
    kept.write_text(json.dumps(record | {"verdict": script, "thumbnails": [script]}))
    assert run("eval", video, "-o", out) == 0
    assert "<script>" not in (out / "report.html").read_text()
    assert "a.mp4 was measured again" in (out / "report.md").read_text()


def test_baselines_in_subfolders_pair_by_path_else_by_file_name(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder, source in ((ours, folders[0]), (theirs, folders[1])):
        for seed in ("0", "1"):
            (folder / seed).mkdir(parents=True)
            shutil.copy(source / "a cat-0.mp4", folder / seed / "cat.mp4")
    shutil.copy(ours / "0/cat.mp4", ours / "dog.mp4")
    shutil.copy(theirs / "0/cat.mp4", theirs / "1/dog.mp4")
    assert run("eval", ours, "--baseline", theirs, "-o", tmp_path / "out") == 0
    pairs = json.loads((tmp_path / "out/results.json").read_text())["pairs"]
    assert pairs["names"] == ["0/cat.mp4", "1/cat.mp4", "dog.mp4"]


@pytest.mark.parametrize(
    ("expression", "status"),
    [
        ("colour_difference>12", 0),
        ("chroma > 12", 1),
        ("luma>50, chroma>=12", 1),
        ("motion_retention<0.4", 0),
        ("verdict=drifting", 1),
        ("verdict=watch", 1),
    ],
)
def test_fail_on_sets_the_exit_status(
    folders: tuple[Path, Path], tmp_path: Path, expression: str, status: int
) -> None:
    video = folders[1] / "a cat-0.mp4"
    assert run("eval", video, "-o", tmp_path, "--fail-on", expression) == status
    content = json.loads((tmp_path / "results.json").read_text())
    assert bool(content["failed"]) == bool(status)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give videos"),
        (["nowhere"], "no such file or folder"),
        (["VIDEO", "--every", "0"], "`every` (0)"),
        (["VIDEO", "--limit", "0"], "--limit (0)"),
        (["VIDEO", "--jobs", "0"], "--jobs (0)"),
        (["VIDEO", "--chunk", "1"], "`chunk` (1)"),
        (["VIDEO", "--baseline", "nowhere"], "must be a folder"),
        (["VIDEO", "--fail-on", "chrome>1"], "did you mean `chroma`"),
        (["VIDEO", "--fail-on", "chroma"], "metric>number"),
        (["VIDEO", "--fail-on", "chroma>much"], "is no number"),
        (["VIDEO", "--fail-on", "chroma>nan"], "`nan` is no number"),
        (["VIDEO", "--fail-on", "chroma<-inf"], "`-inf` is no number"),
        (["VIDEO", "--image-fps", "nan"], "`image_fps` (nan)"),
        (["VIDEO", "--fail-on", ""], "must not be empty"),
        (["VIDEO", "--fail-on", "embedding_drift>1"], "needs --embed"),
        (["VIDEO", "--fail-on", "verdict=awful"], "verdict=watch"),
        (["VIDEO", "--weights-dir", "."], "belongs to --suite vbench-long"),
        (["VIDEO", "--suite", "vbench-long"], "needs --weights-dir"),
        (["VIDEO", "--suite", "vbench-long", "--embed"], "belong to --suite drift"),
        (["VIDEO", "--format", "xml"], "'--format'"),
    ],
)
def test_a_usage_error_is_one_line(
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    video = str(folders[0] / "alone.mp4")
    assert run("eval", *(video if word == "VIDEO" else word for word in arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert message in line


def test_a_limit_is_said(folders: tuple[Path, Path], tmp_path: Path) -> None:
    assert run("eval", *folders, "--limit", 1, "-o", tmp_path) == 0
    content = json.loads((tmp_path / "results.json").read_text())
    assert len(content["videos"]) == 1
    assert "limited to 1 of 5" in content["warnings"][0]


def test_the_metrics_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("eval", "--list", "--format", "json") == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert listed["embedding_drift"]["needs"] == "embed"
    assert listed["motion_retention"]["better"] == "higher"
    assert run("eval", "--list") == 0
    assert run("eval", "--list", "--suite", "vbench-long", "--weights-dir", ".") == 0
    assert "musiq_spaq" in re.sub(r"\s", "", capsys.readouterr().out)


def test_the_doctor_lists_the_missing_files_of_vbench_and_their_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("doctor", "--weights-dir", tmp_path) == 0
    printed = capsys.readouterr().out
    assert "temporal_flickering: all files present" in printed
    assert "musiq_spaq_ckpt-358bb6af.pth (inside clips; from github.com/chaofengc" in printed


def test_without_opencv_the_message_says_what_to_install(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tethercache.evaluation.metrics.entry.find_spec", lambda name: None)
    assert run("eval", folders[0]) == 1
    assert "pip install 'tethercache[eval]'" in capsys.readouterr().err


def test_finished_results_of_vbench_long_are_read(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared / "data/vbench_long/golden"
    assert run("eval", folder, "--suite", "vbench-long", "-o", tmp_path) == 0
    printed = capsys.readouterr().out
    assert "not made: partial" in printed
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["dimensions"]["subject_consistency"]["score"] == 0.9626138878411369
    assert content["total"] is None
    assert content["partial"] is True


def test_the_watch_on_the_stream_agrees_with_the_file(tmp_path: Path) -> None:
    watch = DriftWatch(FPS)
    stream = list(frames("brightness"))
    for start in range(0, len(stream), 12):
        watch.update(np.stack(stream[start : start + 12]))
        if start < 60:
            assert watch.status() == ""
    found = watch.summary()
    measured = measure_video(write(tmp_path / "a.mp4", "brightness"))
    for name in WATCHED:
        value = found["changes"][name]
        assert abs(value) == pytest.approx(measured.metrics[name], rel=0.08, abs=0.25)
    assert found["verdict"] == measured.verdict == "drifting"
    assert found["onset"]["colour_difference"] == measured.onset["colour_difference"]
    assert "ΔE 13" in watch.status()


@pytest.mark.parametrize("step", [1, 2, 3, 8, 32])
def test_the_watch_has_the_numbers_of_eval_for_every_length(tmp_path: Path, step: int) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, fps=FPS, width=WIDTH, height=HEIGHT) as writer:
        writer.write(np.stack(list(frames("brightness"))[::step]))  # 20 to 0.6 s
    watch, shown = DriftWatch(FPS), np.stack(list(read_frames(path)))
    for start in range(0, len(shown), 12):
        watch.update(shown[start : start + 12])
    measured = measure_video(path)
    expected = {name: measured.signed.get(name, measured.metrics[name]) for name in WATCHED}
    assert watch.changes() == pytest.approx(expected)
    found = watch.summary()
    assert (found["verdict"], found["reasons"]) == (measured.verdict, measured.reasons)
    assert found["onset"] == measured.onset
    assert watch.summary()["every"] == Options.every


def test_generate_watches_the_drift_and_records_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "toy"
    toy_pipeline().save_pretrained(model)
    video = tmp_path / "ball.mp4"
    arguments = ("--model", model, "--seconds", 10, "-o", video, "--watch-drift")
    assert run("generate", "a red ball", *arguments) == 0
    recorded = read_sidecar(video).settings["drift"]
    assert recorded["verdict"] in ("stable", "watch", "drifting")
    assert set(recorded["changes"]) == set(WATCHED)
    assert "drift: " in capsys.readouterr().out
