"""Checkpoints to resume from: the newest and the one before it, so that one is always whole."""

import os
from pathlib import Path
from typing import Any

import torch

from wsss.errors import InputError
from wsss.io import atomic, mirror


def previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values; the checkpoint at ``path`` becomes the previous one. Raises
    FloatingPointError, before it writes, if a weight in ``content["network"]`` is not finite.
    """
    check_finite(content["network"])
    local = mirror.local_path(path)
    with atomic.write(path) as partial:
        torch.save(content, partial)
        if local.exists():
            os.replace(local, previous(local))


def newest(path: Path, device: torch.device | str) -> dict[str, Any] | None:
    """The content of the newest whole checkpoint, or None."""
    for candidate in map(mirror.download_file, (path, previous(path))):
        if atomic.is_whole(candidate):
            return torch.load(candidate, map_location=device, weights_only=True)
        candidate.unlink(missing_ok=True)  # or the next save would replace a whole one by it
    return None


def check_processes(content: dict[str, Any], path: Path, *, expected: int) -> None:
    """Raise InputError unless a checkpoint is of the expected number of training processes."""
    found = len(content["generators"])
    if found != expected:
        raise InputError(
            f"{path}: expected a checkpoint of {expected} training processes, got one of {found}; "
            f"set train_processes to {found}, or delete it to start again"
        )


def check_finite(state: dict[str, torch.Tensor]) -> None:
    """Raise FloatingPointError if a tensor of a state dict is not finite."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise FloatingPointError(f"the weights '{name}' are not finite")


def generators() -> dict[str, torch.Tensor]:
    """The states of torch's random generators: ``cpu``, and ``cuda`` if there is a GPU."""
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"cpu": torch.get_rng_state()} | cuda


def set_generators(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())
