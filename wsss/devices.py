"""Where networks run, and in which precision."""

import numpy as np
import torch


def pick_device():
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device, *, training=False):
    """bfloat16 autocast where it pays: on a GPU, and for inference on a processor that computes in
    it.

    Processors without such units are ten times slower in bfloat16. With them, training was no
    faster than in float32 and learnt less: the built-in dataset's classifier ended at a loss of
    0.41 instead of 0.26.
    """
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    enabled = device.type == "cuda" or (native and not training)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def as_batch(image, device):
    """A photo, uint8 RGB (H, W, 3), as float (1, 3, H, W) in [0, 1] on a device."""
    pixels = torch.tensor(np.ascontiguousarray(image))  # a copy: photos may be read-only
    return pixels.to(device).permute(2, 0, 1)[None].float() / 255
