"""A video in the making with its files, chunk by chunk: so that several can take turns.

    with loaded.begin(request, path) as making:
        for step in making:
            ...

Between two steps the model is free, and what is in the files is whole. A live session steers
`Making.render` and `Making.recording` there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tethercache.files import Completed
from tethercache.render.durable import Saver, Start
from tethercache.render.guard import Guard, Return
from tethercache.render.record import cut_short
from tethercache.render.recording import Recording
from tethercache.render.render import Render
from tethercache.render.snapshots import Snapshots


@dataclass(frozen=True)
class Step:
    """A chunk that was made and written.

    Attributes:
        chunk: its number in the video.
        start: its first frame.
        stop: the frame behind its last.
        offset: where its fragment begins in the partial file, in bytes.
        end: where that ends.
        wall: seconds that it took.
        trace: what the cache did in it, where that is observed.
        back: what the guard said, if it then went back behind this chunk; else empty.
    """

    chunk: int
    start: int
    stop: int
    offset: int
    end: int
    wall: float
    trace: Mapping[str, Any] | None
    back: str


class Making(Completed, Iterator[Step]):
    """A video and its files; `next` makes one more chunk.

    Use it as a context manager. Leaving the block normally completes the video, be all its chunks
    made or not; an exception leaves what there is, to be resumed.

    Args:
        render: makes the frames.
        recording: writes them.
        start: where they begin.
        saver: takes snapshots.
        snapshots: those of the video.
        guard: watches for drift; None: nobody does.
        said: is told when the guard goes back.

    Attributes:
        render: makes the frames.
        recording: writes them, and has the record.
        saver: takes snapshots.
    """

    def __init__(
        self,
        render: Render,
        recording: Recording,
        start: Start,
        saver: Saver,
        snapshots: Snapshots,
        guard: Guard | None = None,
        said: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.render = render
        self.recording = recording
        self.saver = saver
        self._snapshots = snapshots
        self._guard = guard
        self._said = said
        if start.state is not None:
            self._go_on(start.state)
        render.wanted = self._wanted

    def _go_on(self, state: Mapping[str, Any]) -> None:
        if self._guard is not None:
            self._guard.load_state_dict(state["guard"])
            self._guard.note(self.recording)
            for change in self._guard.changes:
                self.render.change(change)
        self.render.restore(state["render"])

    def _wanted(self, chunks: int) -> bool:
        guard = self._guard
        return self.saver.wants(chunks) | (
            guard is not None and guard.wants(self.recording, chunks)
        )

    def __next__(self) -> Step:
        """Make a chunk, write it, and take a snapshot behind it where one is due.

        Raises:
            StopIteration: all are made.
            OSError: the files cannot be written.
            NotFiniteError: the model makes NaN or infinity.
        """
        began, recording, guard = time.perf_counter(), self.recording, self._guard
        first, offset = recording.num_frames, recording.size
        frames = next(self.render)
        trace = self.render.take_trace()
        recording.write(frames, trace)
        chunk, stop, end = recording.chunks - 1, recording.num_frames, recording.size
        state = self.render.take_state()
        if state is not None:
            whole = {"render": state, "recording": recording.state_dict()}
            if guard is not None:
                guard.keep(recording, whole)
            self.saver.take(whole, guard)
        back = None if guard is None else guard.look(recording)
        if back is not None:
            self._go_back(back)
        wall = time.perf_counter() - began
        said = "" if back is None else back.said
        return Step(chunk, first, stop, offset, end, wall, trace, said)

    def _go_back(self, back: Return) -> None:
        """Go on from an earlier border, and do something otherwise from there."""
        self.saver.forget_after(back.state["recording"]["chunks"])
        self.render.restore(back.state["render"])
        self.recording.rewind(back.state["recording"])
        self.render.change(back.change)
        self._said(back.said)

    def close(self) -> None:
        """Complete the video, as far as it is made; its record says how far that is."""
        try:
            self.saver.close()
            self.render.close()
        except BaseException:
            self.recording.abandon()
            raise
        recording = self.recording
        if 0 < recording.chunks < len(recording.record.chunk_sizes):
            recording.record = cut_short(recording.record, recording.chunks)
        recording.close()
        self._snapshots.finish()

    def abandon(self) -> None:
        """Leave the files as they are, to be resumed."""
        try:
            self.saver.close()
            self.render.close()
        finally:
            self.recording.abandon()
