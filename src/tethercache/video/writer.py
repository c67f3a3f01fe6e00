"""Frames to an H.264 mp4 that plays while it grows.

A chunk of frames is encoded without any delay, becomes one fragment of the file and is handed to
the operating system before `write` returns. So the partial file plays up to its last chunk whatever
happens to the process, and nothing but a complete video ever stands under the final name. The
partial file is locked while it is written, so that two runs cannot share it; and what a run that
broke off has left in it is replaced only if the caller says so.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, VideoReformatter

from tethercache.video import mp4
from tethercache.video.colour import to_yuv
from tethercache.video.files import Frames, as_frames, check_free, disk_full_advice

if sys.platform != "win32":
    import fcntl

_BT709 = 1  # H.273: the same code for primaries, transfer and matrix
_KEYFRAME_SECONDS = 2
_FULL = (
    "the video is not complete; free some space and run again with `overwrite`, "
    "or choose another folder"
)


def partial_path(path: str | os.PathLike[str]) -> Path:
    """Where the video `NAME.mp4` is written until it is complete: `NAME.partial.mp4`."""
    return Path(path).with_suffix(".partial.mp4")


def check_target(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Refuse a video path that cannot be written, before any work is done.

    Raises:
        ValueError: the name does not end in `.mp4`.
        FileExistsError: another run is writing this video; or the file or its partial file exists
            and `overwrite` is false.
        OSError: the folder is missing, is no folder or cannot be written.
    """
    path = Path(path)
    if path.suffix != ".mp4":
        raise ValueError(f"`path` must end in .mp4, got {str(path)!r}")
    folder = path.parent
    if not folder.exists():
        raise FileNotFoundError(errno.ENOENT, "no such folder; create it first", str(folder))
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no permission to write in this folder", str(folder))
    check_free(path, overwrite=overwrite)
    _check_partial(partial_path(path), overwrite)
    return path


def _check_partial(path: Path, overwrite: bool, *, remove: bool = False) -> None:
    """Refuse a partial file that another run is writing, or that an earlier one has left.

    Args:
        path: where it would be.
        overwrite: accept what an earlier run has left.
        remove: delete that, if it is accepted.
    """
    try:
        fd = os.open(path, os.O_WRONLY)
    except FileNotFoundError:
        return
    try:
        _claim(fd, path)
        if not overwrite:
            message = "an unfinished video is here and `overwrite` is off; move it away to keep it"
            raise FileExistsError(errno.EEXIST, message, str(path))
        if remove:
            path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _claim(fd: int, path: Path) -> None:
    """Lock the file `path`, open as `fd`, until it is closed or the process ends.

    Windows does not let go of open files anyway. On a file system without locks nothing is locked;
    `VideoWriter.close` finds out there if the file was replaced.

    Raises:
        FileExistsError: it is locked already, or another file has its name by now.
    """
    is_free = True
    if sys.platform != "win32":
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_free = False
        except OSError:  # no locks here
            pass
    if not is_free or not _is_at(fd, path):
        message = "another run is writing this video; choose another name"
        raise FileExistsError(errno.EEXIST, message, str(path))


