"""Node "TetherCache generate": from a prompt to a video file, in constant memory.

What `tethercache generate` does is done inside ComfyUI: frames go to an mp4 in the output folder as
they are made, chunk by chunk, and what the node hands on is that file. There is never a tensor of
the whole video. ComfyUI's progress bar, preview and Cancel button work; a video that was cancelled
stays playable (`NAME.partial.mp4`), and the same inputs, queued again, go on where it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from tethercache.render import Job, Order, Recording, check, check_recording, load, prepare
from tethercache.render.batch import Resume, check_room
from tethercache.render.durable import OtherCircumstancesError, latest
from tethercache.render.record import describe
from tethercache.request import DTYPES, VideoRequest
from tethercache.script import Change
from tethercache.video import SidecarError, read_sidecar
from tethercache.video.target import partial_path

from .policy import POLICY_TOOLTIP
from .words import problem

AUTO = "auto"
PREVIEW = 512
"""Pixels of the longer side of a preview, at most."""


class TetherCacheGenerate:
    """Make a video of any length and write it to the output folder while it is made."""

    CATEGORY = "TetherCache"
    DESCRIPTION = (
        "Makes a video of any length with TetherCache's own pipeline and writes it to the output "
        "folder while it is made: memory does not grow with the length. Cancel it, queue the same "
        "inputs again, and it goes on where it was."
    )
    RETURN_TYPES = ("VIDEO",)
    FUNCTION = "generate"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What `VideoRequest` takes, as far as it is asked for every day."""
        seconds = {"default": 10.0, "min": 0.1, "max": 86400.0, "step": 0.1}
        seed = {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True}
        then = {"default": "", "multiline": True, "tooltip": THEN_TOOLTIP}
        return {
            "required": {
                "prompt": ("STRING", {"default": EXAMPLE, "multiline": True}),
                "seconds": ("FLOAT", {**seconds, "tooltip": "Length of the video."}),
                "policy": ("STRING", {"default": AUTO, "tooltip": AUTO_TOOLTIP}),
                "seed": ("INT", {**seed, "tooltip": "Of the noise."}),
                "model": ("STRING", {"default": "tiny", "tooltip": MODEL_TOOLTIP}),
                "filename_prefix": ("STRING", {"default": "video/TetherCache"}),
            },
            "optional": {
                "then": ("STRING", then),
                "dtype": ([AUTO, *DTYPES], {"tooltip": "Number format of weights and cache."}),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(
        cls,
        prompt: str | None = None,
        seconds: float | None = None,
        policy: str | None = None,
        seed: int | None = None,
        model: str | None = None,
        then: str | None = None,
        dtype: str | None = None,
    ) -> str | Literal[True]:
        """What is wrong with the inputs, before anything is loaded."""
        given = {"seconds": seconds, "policy": policy, "seed": seed, "model": model}
        return problem(_check, prompt=prompt, then=then, dtype=dtype, **given)

    def generate(
        self,
        prompt: str,
        seconds: float,
        policy: str,
        seed: int,
        model: str,
        filename_prefix: str,
        then: str = "",
        dtype: str = AUTO,
    ) -> dict[str, Any]:
        """Make the video; ComfyUI shows the file and hands it on.

        Raises:
            ValueError: if something asked for cannot be; nothing was made.
            TetherCacheError: if a model, tool or memory is missing, or a file is damaged.
            OSError: if the files cannot be written.
        """
        from comfy_api.latest import InputImpl

        request = requested(prompt, seconds, policy, seed, model, then, dtype)
        path, subfolder = render(request, filename_prefix)
        shown = {"filename": path.name, "subfolder": subfolder, "type": "output"}
        ui = {"images": [shown], "animated": (True,)}
        return {"ui": ui, "result": (InputImpl.VideoFromFile(str(path)),)}


EXAMPLE = "a red ball rolling over grass"
AUTO_TOOLTIP = f"{POLICY_TOOLTIP} auto: what suits the model."
MODEL_TOOLTIP = (
    "A name that `tethercache models list` knows (tiny is shipped, self-forcing is fetched from "
    "the hub), a folder, a checkpoint, or a hub id."
)
THEN_TOOLTIP = (
    "What changes over time, one change a line: SECOND: PROMPT, or SECOND HOW: PROMPT where HOW "
    "is soft, recache or cut. For example: 20 cut: a blue cube floating over sand"
)


def requested(
    prompt: str, seconds: float, policy: str, seed: int, model: str, then: str, dtype: str
) -> VideoRequest:
    """The request that the inputs describe.

    Raises:
        ValueError: naming what cannot be.
    """
    return VideoRequest(
        prompt,
        seconds=seconds,
        policy=None if policy == AUTO else policy,
        seed=seed,
        model=model,
        then=tuple(Change.parse(line) for line in then.splitlines() if line.strip()),
        dtype=None if dtype == AUTO else dtype,
    )


def _check(
    prompt: str = EXAMPLE,
    seconds: float = 10,
    policy: str = AUTO,
    seed: int = 0,
    model: str = "tiny",
    then: str = "",
    dtype: str = AUTO,
) -> None:
    check(requested(prompt, seconds, policy, seed, model, then, dtype))


def render(request: VideoRequest, filename_prefix: str) -> tuple[Path, str]:
    """Make a video in ComfyUI's output folder, or go on with one that was cancelled.

    Args:
        request: what is asked.
        filename_prefix: of its name, with folders if need be, as in ComfyUI's own nodes.

    Returns:
        The file, and its folder inside the output folder.
    """
    import comfy.model_management as memory

    order = prepare(check(request))
    settings = order.parts.settings
    free, subfolder = _next_name(filename_prefix, settings.width, settings.height)
    begun = unfinished(free, order)
    path = begun or free
    check_recording(path, resume=begun is not None)
    check_room([Job(request, path)], order)
    memory.unload_all_models()
    memory.soft_empty_cache()
    with _as_outside():
        loaded = load(order, [request.prompt], like=None if begun is None else latest(path))
        loaded.pipe.transformer.register_forward_pre_hook(_stop_if_cancelled)
        told = _telling(order.plan.chunks.num_chunks)
        try:
            resume = Resume.NO if begun is None else Resume.YES
            loaded.make(request, path, resume=resume, told=told)
        except OtherCircumstancesError:  # after an update; the old one stays as it is
            path = free
            loaded.make(request, path, told=told)
    return path, subfolder


def _next_name(prefix: str, width: int, height: int) -> tuple[Path, str]:
    """The next free name with a prefix, as ComfyUI counts them, and its folder."""
    import folder_paths

    folder, name, number, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), width, height
    )
    return Path(folder) / f"{name}_{number:05}_.mp4", subfolder


