"""Where a cell of a map lies in the photo: cell i of a map at stride s lies on pixel s * i.

The backbones pad their strided convolutions by the same amount on both sides, so each cell sees the
pixels around ``s * i``, not those around the middle of a tile of s pixels. Resampling maps as
tiles, as ``interpolate(align_corners=False)`` does, shifts them by half a cell: 8 pixels at stride
16. Training a classifier does not compensate for the shift.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F


def upsample(
    maps: np.ndarray | torch.Tensor, size: Sequence[int], *, stride: int | None = None
) -> torch.Tensor:
    """Bilinear interpolation of maps onto a finer grid, a tensor (..., H, W) of the same dtype;
    each cell keeps its place, and beyond the last its value is repeated. Raises ValueError if the
    sizes fit no power of two.

    Args:
        maps: float (C, h, w) or (B, C, h, w); torch or numpy.
        size: (H, W) of the finer grid, with h = ceil(H / s) and w = ceil(W / s) for a power of two
            s: pixels, or the cells of a map with a smaller stride.
        stride: that s; None finds it from the sizes, which an exported network cannot.
    """
    maps = torch.as_tensor(maps)
    batch = maps[None] if maps.ndim == 3 else maps
    spans = [
        (stride or _stride(length, cells)) * (cells - 1) + 1
        for length, cells in zip(size, batch.shape[-2:], strict=True)
    ]
    finer = stride != 1 if stride else spans != list(batch.shape[-2:])
    if finer:
        batch = F.interpolate(batch, spans, mode="bilinear", align_corners=True)
    batch = F.pad(batch, [0, size[1] - spans[1], 0, size[0] - spans[0]], mode="replicate")
    return batch[0] if maps.ndim == 3 else batch


def rescale(images: torch.Tensor, scale: float) -> torch.Tensor:
    """Resize images (B, C, H, W) by a factor, bilinear; antialiased where they shrink. Sides are
    rounded, to at least 1.
    """
    if scale == 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=scale < 1)


def on_grid(level: torch.Tensor, size: Sequence[int], *, stride: int, onto: int) -> torch.Tensor:
    """Resample a backbone's level, float (B, C, h, w), to a grid of (H, W) cells, each of which
    keeps its place: subsample a finer level, interpolate a coarser one. ``stride`` and ``onto``,
    both powers of two, are pixels per cell of the level and of the grid.
    """
    step = max(1, onto // stride)
    return upsample(level[..., ::step, ::step], size, stride=max(1, stride // onto))


def _stride(length, cells):
    """The power of two with ``cells = ceil(length / stride)``; for one cell, any of them."""
    stride = 2 ** math.ceil(math.log2(length / cells)) if length > cells else 1
    if -(-length // stride) != cells:
        raise ValueError(f"{cells} cells do not tile {length} at any power of two")
    return stride
