"""What interrupted training goes on from: the newest checkpoint and the one before it, so that
there is a whole one at every moment.
"""

import os
from pathlib import Path

import torch

from wsss.io import atomic, mirror


def previous(path):
    """Where the checkpoint before ``path`` is kept."""
    path = Path(path)
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save(path, content):
    """Write a checkpoint; the one that is there becomes the previous one.

    Args:
        content: tensors and plain values; tensors by name under ``network``.

    Raises:
        FloatingPointError: a tensor of the network is not finite; nothing was written.
    """
    check_finite(content["network"])
    local = mirror.local_path(path)
    with atomic.write(path) as partial:
        torch.save(content, partial)
        if local.exists():
            os.replace(local, previous(local))


def newest(path, device):
    """The content of the newest whole checkpoint, or None where neither is.

    A damaged one is removed, or the next ``save`` would put it in the place of the whole one.
    """
    for candidate in map(mirror.download_file, (path, previous(path))):
        if atomic.is_whole(candidate):
            return torch.load(candidate, map_location=device, weights_only=True)
        candidate.unlink(missing_ok=True)
    return None


def check_finite(state):
    """FloatingPointError where a tensor of a state dict is not finite."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise FloatingPointError(f"the weights '{name}' are not finite")


def generators():
    """The states of torch's generators, of the processor and of the GPU where there is one."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_generators(states):
    """Have torch's generators go on from states that ``generators`` told."""
    torch.set_rng_state(states["cpu"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())
