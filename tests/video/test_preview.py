from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.states import written_and_read
from tests.video.test_decode import latents, toy_vae
from tethercache.video import PreviewDecoder, StreamingDecoder
from tethercache.video.preview import fit_colours


def test_the_first_chunk_is_decoded_and_later_ones_have_one_colour_a_cell() -> None:
    vae = toy_vae("wan2.1")
    preview, decoder = PreviewDecoder(StreamingDecoder(vae)), StreamingDecoder(vae)
    first, later = latents(2, seed=1), latents(3, seed=2)
    assert torch.equal(preview.decode(first), decoder.decode(first))
    guess, real = preview.decode(later), decoder.decode(later)
    assert guess.shape == real.shape
    assert guess.abs().max() <= 1
    cells = F.avg_pool3d(guess, (4, 4, 4))
    for axis in (2, 3, 4):
        cells = cells.repeat_interleave(4, dim=axis)
    torch.testing.assert_close(cells, guess)


def test_colours_that_are_linear_in_the_latents_are_found() -> None:
    z = latents(3, seed=3)
    mixing = torch.randn(4, 3, generator=torch.Generator().manual_seed(4)) / 10
    colours = torch.einsum("bcfhw,cd->bdfhw", z, mixing) + 0.25
    found = fit_colours(z, colours)
    torch.testing.assert_close(found[:-1], mixing, atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(found[-1], torch.full((3,), 0.25), atol=2e-3, rtol=0)


def test_fewer_cells_than_channels_still_give_finite_colours() -> None:
    z = latents(1, height=1, width=2)
    assert fit_colours(z, torch.rand(1, 3, 1, 1, 2)).isfinite().all()


def test_another_preview_goes_on_from_a_state() -> None:
    vae = toy_vae("wan2.1")
    one, other = PreviewDecoder(StreamingDecoder(vae)), PreviewDecoder(StreamingDecoder(vae))
    other.decode(latents(2, seed=4))  # forgotten
    for seed in (1, 2, 3):
        other.load_state_dict(written_and_read(one.state_dict()))
        assert torch.equal(other.decode(latents(2, seed=seed)), one.decode(latents(2, seed=seed)))
    with pytest.raises(ValueError, match="no state of a preview"):
        other.load_state_dict({})