def _is_at(fd: int, path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


class VideoWriter:
    """Writes one video, chunk by chunk: H.264, yuv420p, BT.709, fragmented mp4.

    Use it as a context manager. Leaving the block normally completes the video and gives it its
    name; an exception leaves the playable `NAME.partial.mp4` behind. The same calls give the same
    bytes, and how frames are cut into chunks changes neither their pixels nor their times.

    Args:
        path: `NAME.mp4`.
        fps: frames a second; frame i is shown at exactly i / fps. A float stands for the nearest
            fraction with a denominator of at most 1001.
        width: pixels, even.
        height: pixels, even.
        overwrite: replace an existing file when the new one is complete, and what a run that broke
            off has left in the partial file at once.
        crf: x264's quality, 1 (best) to 51; 18 is visually lossless. (0 would be a format that
            few players know.)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fps: Fraction | int | float,
        width: int,
        height: int,
        overwrite: bool = False,
        crf: int = 18,
    ) -> None:
        if not 0 < fps < float("inf"):
            raise ValueError(f"`fps` ({fps}) must be a positive number")
        for name, size in (("width", width), ("height", height)):
            if size <= 0 or size % 2:
                raise ValueError(
                    f"`{name}` ({size}) must be even and positive: yuv420p stores one colour "
                    "for each 2x2 pixels"
                )
        if not 1 <= crf <= 51:
            raise ValueError(f"`crf` ({crf}) must be between 1 and 51")
        self.path = check_target(path, overwrite=overwrite)
        self.partial_path = partial_path(path)
        self.fps = Fraction(fps)
        if isinstance(fps, float):
            self.fps = self.fps.limit_denominator(1001)
        self.width = width
        self.height = height
        self.num_frames = 0
        self._overwrite = overwrite
        self._complete = False
        self._converter = VideoReformatter()
        self._index = mp4.KeyframeIndex()
        self._sequence = 0
        self._size = 0  # bytes of the file that are whole boxes

        header = self._open_encoder(crf)
        header, self._duration_offset = mp4.reserve_duration(header)
        _check_partial(self.partial_path, overwrite, remove=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._fd: int | None = os.open(self.partial_path, flags, 0o666)
        try:
            _claim(self._fd, self.partial_path)
            self._append(header)
        except BaseException:
            self._unlink()
            self._release()
            raise

    def _open_encoder(self, crf: int) -> bytes:
        """Open the encoder; returns the mp4 header that FFmpeg writes for it.

        Timescale: the smallest multiple of the frame rate's numerator from 10,000 on, so that all
        timestamps are exact. Encoder: one thread, no look-ahead, no B-frames: every frame comes out
        at once and the bytes do not depend on the machine. `annexb=0` makes x264 emit mp4 samples.
        """
        self._timescale = self.fps.numerator * -(-10_000 // self.fps.numerator)
        self._frame_duration = int(self._timescale / self.fps)
        header = io.BytesIO()
        self._muxer = av.open(
            header,
            "w",
            format="mp4",
            options={
                "movflags": "empty_moov+default_base_moof+skip_trailer",
                "use_editlist": "0",
                "movie_timescale": str(self._timescale),
                "video_track_timescale": str(self._timescale),
                "fflags": "+bitexact",
            },
        )
        stream = self._muxer.add_stream("libx264", rate=self.fps)
        encoder = stream.codec_context
        encoder.width, encoder.height, encoder.pix_fmt = self.width, self.height, "yuv420p"
        encoder.time_base = 1 / self.fps
        encoder.thread_count = 1
        encoder.gop_size = max(1, round(_KEYFRAME_SECONDS * self.fps))
        encoder.color_range = ColorRange.MPEG
        encoder.colorspace = encoder.color_primaries = encoder.color_trc = _BT709
        encoder.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "crf": str(crf),
            "x264-params": "annexb=0",
        }
        self._muxer.start_encoding()
        self._encoder = encoder
        return header.getvalue()

    def write(self, frames: Frames) -> None:
        """Append frames; when this returns they are in the file.

        Args:
            frames: uint8 RGB `[F, height, width, 3]`.

        Raises:
            DiskFullError: there is no room; the file holds the chunks before this one.
        """
        if self._fd is None:
            raise ValueError(f"the video {self.path} is closed")
        array = as_frames(frames)
        if array.shape[1:3] != (self.height, self.width):
            raise ValueError(
                f"`frames` must be [F, {self.height}, {self.width}, 3], got {list(array.shape)}"
            )
        if not len(array):
            return
        start, offset = self.num_frames * self._frame_duration, self._size
        try:
            samples = [self._encode(frame, self.num_frames + i) for i, frame in enumerate(array)]
            self._sequence += 1
            self._append(mp4.fragment(self._sequence, start, self._frame_duration, samples))
        except BaseException:  # the encoder is ahead of the file: nothing can follow
            self._release()
            raise
        self._index.add(start, self._frame_duration, offset, samples)
        self.num_frames += len(samples)

    def _encode(self, image: npt.NDArray[np.uint8], index: int) -> mp4.Sample:
        """Encode frame number `index`, `[height, width, 3]`."""
        frame = to_yuv(self._converter, image)
        frame.pts, frame.time_base = index, 1 / self.fps
        (packet,) = self._encoder.encode(frame)
        return mp4.Sample(bytes(packet), packet.is_keyframe)

    def _append(self, boxes: bytes) -> None:
        """Hand boxes to the operating system so that the file is whole before and after.

        A large write can stop in the middle, when the process is killed or the disk is full, and
        half a `moof` makes a file unreadable. So the first box, `moof` for a fragment, is called
        `free`, which players skip, until everything is written; its own four letters come last.
        """
        assert self._fd is not None
        with disk_full_advice(self.partial_path, _FULL):
            content = memoryview(boxes[:4] + b"free" + boxes[8:])
            done = 0
            while done < len(content):
                done += os.pwrite(self._fd, content[done:], self._size + done)
            os.pwrite(self._fd, boxes[4:8], self._size + 4)
        self._size += len(boxes)

    def close(self) -> None:
        """Complete the video and give it its name. Nothing happens if that was done already.

        Raises:
            ValueError: no frame was written, or writing has failed before.
            FileExistsError: a file took the name meanwhile; the video stays under the partial name.
            FileNotFoundError: the partial file was moved, deleted or replaced meanwhile.
        """
        if self._complete:
            return
        if self._fd is None:
            raise ValueError(f"the video {self.path} broke off; see {self.partial_path}")
        try:
            if not self.num_frames:
                self._unlink()
                raise ValueError(f"no frame was written to {self.path}")
            self._append(self._index.to_bytes())
            duration = mp4.movie_duration(self.num_frames * self._frame_duration)
            with disk_full_advice(self.partial_path, _FULL):
                os.pwrite(self._fd, duration, self._duration_offset)
                os.fsync(self._fd)
            check_free(self.path, overwrite=self._overwrite)
            if not _is_at(self._fd, self.partial_path):
                message = "the file was moved, deleted or replaced while it was written"
                raise FileNotFoundError(errno.ENOENT, message, str(self.partial_path))
            self.partial_path.replace(self.path)
            self._complete = True
        finally:
            self._release()

    def _unlink(self) -> None:
        """Delete the partial file, unless its name is another file's by now."""
        assert self._fd is not None
        if _is_at(self._fd, self.partial_path):
            self.partial_path.unlink()

    def _release(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
        self._muxer.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._release()
