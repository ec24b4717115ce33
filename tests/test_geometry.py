"""Cells of a map and pixels of a photo: what resampling makes of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from wsss.geometry import on_grid, rescale, upsample


def resized(maps, size):
    """Maps (C, H, W) at another size (H, W) by Pillow, bilinear and antialiased where they shrink;
    the maps themselves where they have it.
    """
    height, width = size
    return torch.stack(
        [
            torch.tensor(
                np.array(Image.fromarray(m).resize((width, height), Image.Resampling.BILINEAR))
            )
            for m in maps.numpy()
        ]
    )


@pytest.mark.parametrize("size", [(33, 49), (37, 40), (48, 33), (17, 5)])
@pytest.mark.parametrize("stride", [1, 4, 16])
def test_every_cell_keeps_its_value_at_its_pixel(size, stride):
    cells = [-(-side // stride) for side in size]
    maps = torch.randn(2, *cells, generator=torch.Generator().manual_seed(0))
    fine = upsample(maps, size)
    assert fine.shape == (2, *size)
    torch.testing.assert_close(fine[:, ::stride, ::stride], maps, rtol=1e-4, atol=1e-5)
    for y in range(size[0]):
        for x in range(size[1]):
            rows, columns = np.arange(cells[0]) * stride, np.arange(cells[1]) * stride
            along = [np.interp(x, columns, row) for row in maps[0].numpy()]
            assert float(fine[0, y, x]) == pytest.approx(np.interp(y, rows, along), abs=1e-4)


def test_a_batch_and_numpy_maps():
    maps = np.random.default_rng(0).random((3, 2, 4, 5), dtype=np.float32)
    fine = upsample(maps, (13, 20))
    assert fine.shape == (3, 2, 13, 20) and fine.dtype == torch.float32
    torch.testing.assert_close(fine[1], upsample(maps[1], (13, 20)))


def test_maps_of_another_photo_are_refused():
    with pytest.raises(ValueError, match="5 cells do not tile 24"):
        upsample(torch.zeros(1, 5, 5), (24, 24))


@pytest.mark.parametrize(("cells", "length"), [((3, 9), 3), ((9, 3), 3), ((5, 1), 7)])
def test_more_cells_than_pixels_or_too_few_are_refused(cells, length):
    with pytest.raises(ValueError, match="cells do not tile"):
        upsample(torch.zeros(1, *cells), (length, 3))


def test_a_stride_of_1_changes_nothing_and_one_cell_fits_any():
    maps = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(upsample(maps, (3, 4), stride=1), maps)
    assert torch.equal(upsample(maps, (3, 4)), maps)
    one = torch.rand(1, 1, 1)
    assert torch.equal(upsample(one, (5, 6), stride=8), one.expand(1, 5, 6))
    assert torch.equal(upsample(one, (5, 6)), one.expand(1, 5, 6))


@pytest.mark.parametrize("scale", [0.3, 0.5, 1, 1.5, 2.0])
def test_a_rescaled_photo_is_pillow_s(scale):
    images = torch.rand(2, 3, 14, 9, generator=torch.Generator().manual_seed(0))
    sizes = {0.3: (4, 3), 0.5: (7, 4), 1: (14, 9), 1.5: (21, 14), 2.0: (28, 18)}
    found = rescale(images, scale)
    assert found.shape == (2, 3, *sizes[scale])
    for image, expected in zip(found, images, strict=True):
        torch.testing.assert_close(image, resized(expected, sizes[scale]), rtol=1e-4, atol=1e-5)


def test_no_side_of_a_rescaled_photo_vanishes():
    assert rescale(torch.rand(1, 3, 2, 9), 0.2).shape == (1, 3, 1, 2)


@pytest.mark.parametrize("stride", [2, 4, 8, 16, 32])
def test_levels_of_every_stride_meet_at_the_same_pixels(stride):
    """A level whose cells hold their pixel's column must do so on the grid as well."""
    columns = torch.arange(0, 97, stride).float()  # the last cell of every stride is on pixel 96
    level = columns.expand(1, 1, -(-65 // stride), -1)
    joined = on_grid(level, [9, 13], stride=stride, onto=8)
    torch.testing.assert_close(joined, torch.arange(0, 97, 8).float().expand(1, 1, 9, 13))
