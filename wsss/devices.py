"""Where networks run, and in which precision."""

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
