"""Where a cell of a map lies in the photo: cell i of a map at stride s is at pixel s * i.

The trunks pad their strided convolutions alike on both sides, so each cell looks at the pixels
around ``s * i``, not at the middle of a tile of s pixels. Resampling maps as if they were tiles, as
``interpolate(align_corners=False)`` does, shifts them by half a cell: 8 pixels at stride 16, and
nothing in a classifier's training would make up for it.
"""

import math

import torch
import torch.nn.functional as F


def upsample(maps, size, *, stride=None):
    """Bilinear interpolation of maps onto a finer grid, each cell staying at its place.

    Args:
        maps: float (C, h, w) or (B, C, h, w); torch or numpy.
        size: (H, W) of the finer grid, of which h = ceil(H / s) and w = ceil(W / s) for a power of
            two s: pixels, or the cells of a map with a smaller stride. Beyond the last cell its
            value is repeated.
        stride: that s, where it is known; a network that is exported for photos of any size has no
            sizes to find it by.

    Returns:
        torch tensor (..., H, W) of the same dtype.
    """
    maps = torch.as_tensor(maps)
    batch = maps[None] if maps.ndim == 3 else maps
    spans = [
        (stride or _stride(fine, coarse)) * (coarse - 1) + 1
        for fine, coarse in zip(size, batch.shape[-2:], strict=True)
    ]
    finer = stride != 1 if stride else spans != list(batch.shape[-2:])
    if finer:
        batch = F.interpolate(batch, spans, mode="bilinear", align_corners=True)
    batch = F.pad(batch, (0, size[1] - spans[1], 0, size[0] - spans[0]), mode="replicate")
    return batch[0] if maps.ndim == 3 else batch


def on_grid(level, size, *, stride, onto):
    """Bring a trunk's level to a grid of ``size`` cells: a finer one is thinned out, a coarser one
    interpolated, each cell staying at its place.

    Args:
        level: float (B, C, h, w).
        size: (H, W) of the grid.
        stride, onto: pixels a cell of the level and of the grid, both powers of two.

    Returns:
        (B, C, H, W).
    """
    step = max(1, onto // stride)
    return upsample(level[..., ::step, ::step], size, stride=max(1, stride // onto))


def _stride(fine, coarse):
    """The power of two with ``coarse = ceil(fine / stride)``; where there is one cell, any does."""
    stride = 2 ** math.ceil(math.log2(fine / coarse)) if fine > coarse else 1
    if -(-fine // stride) != coarse:
        raise ValueError(f"{coarse} cells do not tile {fine} at any power of two")
    return stride
