"""Latents to pixels, a few latent frames at a time.

Axes: B samples, C latent channels, F latent frames, h and w latent rows and columns; 3 colours,
F_pixel pixel frames, H and W pixel rows and columns.

`AutoencoderKLWan` is causal in time: a pixel frame depends on its latent frame and on a few
features of the ones before, which every causal convolution keeps in a feature cache. diffusers
stores that cache on the VAE and clears it around each whole decode; here it belongs to the stream,
so that any number of streams share one VAE and memory does not grow with the length of the video.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, unpatchify
from torch import Tensor, nn

from tethercache.alignment import align
from tethercache.arguments import whole_number
from tethercache.errors import NotFiniteError
from tethercache.state import State, check_fits, laid_out, layout

STATE_VERSION = 1


@dataclass(frozen=True)
class TileSize:
    """Size of a decoding tile and distance to the next one, in pixels, as in `vae.enable_tiling`.

    Neighbours overlap by `height - stride_height` rows and `width - stride_width` columns and are
    blended linearly there.
    """

    height: int = 256
    width: int = 256
    stride_height: int = 192
    stride_width: int = 192

    def __post_init__(self) -> None:
        for axis in ("height", "width"):
            size, stride = getattr(self, axis), getattr(self, f"stride_{axis}")
            whole_number(axis, size, least=1)
            if not 0 < whole_number(f"stride_{axis}", stride) <= size:
                raise ValueError(
                    f"`stride_{axis}` ({stride}) must be between 1 and `{axis}` ({size})"
                )


class _FeatureCache:
    """What the decoder's causal convolutions remember of one stream, or of one tile of it.

    Attributes:
        features: one entry a convolution, in the order in which the decoder calls them: None before
            the first latent frame, then the last two frames of the convolution's input
            `[B, channels, 2, rows, columns]`, or the decoder's own mark "Rep".
    """

    def __init__(self, vae: AutoencoderKLWan, decoder: Any) -> None:
        self.vae = vae
        self.decoder = decoder
        self.features: list[Tensor | str | None] = [None] * _convolutions(vae)

    def state_dict(self) -> State:
        """What the convolutions remember; see `tethercache.state`."""
        return {"features": [layout(x) if isinstance(x, Tensor) else x for x in self.features]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        saved = state["features"]
        self.features = [laid_out(x) if isinstance(x, Mapping) else x for x in saved]

    def to(self, device: torch.device) -> None:
        """Bring the features to where they are needed, if they are not there."""
        self.features = [x.to(device) if isinstance(x, Tensor) else x for x in self.features]

    def decode(self, z: Tensor) -> Tensor:
        """Decode the next latent frame.

        Args:
            z: denormalised latents `[B, C, 1, h, w]`.

        Returns:
            `[B, 3 * patch ** 2, n, H / patch, W / patch]`; n is 1 for the first latent frame, then
            4.
        """
        frame: Tensor = self.decoder(
            self.vae.post_quant_conv(z),
            feat_cache=self.features,
            feat_idx=[0],
            first_chunk=self.features[0] is None,
        )
        return frame


class StreamingDecoder:
    """Decodes one stream of latent frames; all calls together equal one whole `vae.decode`.

    The chunks may have any sizes. Nothing is stored on the VAE, so streams can be interleaved, and
    the VAE's own `use_tiling` and `use_slicing` play no part here (`SlicedDecoder`, `tiles_of`).

    Args:
        vae: the VAE, of the Wan 2.1 or the Wan 2.2 kind, in any dtype.
        tile: decode in overlapping tiles, to need less memory; equals the VAE's tiled decode with
            these sizes. Frames that fit into one tile are not tiled. None: never tile.
        compiled: let `torch.compile` make the decoder faster; results differ by rounding.
    """

    def __init__(
        self, vae: AutoencoderKLWan, *, tile: TileSize | None = None, compiled: bool = False
    ) -> None:
        ratio = vae.spatial_compression_ratio
        for name, size in vars(tile).items() if tile is not None else ():
            if size % ratio:
                raise ValueError(
                    f"`tile.{name}` ({size}) must be a multiple of {ratio}, "
                    "the pixels that a latent of this VAE is wide"
                )
        align(vae)
        self.vae = vae
        self.tile = tile
        # tiles and streams come in few sizes, each worth code of its own
        self._decoder = torch.compile(vae.decoder, dynamic=False) if compiled else vae.decoder
        self._caches: list[list[_FeatureCache]] = []  # rows of tiles; empty before the first call
        self._stream_shape: tuple[int, ...] | None = None
        self._decoded = 0  # latent frames

    def state_dict(self) -> State:
        """What the decoder has to remember between two calls; see `tethercache.state`.

        Most of it are the features of the latest two frames, at full size in the last layers.
        """
        shape = self._stream_shape
        return {
            "made_for": self._made_for(),
            "decoded": self._decoded,
            "stream_shape": None if shape is None else list(shape),
            "tiles": [[cache.state_dict() for cache in row] for row in self._caches],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another decoder of this VAE was; forget what is here.

        Args:
            state: what `state_dict` returned. Its tensors are copied, and go to the device of the
                latents with the next call.

        Raises:
            ValueError: naming what differs; nothing has changed then.
        """
        check_fits("decoder", state, self._made_for())
        caches = [[_FeatureCache(self.vae, self._decoder) for _ in row] for row in state["tiles"]]
        for row, saved_row in zip(caches, state["tiles"], strict=True):
            for cache, saved in zip(row, saved_row, strict=True):
                cache.load_state_dict(saved)
        shape = state["stream_shape"]
        self._stream_shape = None if shape is None else tuple(shape)
        self._caches, self._decoded = caches, state["decoded"]

    def _made_for(self) -> State:
        return {
            "version": STATE_VERSION,
            "convolutions": _convolutions(self.vae),
            "dtype": str(self.vae.dtype).removeprefix("torch."),
            "tile": None if self.tile is None else dict(vars(self.tile)),
        }

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode the next latent frames of the stream.

        Args:
            latents: normalised latents, as the transformer makes them, `[B, C, F, h, w]`.

        Returns:
            float32 frames in [-1, 1], `[B, 3, F_pixel, H, W]`. The first latent frame of the stream
            gives 1 pixel frame, every later one 4.

        Raises:
            NotFiniteError: if the decoder makes NaN or infinity.
        """
        self._check(latents)
        fetch_weights(self.vae)
        for cache in chain.from_iterable(self._caches):
            cache.to(latents.device)
        config = self.vae.config
        mean, std = (
            torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        z = (latents.float() * std + mean).to(self.vae.dtype)
        frames, finite = [], []
        for z_frame in torch.split(z, 1, dim=2):
            frame = self._decode_frame(z_frame)
            if config.patch_size is not None:
                frame = unpatchify(frame, patch_size=config.patch_size)
            finite.append(torch.isfinite(frame).all())  # clamping would hide infinity
            frames.append(frame.clamp(-1.0, 1.0).float())
        for good in torch.stack(finite).tolist():
            self._decoded += 1
            if not good:
                raise NotFiniteError("decoder", f"latent frame {self._decoded}", self.vae.dtype)
        return torch.cat(frames, dim=2)

    def _check(self, latents: Tensor) -> None:
        channels = self.vae.config.z_dim
        if latents.ndim != 5 or latents.shape[1] != channels or latents.shape[2] == 0:
            raise ValueError(
                f"`latents` must be [B, {channels}, F, h, w] with F of at least 1, "
                f"got {list(latents.shape)}"
            )
        shape = (latents.shape[0], *latents.shape[3:])
        if self._stream_shape not in (None, shape):
            raise ValueError(
                f"`latents` of one stream must keep their [B, h, w], {self._stream_shape}, "
                f"got {shape}; use one StreamingDecoder for each stream"
            )
        self._stream_shape = shape

    def _decode_frame(self, z: Tensor) -> Tensor:
        """Decode one latent frame `[B, C, 1, h, w]`, in tiles if it is larger than one."""
        *_, height, width = z.shape
        ratio = self.vae.spatial_compression_ratio
        if self.tile is None or (
            height <= self.tile.height // ratio and width <= self.tile.width // ratio
        ):
            if not self._caches:
                self._caches = [[_FeatureCache(self.vae, self._decoder)]]
            return self._caches[0][0].decode(z)

        tile = self.tile
        tops = range(0, height, tile.stride_height // ratio)
        lefts = range(0, width, tile.stride_width // ratio)
        if not self._caches:
            self._caches = [[_FeatureCache(self.vae, self._decoder) for _ in lefts] for _ in tops]
        rows = [
            [
                cache.decode(
                    z[..., top : top + tile.height // ratio, left : left + tile.width // ratio]
                )
                for cache, left in zip(caches, lefts, strict=True)
            ]
            for caches, top in zip(self._caches, tops, strict=True)
        ]
        return self._join(rows, tile)[..., : self._pixels(height), : self._pixels(width)]

    def _pixels(self, latents: int) -> int:
        """Rows or columns of the decoder's output, which counts patches, for rows of latents."""
        patch = self.vae.config.patch_size or 1
        return int(latents * self.vae.spatial_compression_ratio // patch)

    def _join(self, rows: list[list[Tensor]], tile: TileSize) -> Tensor:
        """Blend the overlaps and cut every tile to its stride, as `vae.tiled_decode` does."""
        patch = self.vae.config.patch_size or 1
        stride_height, stride_width = tile.stride_height // patch, tile.stride_width // patch
        blend_height = tile.height // patch - stride_height
        blend_width = tile.width // patch - stride_width
        joined = []
        for i, row in enumerate(rows):
            for j, part in enumerate(row):  # blending works in place, on tiles that are ours
                if i > 0:
                    self.vae.blend_v(rows[i - 1][j], part, blend_height)
                if j > 0:
                    self.vae.blend_h(row[j - 1], part, blend_width)
            joined.append(
                torch.cat([part[..., :stride_height, :stride_width] for part in row], dim=-1)
            )
        return torch.cat(joined, dim=-2)


class SlicedDecoder:
    """Decodes the samples of a batch one after the other, to need less memory at a time.

    Args:
        one: makes the decoder of one sample; is called at the first chunk, when their number is
            known.
        vae: the VAE of these decoders.
    """

    def __init__(self, one: Callable[[], StreamingDecoder], vae: AutoencoderKLWan) -> None:
        self.vae = vae
        self._one = one
        self._decoders: list[StreamingDecoder] = []

    def state_dict(self) -> State:
        """What the decoders have to remember between two calls; see `tethercache.state`."""
        return {"sliced": [decoder.state_dict() for decoder in self._decoders]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another such decoder of this VAE was; forget what is here.

        Raises:
            ValueError: naming what differs; nothing has changed then.
        """
        if "sliced" not in state:
            raise ValueError("the state is of a decoder that takes all samples at once")
        decoders = [self._one() for _ in state["sliced"]]
        for decoder, saved in zip(decoders, state["sliced"], strict=True):
            decoder.load_state_dict(saved)
        self._decoders = decoders

    def decode(self, latents: Tensor) -> Tensor:
        """See `StreamingDecoder.decode`."""
        if not self._decoders:
            self._decoders = [self._one() for _ in latents]
        samples = latents.split(1)
        if len(samples) != len(self._decoders):
            raise ValueError(f"`latents` ({len(samples)}) must be {len(self._decoders)} samples")
        decoded = [d.decode(sample) for d, sample in zip(self._decoders, samples, strict=True)]
        return torch.cat(decoded)


def tiles_of(vae: AutoencoderKLWan) -> TileSize | None:
    """The tiles that a VAE was told to decode in, by `vae.enable_tiling`; None: it was not."""
    if not vae.use_tiling:
        return None
    size = (vae.tile_sample_min_height, vae.tile_sample_min_width)
    stride = (vae.tile_sample_stride_height, vae.tile_sample_stride_width)
    return TileSize(*map(int, (*size, *stride)))


def _convolutions(vae: AutoencoderKLWan) -> int:
    """The number of the decoder's causal convolutions."""
    return sum(isinstance(module, WanCausalConv3d) for module in vae.decoder.modules())


def fetch_weights(vae: AutoencoderKLWan) -> None:
    """Bring an offloaded VAE to its device, as calling it would; calls of its parts do not."""
    offloaded = getattr(vae, "_hf_hook", None)
    if offloaded is not None:
        offloaded.pre_forward(vae)


def channels_last(vae: AutoencoderKLWan) -> None:
    """Lay out the weights of a VAE's convolutions with the channels last, in place.

    The numbers stay the same. Convolutions of GPUs in 16 bits are faster so, and hand the layout on
    from one to the next; results differ by rounding.
    """
    layouts = {nn.Conv3d: torch.channels_last_3d, nn.Conv2d: torch.channels_last}
    for module in vae.modules():
        for kind, order in layouts.items():
            if isinstance(module, kind):
                module.weight.data = module.weight.data.contiguous(memory_format=order)


def to_uint8(frames: Tensor) -> Tensor:
    """Round decoded frames to 8 bits.

    Args:
        frames: colours in [-1, 1], `[B, 3, F, H, W]`.

    Returns:
        uint8 `[B, F, H, W, 3]`, contiguous, on the same device; -1 becomes 0 and 1 becomes 255.
    """
    levels = ((frames.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 4, 1).contiguous()
