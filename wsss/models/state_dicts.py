"""Reading weights, torch's and other people's: nothing is unpickled beyond tensors, and the first
tensor that does not fit is named.
"""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.hub import load_state_dict_from_url

from wsss.errors import InputError, reason
from wsss.io import atomic
from wsss.models.backbones.layers import Backbone, State
from wsss.models.mxnet_caffe import is_mxnet, read_caffe, read_mxnet

Weights = str | Path | tuple[State, str]  # see ``pretrained_state``
MOST_NUMBERS = 2**31  # in a file; the largest network here has 140 million
DESCRIBED = {"description", "state"}  # keys of a file with a description beside the tensors
RENAMED = {  # parts of tensors' names in earlier versions
    "trunk": "backbone",
    "evidence": "cam_head",
    "presence": "image_level_head",
    "gate": "presence_weight",
    "squeeze": "project",
    "around": "atrous",
    "whole": "image_pool",
}


def expect_file(path: Path | str) -> None:
    """Refuse a path without a file by an ``InputError``."""
    if not Path(path).is_file():
        raise InputError(
            f"{path}: no such weight file; give the path of a state dict saved by torch.save, an "
            "MXNet .params or a .caffemodel"
        )


def load_state(path: Path | str) -> State:
    """The named tensors in a file, as ``load_described`` finds them."""
    return load_described(path)[0]


def load_described(path: Path | str) -> tuple[State, Any]:
    """``(tensors, description)`` of a file.

    The tensors are a state dict saved by torch, an MXNet ``.params`` or a ``.caffemodel``, by the
    file's own names (those of our earlier versions are renamed). The description is the one
    that ``save_state`` kept beside them, not checked, or None.

    Raises:
        InputError: missing, unreadable, or holding anything but named tensors.
    """
    path = Path(path)
    if path.suffix == ".caffemodel":
        return read_caffe(path), None
    expect_file(path)
    try:
        if is_mxnet(path):
            return read_mxnet(path), None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about forms that are refused below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        # torch's own message explains how to execute such a pickle
        pickled = isinstance(error, pickle.UnpicklingError)
        raise InputError(
            f"{path}: not a state dict of plain tensors "
            f"({'it holds other things' if pickled else reason(error)}); give another file"
        ) from None
    description = None
    if isinstance(state, dict) and state.keys() >= DESCRIBED:
        state, description = state["state"], state["description"]
        if not atomic.is_whole(path):  # torch reads past wrong checksums
            raise InputError(
                f"{path}: damaged since it was written; run its stage again with --force"
            )
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise InputError(
            f"{path}: expected a dict of name to tensor, found {type(state).__name__}; give "
            "another file"
        )
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise InputError(f"{path}: '{name}' is not a plain tensor; give another file")
    if sum(tensor.numel() for tensor in state.values()) > MOST_NUMBERS:  # a few bytes can say so
        raise InputError(
            f"{path}: expected at most {MOST_NUMBERS:,} numbers but it holds more; give another "
            "file"
        )
    return {_renamed(name): tensor for name, tensor in state.items()}, description


def _renamed(name: str) -> str:
    return ".".join(RENAMED.get(part, part) for part in name.split("."))


def pretrained_state(
    backbone: Backbone | type[Backbone], weights: Weights
) -> tuple[State, str | Path]:
    """A backbone's ImageNet tensors by the file's own names, and the file's name for messages.

    Args:
        weights: a file, ``download`` for torchvision's own, or (tensors by name, their source).
    """
    if isinstance(weights, tuple):
        return weights
    if weights != "download":
        return load_state(weights), weights
    if not backbone.offered:
        raise InputError(
            f"weights 'download': torchvision has none that fit; give a file: {backbone.origin}"
        )
    from torchvision.models import get_weight  # slow to import

    url = get_weight(backbone.offered).url
    return load_state_dict_from_url(url, progress=True, check_hash=True), url


def fit_backbone(backbone: Backbone, weights: Weights) -> str:
    """Load ImageNet weights into a backbone whose batch norms are not frozen yet, strictly.

    Returns:
        one line: how many tensors were taken, and which were left out and why.
    """
    given, source = pretrained_state(backbone, weights)
    state, skipped = backbone.adapt(given)
    fit_state(backbone.body, state, source=source, hint=backbone.origin)
    reasons = ", ".join(f"{name} ({reason})" for name, reason in skipped.items())
    return f"{source}: took {len(state)} tensors, left out {reasons or 'none'}"


def save_state(
    module: nn.Module | State, path: Path | str, *, description: dict | None = None
) -> None:
    """Write a module's state dict, or named tensors, atomically, with an optional description of
    plain values and lists beside them.
    """
    state = module if isinstance(module, dict) else module.state_dict()
    with atomic.write(Path(path)) as partial:
        torch.save({"description": description, "state": state} if description else state, partial)


def fit_state(
    module: nn.Module,
    state: State,
    *,
    source: Path | str,
    hint: str = "weights of the same architecture",
) -> None:
    """Load named tensors strictly; the error names the first that does not fit.

    Args:
        state: batch norms' counters of batches may be absent, as in other frameworks' files:
            nothing reads them.
        source: the file's name, for messages.
        hint: names a file that fits, for messages.
    """
    module.load_state_dict(fitting(module, state, source=source, hint=hint))


def fitting(module: nn.Module, state: State, *, source: Path | str, hint: str) -> State:
    """The tensors that ``fit_state`` would load, with the same errors."""
    wanted = module.state_dict()
    counters = {k: v for k, v in wanted.items() if k.endswith(".num_batches_tracked")}
    given = counters | state
    faults = [f"has no '{name}'" for name in wanted if name not in given]
    faults += [f"has '{name}', which the network does not" for name in given if name not in wanted]
    faults += [
        f"has '{name}' of shape {tuple(given[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    faults = faults or [
        f"has '{name}' of numbers that are not finite, or not real"
        for name, tensor in given.items()
        if wanted[name].is_floating_point()
        and (tensor.is_complex() or not torch.isfinite(tensor).all())
    ]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InputError(f"{source}: {faults[0]}{more}; give {hint}")
    return given
