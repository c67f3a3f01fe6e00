"""RGB to the video's colours and back: BT.709, limited range, one colour for 2x2 pixels.

FFmpeg's quick defaults are off by up to 3 levels on the way back, and too dark by more than one on
average, which would count as drift. With exact rounding a flat colour comes back within 2 levels,
and every machine computes the same.
"""

from __future__ import annotations

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

# FFmpeg's SWS_BILINEAR, SWS_ACCURATE_RND and SWS_BITEXACT; PyAV names the last two from 18 on
_EXACT = 0x2 | 0x40000 | 0x80000
_FULL_CHROMA_OUT = 0x2000  # SWS_FULL_CHR_H_INT
_FULL_CHROMA_IN = 0x4000  # SWS_FULL_CHR_H_INP


def to_yuv(converter: VideoReformatter, image: npt.NDArray[np.uint8]) -> av.VideoFrame:
    """RGB `[H, W, 3]` to a yuv420p frame; `converter` keeps its tables from frame to frame."""
    return converter.reformat(
        av.VideoFrame.from_ndarray(image, format="rgb24"),
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=_EXACT | _FULL_CHROMA_IN,
        threads=1,
    )


def to_rgb(converter: VideoReformatter, frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    """A decoded frame, in the colours that it is tagged with, to RGB `[H, W, 3]`."""
    rgb = converter.reformat(
        frame, format="rgb24", interpolation=_EXACT | _FULL_CHROMA_OUT, threads=1
    )
    return np.asarray(rgb.to_ndarray(), dtype=np.uint8)
