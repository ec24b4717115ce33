"""Class activation maps (paper, section 3.1; equations 1 and 2)."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from wsss.geometry import rescale, upsample
from wsss.runtime.devices import as_batch, autocast

STRIDE = 4  # pixels per cell of the maps that are kept

Maps = TypeVar("Maps", np.ndarray, torch.Tensor)


def normalise(maps: torch.Tensor) -> torch.Tensor:
    """Set negative values of maps, float (C, H, W), to 0 and divide each map by its maximum, if
    that is positive: the same shape, in [0, 1] (equation 1).
    """
    maps = maps.clamp(min=0)
    peak = maps.amax(dim=(-2, -1), keepdim=True)
    return maps / peak.where(peak > 0, 1)


def background_score(cams: Maps, alpha: float) -> Maps:
    """Equation 2: ``(1 - max_c M_c)^alpha`` of normalised maps (C, H, W); shape (H, W), in [0, 1].
    A larger alpha weakens the background.
    """
    if isinstance(cams, torch.Tensor):
        return (1 - cams.amax(0)) ** alpha
    return (1 - cams.max(0)) ** alpha


def multi_scale(
    predict: Callable[[torch.Tensor], torch.Tensor],
    pixels: torch.Tensor,
    *,
    scales: Sequence[float],
    flip: bool,
) -> Iterator[torch.Tensor]:
    """Predict a photo at several scales; yields each prediction, resampled to its size (C, H, W).

    Args:
        predict: maps float (B, 3, h, w) in [0, 1], channels last, to float (B, C, h, w).
        pixels: float (1, 3, H, W) in [0, 1].
        scales: factors of the photo's size.
        flip: also predict the mirrored photo; its prediction is mirrored back and added.
    """
    size = pixels.shape[-2:]
    for scale in scales:
        scaled = rescale(pixels, scale)
        if flip:
            scaled = torch.cat([scaled, scaled.flip(-1)])
        maps = predict(scaled.contiguous(memory_format=torch.channels_last))
        maps = maps[:1] + maps[1:].flip(-1) if flip else maps
        if scale != 1:
            maps = F.interpolate(
                maps, size, mode="bilinear", align_corners=False, antialias=scale > 1
            )
        yield maps[0]


@torch.inference_mode()
def multi_scale_cam(
    network: nn.Module,
    image: np.ndarray,
    classes: Sequence[int],
    *,
    scales: Sequence[float] = (1.0, 0.5, 1.5, 2.0),
    flip: bool = True,
    cam_power: float = 1.0,
) -> torch.Tensor:
    """Normalised maps of the present classes, summed over scales and mirror images (equation 1):
    float32 (len(classes), ceil(H / 4), ceil(W / 4)) in [0, 1], the maximum of each map 1.

    Args:
        network: a CAM network in evaluation mode.
        image: uint8 RGB (H, W, 3).
        classes: numbers of the present classes, from 1.
        scales, flip: see ``multi_scale``.
        cam_power: exponent of each map before the sum; the released VGG16 takes the square root.
    """
    device = next(network.parameters()).device
    channels = torch.tensor([int(number) - 1 for number in classes], device=device).long()

    def predict(images):
        with autocast(device):
            maps = network.maps(images)  # type: ignore[operator] - of a CamNetwork
        return upsample(maps[:, channels].float().clamp(min=0) ** cam_power, images.shape[-2:])

    scaled = multi_scale(predict, as_batch(image, device), scales=scales, flip=flip)
    return normalise(sum((maps[:, ::STRIDE, ::STRIDE] for maps in scaled), torch.zeros(())))
