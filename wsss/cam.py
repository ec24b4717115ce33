"""Class activation maps (paper, section 3.1; equations 1 and 2)."""

import torch
import torch.nn.functional as F

from wsss.geometry import upsample
from wsss.runtime.devices import as_batch, autocast

STRIDE = 4  # pixels a cell of the maps that are kept


def normalise(maps):
    """Keep the positive part and divide each map by its maximum, so that it spans [0, 1] (equation
    1).

    Args:
        maps: float (C, H, W). A map with nothing positive stays zero.
    """
    maps = maps.clamp(min=0)
    peak = maps.amax(dim=(-2, -1), keepdim=True)
    return maps / torch.where(peak > 0, peak, torch.ones_like(peak))


def background_score(cams, alpha):
    """Equation 2: ``(1 - max_c M_c)^alpha`` of normalised maps (C, H, W); shape (H, W), in [0, 1].

    A larger alpha weakens the background. Works on torch tensors and numpy arrays.
    """
    peak = cams.amax(0) if isinstance(cams, torch.Tensor) else cams.max(0)
    return (1 - peak) ** alpha


@torch.inference_mode()
def multi_scale_cam(network, image, classes, *, scales=(1.0, 0.5, 1.5, 2.0), flip=True, power=1.0):
    """Normalised maps of the present classes, summed over scales and mirror images.

    Args:
        network: a CAM network in evaluation mode.
        image: uint8 RGB (H, W, 3).
        classes: numbers of the present classes, from 1.
        scales: factors of the photo's size.
        flip: also add the maps of the mirrored photo, mirrored back.
        power: that each map is raised to before it is added; the released VGG16 takes the root.

    Returns:
        float32 (len(classes), ceil(H / 4), ceil(W / 4)) in [0, 1], each map's maximum 1.
    """
    device = next(network.parameters()).device
    pixels = as_batch(image, device)
    height, width = pixels.shape[-2:]
    channels = torch.tensor([int(number) - 1 for number in classes], device=device).long()
    total = 0
    for scale in scales:
        scaled = pixels
        if scale != 1:
            target = (max(1, round(height * scale)), max(1, round(width * scale)))
            scaled = F.interpolate(
                pixels,
                target,
                mode="bilinear",
                align_corners=False,
                antialias=scale < 1,
            )
        if flip:
            scaled = torch.cat([scaled, scaled.flip(-1)])
        with autocast(device):
            maps = network.maps(scaled.contiguous(memory_format=torch.channels_last))
        maps = upsample(maps[:, channels].float().clamp(min=0) ** power, scaled.shape[-2:])
        maps = maps[:1] + maps[1:].flip(-1) if flip else maps
        if scale != 1:
            maps = F.interpolate(
                maps, (height, width), mode="bilinear", align_corners=False, antialias=scale > 1
            )
        total = total + maps[0, :, ::STRIDE, ::STRIDE]
    return normalise(total)
