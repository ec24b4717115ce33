"""Where networks run, and in which precision."""

import numpy as np
import torch


def pick_device():
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device):
    """bfloat16 autocast where the device computes in it natively; elsewhere it is ten times
    slower, so float32.
    """
    native = (
        device.type == "cuda"
        or torch.cpu._is_avx512_bf16_supported()
        or torch.cpu._is_amx_tile_supported()
    )
    return torch.autocast(device.type, torch.bfloat16, enabled=native)


def as_batch(image, device):
    """A photo, uint8 RGB (H, W, 3), as float (1, 3, H, W) in [0, 1] on a device."""
    pixels = torch.tensor(np.ascontiguousarray(image))  # a copy: photos may be read-only
    return pixels.to(device).permute(2, 0, 1)[None].float() / 255
