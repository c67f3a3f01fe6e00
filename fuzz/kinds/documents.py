"""JSON that others may have written: records of videos, stored results, results of VBench."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

from fuzz import mutate
from fuzz.kind import Kind
from tests.evaluation.scenes import write
from tests.evaluation.vbench.test_results import results
from tethercache.cli.vbench_long import run
from tethercache.evaluation import stored
from tethercache.evaluation.measure import measure_video
from tethercache.evaluation.options import Options
from tethercache.evaluation.report import write_report
from tethercache.evaluation.suite import Report
from tethercache.render.record import request_of
from tethercache.request import Lora, VideoRequest
from tethercache.video import Sidecar, read_sidecar
from tethercache.video.sidecar import dump_sidecar


class Records(Kind):
    """Records of videos: each is refused, or written again as it was read."""

    name = "records"
    share = 15
    refusals = (ValueError,)

    def prepare(self) -> None:
        """Make a record with all that one can have."""
        sidecar = Sidecar(
            prompt="a red ball",
            model="tiny",
            model_hash="0" * 64,
            policy="tethercache:memory=21",
            seed=7,
            sample=0,
            width=64,
            height=48,
            fps=Fraction(30000, 1001),
            num_frames=9,
            num_latent_frames=3,
            chunk_sizes=(3,),
            dtype="float32",
            device="cpu",
            chunk_hashes=("1" * 64,),
            frames_hash="2" * 64,
            wall_seconds=1.5,
            frames_per_second=6.0,
            settings={"sigmas": [1.0, 0.5], "loras": [{"file": "a", "scale": 1.0}], "crf": 18},
            command=("tethercache", "generate", "a red ball"),
        )
        self._record = json.loads(dump_sidecar(sidecar))

    def make(self, rng: Random) -> bytes:
        """A changed record."""
        return mutate.written(mutate.changed(self._record, rng), rng)

    def take(self, content: bytes) -> None:
        """Read it, write it, read it again, and make a request of it."""
        path = Path("video.json")
        path.write_bytes(content)
        record = read_sidecar(path)
        path.write_bytes(dump_sidecar(record))
        request_of(path)
        again = read_sidecar(path)
        assert json.dumps(asdict(again), default=str) == json.dumps(asdict(record), default=str)


class Requests(Kind):
    """Requests as JSON: each is refused, or written again as it was read."""

    name = "requests"
    share = 10
    refusals = (ValueError,)

    def prepare(self) -> None:
        """Make a request with all that one can have."""
        loras = (Lora("a.safetensors", 0.5),)
        request = VideoRequest("a red ball", 3.5, policy="fifo", loras=loras, prefix="a.mp4")
        self._request = request.to_dict()

    def make(self, rng: Random) -> bytes:
        """A changed request."""
        return json.dumps(mutate.changed(self._request, rng)).encode()

    def take(self, content: bytes) -> None:
        """Read it, write it and read it again."""
        request = VideoRequest.from_dict(json.loads(content))
        assert VideoRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request


class Stored(Kind):
    """Results that `eval` has stored: each is measured again, or makes a report without tricks."""

    name = "stored"
    share = 6

    def prepare(self) -> None:
        """Measure a video."""
        self._options = Options()
        self._result = measure_video(write(Path("a.mp4"), seconds=2), self._options)

    def make(self, rng: Random) -> bytes:
        """A changed result, most of them with the checksum of what they hold."""
        record = mutate.changed(asdict(self._result), rng)
        if rng.random() < 0.9 and isinstance(record, dict):
            record["checksum"] = stored._checksum(record)
        return mutate.written(record, rng)

    def take(self, content: bytes) -> None:
        """Read it and make a report of it."""
        kept = Path("kept.json")
        kept.write_bytes(content)
        try:
            result = stored._read(kept, self._result.sha256, self._options)
        except (ValueError, RecursionError) as error:  # which `measure_all` takes for damage
            raise ValueError(str(error)) from None
        written = write_report(Report([result], [], [], self._options), Path("report"))
        for path in written:
            text = path.read_text()
            assert "\x1b" not in text
            assert path.suffix in (".json", ".csv") or "<script>alert" not in text


class VBench(Kind):
    """Finished runs of VBench-Long: a file, a folder or a zip."""

    name = "vbench"
    share = 3

    def prepare(self) -> None:
        """Make a run."""
        self._results: dict[str, Any] = results()

    def make(self, rng: Random) -> bytes:
        """A zip or a JSON file."""
        content = mutate.written(mutate.changed(self._results, rng), rng)
        if rng.random() < 0.7:
            return content
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", rng.choice((0, 8))) as archive:
            for name in ("run/a_eval_results.json", rng.choice(("../b.json", "/c.json", "d/"))):
                archive.writestr(name, content)
        return mutate.damaged(made.getvalue(), rng, 1 << 20)

    def take(self, content: bytes) -> None:
        """Read it and make its totals."""
        path = Path("run.zip" if content.startswith(b"PK") else "run.json")
        path.write_bytes(content)
        for format_ in ("json", "table"):
            run([path], Path("report"), None, format_, None)
