"""The few boxes of a fragmented mp4 that must be written at our own moment (ISO/IEC 14496-12).

FFmpeg's muxer closes a fragment when the next one begins, which would keep the newest chunk in
memory; PyAV cannot ask it to close one earlier. So FFmpeg writes the header, and the other boxes,
all of them plain for one track without reordering, are made here:

    ftyp moov[... mvex[mehd trex]]   the header, first; `mehd` gets the duration at the end
    moof mdat                        a fragment for each chunk of frames
    mfra                             the index, last: where the keyframes are

This file knows nothing about H.264.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass

TRACK = 1
_SYNC_SAMPLE = 0x0200_0000  # depends on no other sample
_OTHER_SAMPLE = 0x0101_0000  # depends on others, is not a sync sample


@dataclass(frozen=True)
class Sample:
    """One encoded frame; `data` is what the track's codec stores in `mdat`."""

    data: bytes
    is_keyframe: bool


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box: 32-bit size, four letters, content."""
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def full_box(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    """A box whose content starts with a version and 24 flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def movie_duration(duration: int) -> bytes:
    """The `mehd` box: the duration of all fragments, in the movie's timescale; 20 bytes."""
    return full_box(b"mehd", 1, 0, struct.pack(">Q", duration))


def reserve_duration(header: bytes) -> tuple[bytes, int]:
    """Make room in a header for `movie_duration`.

    Until the room is used it holds a `free` box of the same size: a file that was never finished
    says nothing about its duration, rather than something wrong.

    Returns:
        The header with the room, and the room's offset.
    """
    sizes = []  # where the sizes of the boxes stand that contain the room
    start, end = 0, len(header)
    for kind in (b"moov", b"mvex"):
        while header[start + 4 : start + 8] != kind:
            start += struct.unpack_from(">I", header, start)[0]
            if start >= end:
                raise ValueError(f"the mp4 header has no {kind.decode()} box")
        sizes.append(start)
        end = start + struct.unpack_from(">I", header, start)[0]
        start += 8
    room = box(b"free", bytes(len(movie_duration(0)) - 8))
    result = bytearray(header[:start] + room + header[start:])
    for offset in sizes:
        (size,) = struct.unpack_from(">I", result, offset)
        struct.pack_into(">I", result, offset, size + len(room))
    return bytes(result), start


def fragment(sequence: int, start: int, sample_duration: int, samples: list[Sample]) -> bytes:
    """A `moof` and its `mdat`: playable as soon as both are in the file.

    Args:
        sequence: number of the fragment, from 1.
        start: decode time of the first sample, in the track's timescale.
        sample_duration: duration of every sample, in the track's timescale.
        samples: the samples in decode order, which is the order in which they are shown.
    """
    table = b"".join(
        struct.pack(">II", len(s.data), _SYNC_SAMPLE if s.is_keyframe else _OTHER_SAMPLE)
        for s in samples
    )

    def moof(data_offset: int) -> bytes:
        run = struct.pack(">Ii", len(samples), data_offset) + table
        return box(
            b"moof",
            full_box(b"mfhd", 0, 0, struct.pack(">I", sequence)),
            box(
                b"traf",
                # offsets count from this moof; one duration for all samples
                full_box(b"tfhd", 0, 0x020008, struct.pack(">II", TRACK, sample_duration)),
                full_box(b"tfdt", 1, 0, struct.pack(">Q", start)),
                # the offset of the data, then size and flags of each sample
                full_box(b"trun", 0, 0x000601, run),
            ),
        )

    return moof(len(moof(0)) + 8) + box(b"mdat", *(s.data for s in samples))


class KeyframeIndex:
    """Where the keyframes are: 20 bytes for each, the only thing that grows with a video."""

    def __init__(self) -> None:
        self._times = array("Q")
        self._offsets = array("Q")
        self._numbers = array("I")

    def add(self, start: int, sample_duration: int, offset: int, samples: list[Sample]) -> None:
        """Note the keyframes of the fragment at byte `offset`, which begins at time `start`."""
        for i, sample in enumerate(samples):
            if sample.is_keyframe:
                self._times.append(start + i * sample_duration)
                self._offsets.append(offset)
                self._numbers.append(i + 1)

    def to_bytes(self) -> bytes:
        """The `mfra` box; players find it by the size in its last four bytes."""
        entries = b"".join(
            struct.pack(">QQBBI", time, offset, 1, 1, number)
            for time, offset, number in zip(self._times, self._offsets, self._numbers, strict=True)
        )
        # 0b000011: one byte for the number of the traf and of the trun, four for that of the sample
        head = struct.pack(">III", TRACK, 0b000011, len(self._times))
        tfra = full_box(b"tfra", 1, 0, head, entries)
        return box(b"mfra", tfra, full_box(b"mfro", 0, 0, struct.pack(">I", 8 + len(tfra) + 16)))
