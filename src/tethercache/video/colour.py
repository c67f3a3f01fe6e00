"""RGB to the video's colours and back: BT.709, limited range, one colour for 2x2 pixels.

The colours of a row stand at every other pixel's centre, as players assume of H.264 that does not
say otherwise; halfway between rows.

FFmpeg's quick defaults are off by up to 3 levels on the way back, and too dark by more than one on
average, which would count as drift. With exact rounding a flat colour comes back within 2 levels,
and every machine computes the same.
"""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.video.reformatter import VideoReformatter

# FFmpeg's SWS_BILINEAR, SWS_ACCURATE_RND and SWS_BITEXACT; PyAV names the last two from 18 on
_EXACT = 0x2 | 0x40000 | 0x80000
_FULL_CHROMA_OUT = 0x2000  # SWS_FULL_CHR_H_INT


class ToYuv:
    """RGB `[height, width, 3]` to yuv420p frames; keeps its tables from frame to frame.

    A filter graph, because PyAV's `reformat` cannot say where the colours stand.
    """

    def __init__(self, width: int, height: int) -> None:
        graph = self._graph = Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=width, height=height, format=av.VideoFormat("rgb24"), time_base=Fraction(1, 1)
        )
        scale = graph.add(
            "scale",
            "out_color_matrix=bt709:out_range=limited:out_chroma_loc=left"
            ":flags=bilinear+accurate_rnd+bitexact+full_chroma_inp",
        )
        graph.link_nodes(
            source, scale, graph.add("format", "pix_fmts=yuv420p"), graph.add("buffersink")
        ).configure()

    def __call__(self, image: npt.NDArray[np.uint8]) -> av.VideoFrame:
        """Convert one image; the frame has no time yet."""
        self._graph.vpush(av.VideoFrame.from_ndarray(image, format="rgb24"))
        return self._graph.vpull()


def to_yuv(converter: VideoReformatter, image: npt.NDArray[np.uint8]) -> av.VideoFrame:
    """One RGB image `[H, W, 3]` to a yuv420p frame, the counterpart of `to_rgb`.

    Args:
        converter: as for `to_rgb`; not needed in this direction, where it cannot site chroma.
        image: what to convert; even height and width. For many images keep a `ToYuv`.
    """
    height, width, _ = image.shape
    return ToYuv(width, height)(image)


def to_rgb(converter: VideoReformatter, frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    """A decoded frame, in the colours that it is tagged with, to RGB `[H, W, 3]`."""
    rgb = converter.reformat(
        frame, format="rgb24", interpolation=_EXACT | _FULL_CHROMA_OUT, threads=1
    )
    return np.asarray(rgb.to_ndarray(), dtype=np.uint8)
