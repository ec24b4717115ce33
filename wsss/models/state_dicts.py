"""Reading weights, torch's and other people's: nothing is unpickled beyond tensors, and a file that
does not fit is refused by name.
"""

import pickle
import warnings
from pathlib import Path

import torch
from torch.hub import load_state_dict_from_url

from wsss.errors import InputError, reason
from wsss.io import atomic
from wsss.io.atomic import is_whole
from wsss.models.mxnet_caffe import is_mxnet, read_caffe, read_mxnet

MOST_NUMBERS = 2**31  # in a file; the largest network here has 140 million
DESCRIBED = {"description", "state"}  # keys of a file that says what its tensors are of
RENAMED = {  # parts of tensors' names: of earlier versions, and of today
    "trunk": "backbone",
    "evidence": "cam_head",
    "presence": "image_level_head",
    "gate": "presence_weight",
    "squeeze": "project",
    "around": "atrous",
    "whole": "image_pool",
}


def load_state(path):
    """The named tensors in a file, as ``load_described`` finds them."""
    return load_described(path)[0]


def expect_file(path):
    """Refuse a path where there is no file.

    Raises:
        InputError: there is none.
    """
    if not Path(path).is_file():
        raise InputError(
            f"{path}: no such weight file; give the path of a state dict saved by torch.save, an "
            "MXNet .params or a .caffemodel"
        )


def load_described(path):
    """``(tensors, description)`` of a file: a state dict saved by torch, an MXNet ``.params`` or a
    ``.caffemodel``, under the file's own names (those of our earlier versions are renamed); and
    what ``save_state`` kept beside them, or None.

    Raises:
        InputError: missing, unreadable, or holding anything else than named tensors.
    """
    path = Path(path)
    if path.suffix == ".caffemodel":
        return read_caffe(path), None
    expect_file(path)
    try:
        if is_mxnet(path):
            return read_mxnet(path), None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forms that are refused below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        # of a pickle of other things torch says how to run it
        why = (
            "it holds other things" if isinstance(error, pickle.UnpicklingError) else reason(error)
        )
        raise InputError(
            f"{path}: not a state dict of plain tensors ({why}); give another file"
        ) from None
    description = None
    if isinstance(state, dict) and state.keys() >= DESCRIBED:
        state, description = state["state"], state["description"]
        if not is_whole(path):  # torch reads past wrong checksums
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
            raise InputError(f"{path}: '{name}' is no plain tensor of numbers; give another file")
    if sum(tensor.numel() for tensor in state.values()) > MOST_NUMBERS:  # a few bytes can say so
        raise InputError(
            f"{path}: expected at most {MOST_NUMBERS:,} numbers but it holds more; give another "
            "file"
        )
    state = {
        ".".join(RENAMED.get(part, part) for part in name.split(".")): tensor
        for name, tensor in state.items()
    }
    return state, description


def pretrained_state(backbone, weights):
    """The ImageNet tensors that ``weights`` means for a backbone, by the file's own names, and the
    file's name for messages.

    Args:
        backbone: of ``backbones``, or its class.
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


def fit_backbone(backbone, weights):
    """Load ImageNet weights into a backbone, strictly.

    Args:
        backbone: of ``backbones``, with its batch norms not frozen yet.
        weights: as for ``pretrained_state``.

    Returns:
        one line that says how many tensors were taken, and which were left out and why.
    """
    given, source = pretrained_state(backbone, weights)
    state, skipped = backbone.adapt(given)
    fit_state(backbone.body, state, source, hint=backbone.origin)
    reasons = ", ".join(f"{name} ({reason})" for name, reason in skipped.items())
    return f"{source}: took {len(state)} tensors, left out {reasons or 'none'}"


def save_state(module, path, *, description=None):
    """Write a module's state dict, or a dict of name to tensor, so that a reader sees all of it or
    none.

    Args:
        description: a dict of plain values and lists kept beside the tensors; None keeps the
            tensors alone.
    """
    state = module if isinstance(module, dict) else module.state_dict()
    with atomic.write(path) as partial:
        torch.save({"description": description, "state": state} if description else state, partial)


def fit_state(module, state, source, *, hint="weights of the same architecture"):
    """Load named tensors strictly, naming the first that does not fit.

    Args:
        module: what the tensors are for.
        state: dict of name to tensor. Batch norms' counters of batches may be absent, as they are
            from files of other frameworks: nothing here reads them.
        source: the file's name, for messages.
        hint: which file would have fitted, for messages.
    """
    module.load_state_dict(fitting(module, state, source, hint=hint))


def fitting(module, state, source, *, hint):
    """The tensors that ``fit_state`` would load, refused where they do not fit."""
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
        if wanted[name].is_floating_point() and not _is_finite(tensor)
    ]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InputError(f"{source}: {faults[0]}{more}; give {hint}")
    return given


def _is_finite(tensor):
    return not tensor.is_complex() and bool(torch.isfinite(tensor).all())