def unfinished(path: Path, order: Order) -> Path | None:
    """The newest video with this prefix that was cancelled and is of the same request; or None.

    Args:
        path: the next free name.
        order: of the request.
    """
    prefix = path.name.rpartition("_")[0].rpartition("_")[0]
    numbered = re.compile(re.escape(prefix) + r"_(\d+)_\.mp4")
    asked = describe(order, path.parent)
    for partial in sorted(path.parent.glob("*_.partial.mp4"), reverse=True):
        found = partial.with_name(partial.name.replace(".partial.mp4", ".mp4"))
        if numbered.fullmatch(found.name) is None:
            continue
        try:
            record = read_sidecar(partial_path(found))
        except (OSError, SidecarError):
            continue
        if asked.answers(record, order.request):
            return found
    return None


@contextmanager
def _as_outside() -> Iterator[None]:
    """Compute as the command line does, and leave PyTorch as ComfyUI has set it.

    ComfyUI runs nodes in inference mode, which other threads, such as that of the decoder, are not
    in; and it has a number of threads of its own.
    """
    threads = torch.get_num_threads()
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        torch.set_num_threads(threads)


def _stop_if_cancelled(*args: Any) -> None:
    """Raise ComfyUI's own exception if somebody has pressed Cancel."""
    import comfy.model_management as memory

    memory.throw_exception_if_processing_interrupted()


def _telling(chunks: int) -> Callable[[Recording], None]:
    """Move ComfyUI's progress bar, show the newest frame, and stop if that is wanted."""
    from comfy.utils import ProgressBar
    from PIL import Image

    bar = ProgressBar(chunks)

    def told(recording: Recording) -> None:
        assert recording.newest is not None  # a chunk was written
        preview = ("JPEG", Image.fromarray(recording.newest), PREVIEW)
        bar.update_absolute(recording.chunks, chunks, preview)
        _stop_if_cancelled()

    return told
