"""A long video to the clips that VBench-Long scores."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tethercache.evaluation.vbench.dimensions import CUSTOM_CLIP_SECONDS
from tethercache.video import VideoWriter, probe, read_frames


def plan_clips(num_frames: int, fps: float, seconds: int) -> list[range]:
    """Which frames each clip has: whole clips, then one more from the end if frames remain.

    The last clip is as long as the others and overlaps the one before it; a video shorter than a
    clip is one clip.
    """
    length = int(fps) * seconds
    if length < 1 or num_frames < 1:
        raise ValueError(
            f"`fps` ({fps}), `seconds` ({seconds}) and `num_frames` ({num_frames}) must be positive"
        )
    if num_frames < length:
        return [range(num_frames)]
    clips = [range(i, i + length) for i in range(0, num_frames - length + 1, length)]
    if num_frames % length:
        clips.append(range(num_frames - length, num_frames))
    return clips


def split_video(
    path: Path, folder: Path, seconds: int = CUSTOM_CLIP_SECONDS, *, name: str = ""
) -> list[Path]:
    """Write a video's clips as `NAME_000.mp4`, ...; reads it once and holds no more than a frame.

    Args:
        path: the long video.
        folder: where the clips go; made if need be.
        seconds: length of a clip.
        name: of the clips; by default that of the file.

    Returns:
        The clips in order; a video that is shorter than one is `NAME_full.mp4`.
    """
    info = probe(path)
    clips = plan_clips(info.num_frames, float(info.fps), seconds)
    folder.mkdir(parents=True, exist_ok=True)
    whole = len(clips) == 1 and len(clips[0]) < int(info.fps) * seconds
    name = name or path.stem
    paths = [folder / f"{name}_{'full' if whole else f'{i:03d}'}.mp4" for i in range(len(clips))]
    length = len(clips[0])
    with ExitStack() as stack:
        writers: dict[int, VideoWriter] = {}
        for index, frame in enumerate(read_frames(path)):
            # the clip in whose turn the frame is, and the last one, which overlaps it
            for i in {min(index // length, len(clips) - 1), len(clips) - 1}:
                if index not in clips[i]:
                    continue
                if i not in writers:
                    writers[i] = stack.enter_context(
                        VideoWriter(
                            paths[i],
                            fps=info.fps,
                            width=info.width,
                            height=info.height,
                            overwrite=True,
                        )
                    )
                writers[i].write(frame[None])
                if index == clips[i].stop - 1:
                    writers.pop(i).close()
    return paths
