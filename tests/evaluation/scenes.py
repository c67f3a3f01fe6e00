"""Small synthetic videos with one known fault each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from tethercache.video import VideoWriter

FPS, SECONDS, BEGIN = 16, 20, 8
WIDTH, HEIGHT = 96, 64
SHAKE = 1  # pixels by which the camera leaves its place
Image = npt.NDArray[np.uint8]


def texture(seed: int = 0) -> npt.NDArray[np.float32]:
    """A wrapping YCrCb picture: fine luma, coarse colour, neutral on average."""
    generator = np.random.default_rng(seed)
    planes = []
    for sigma in (2.0, 6.0, 6.0):
        noise = np.tile(generator.standard_normal((HEIGHT, WIDTH)), (3, 3)).astype(np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), sigma)[HEIGHT : 2 * HEIGHT, WIDTH : 2 * WIDTH]
        smooth -= smooth.mean()
        planes.append(128 + smooth / smooth.std() * (22 if sigma < 3 else 9))
    return np.stack(planes, axis=-1)


def rgb(picture: npt.NDArray[np.float32]) -> Image:
    pixels = np.clip(np.round(picture), 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_YCrCb2RGB), dtype=np.uint8)


Fault = Callable[[int, npt.NDArray[np.float32]], npt.NDArray[np.float32]]


def ramp(index: int) -> float:
    """0 until the fault begins, then linearly to 1 at the end."""
    return max(0.0, (index / FPS - BEGIN) / (SECONDS - BEGIN))


def saturate(index: int, picture: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    picture[..., 1:] = 128 + (picture[..., 1:] - 128) * (1 + 2 * ramp(index))
    return picture


def brighten(index: int, picture: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    picture[..., 0] += 45 * ramp(index)
    return picture


def blur(index: int, picture: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if ramp(index):
        picture[..., 0] = cv2.GaussianBlur(picture[..., 0], (0, 0), 0.2 + 1.8 * ramp(index))
    return picture


def flicker(index: int, picture: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    chunk = 0 if index < 9 else 1 + (index - 9) // 12
    picture[..., 0] += 16 * (chunk % 2)
    return picture


def nothing(index: int, picture: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return picture


def frames(fault: str, seconds: float = SECONDS) -> Iterator[Image]:
    """A texture before a shaking camera, with a fault."""
    first, second = texture(0), texture(1)
    faults: dict[str, Fault] = {
        "saturation": saturate,
        "brightness": brighten,
        "blur": blur,
        "flicker": flicker,
    }
    for index, place in enumerate(shaking(round(seconds * FPS))):
        if fault != "freeze" or index <= BEGIN * FPS:
            shift = place
        picture = second if fault == "cut" and index >= BEGIN * FPS else first
        moved = np.roll(picture, shift, axis=(0, 1))
        yield rgb(faults.get(fault, nothing)(index, moved))


def shaking(count: int) -> Iterator[tuple[int, int]]:
    """A walk by one pixel up or down and one left or right, which stays near its place."""
    generator = np.random.default_rng(3)
    place = np.zeros(2, np.int64)
    for _ in range(count):
        yield int(place[0]), int(place[1])
        step = generator.choice([-1, 1], 2)
        place += np.where(np.abs(place + step) > SHAKE, -step, step)


def write(path: Path, fault: str = "none", seconds: float = SECONDS) -> Path:
    with VideoWriter(path, fps=FPS, width=WIDTH, height=HEIGHT) as writer:
        for frame in frames(fault, seconds):
            writer.write(frame[None])
    return path
