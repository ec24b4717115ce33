"""Reading weights, torch's and other people's: nothing is unpickled beyond tensors, and the first
tensor that does not fit is named.
"""

import pickle
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch
from torch import nn

from wsss.errors import InputError, raise_if_out_of_files, reason
from wsss.io import atomic
from wsss.models.backbones.layers import Backbone, State
from wsss.models.mxnet_caffe import is_mxnet, read_caffe, read_mxnet

Weights = str | Path | tuple[State, str]  # see ``pretrained_state``
MOST_NUMBERS = 2**31  # in a file; the largest network here has 140 million
DESCRIBED = {"description", "state"}  # keys of a file with a description beside the tensors
ANSWER_SECONDS = 3  # that the server of torchvision's weights may take
SAME_ARCHITECTURE = "weights of the same architecture"


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


def check_classes(found: Sequence[str], wanted: Sequence[str] | None, *, source: object) -> None:
    """Refuse a network that was trained on other classes than those wanted, or in another order:
    its numbers would mean other classes. None wants any.
    """
    if wanted is not None and tuple(found) != tuple(wanted):
        names = [f"{name} ({', '.join(each)})" for name, each in (("it", found), ("data", wanted))]
        raise InputError(
            f"{source}: expected a network of the data's classes, in their order, but "
            f"{' and '.join(names)} differ; give a network trained on these classes"
        )


def load_described(path: Path | str) -> tuple[State, Any]:
    """``(tensors, description)`` of a state dict saved by torch, an MXNet ``.params`` or a
    ``.caffemodel``: tensors by the file's own names, and what ``save_state`` kept beside them, not
    checked, or None. Raises InputError for a file that is missing, unreadable, or holds anything
    but named tensors.
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
            state, description = torch.load(path, map_location="cpu", weights_only=True), None
    except InputError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        raise_if_out_of_files(error)
        # torch's own message explains how to execute such a pickle
        pickled = isinstance(error, pickle.UnpicklingError)
        why = "it holds other things" if pickled else reason(error)
        raise InputError(
            f"{path}: not a state dict of plain tensors ({why}); give another file"
        ) from None
    if isinstance(state, dict) and state.keys() >= DESCRIBED:
        state, description = state["state"], state["description"]
        if not atomic.is_whole(path):  # torch reads past wrong checksums
            raise InputError(
                f"{path}: damaged since it was written; run its stage again with --force"
            )
    if fault := _fault(state):
        raise InputError(f"{path}: {fault}; give another file")
    return state, description


def _fault(state) -> str | None:
    """Why this is not a dict of names to plain tensors, or None."""
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        return f"expected a dict of name to tensor, found {type(state).__name__}"
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            return f"'{name}' is not a plain tensor"
    if sum(tensor.numel() for tensor in state.values()) > MOST_NUMBERS:  # a few bytes can say so
        return f"expected at most {MOST_NUMBERS:,} numbers but it holds more"
    return None


def pretrained_state(backbone: type[Backbone], weights: Weights) -> tuple[State, str | Path]:
    """A backbone's ImageNet tensors by the file's own names, and the file's name for messages.
    ``weights`` is a file, ``download`` for torchvision's own, or such a pair.
    """
    expect_weights(backbone, weights)
    if isinstance(weights, tuple):
        return weights
    if weights != "download":
        return load_state(weights), weights
    from torchvision.models import get_weight  # slow to import

    offered = get_weight(backbone.offered)
    return offered.get_state_dict(progress=True, check_hash=True), offered.url


def expect_weights(backbone: type[Backbone], weights: Weights) -> None:
    """Refuse ImageNet weights that a backbone cannot have: a path without a file, or a download
    that is neither in torch's cache nor within reach.
    """
    if not backbone.origin:
        raise InputError(f"{backbone.__name__} has no ImageNet weights; leave weights empty")
    if isinstance(weights, tuple):
        return
    if weights != "download":
        return expect_file(weights)
    if not backbone.offered:
        raise InputError(
            f"weights 'download': torchvision has none that fit; give a file: {backbone.origin}"
        )
    from torchvision.models import get_weight

    url = get_weight(backbone.offered).url
    kept = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    if not kept.exists() and (fault := _fault_of(url)):
        raise InputError(
            f"weights 'download': {url} cannot be reached ({fault}); put that file at {kept}, or "
            "give it as common.weights=FILE"
        )


def _fault_of(url):
    """Why a server does not offer a file; empty if it does."""
    faults = [f"no answer in {ANSWER_SECONDS} s"]

    def ask():
        try:
            urlopen(Request(url, method="HEAD"), timeout=ANSWER_SECONDS).close()
            faults.append("")
        except Exception as error:  # whatever a proxy answers
            faults.append(str(getattr(error, "reason", error)))

    thread = threading.Thread(target=ask, daemon=True)  # no timeout ends the look-up of a name
    thread.start()
    thread.join(ANSWER_SECONDS)
    return faults[-1]


def load_into(
    module: nn.Module, path: Path | str, *, prefix: str = "", classes: Sequence[str] | None = None
) -> None:
    """Load one of our own weight files, or its part under a prefix such as ``backbone.``; with
    ``classes``, InputError if the file is of a network of others.
    """
    state, description = load_described(path)
    if isinstance(description, dict) and "classes" in description:
        check_classes(description["classes"], classes, source=path)
    part = {key.removeprefix(prefix): each for key, each in state.items() if key.startswith(prefix)}
    fit_state(module, part, source=path)


def save_state(
    module: nn.Module | State, path: Path | str, *, description: dict | None = None
) -> None:
    """Write a module's state dict, or named tensors, atomically, with an optional description of
    plain values and lists.
    """
    state = module if isinstance(module, dict) else module.state_dict()
    with atomic.write(Path(path)) as partial:
        torch.save({"description": description, "state": state} if description else state, partial)


def fit_state(
    module: nn.Module, state: State, *, source: Path | str, hint: str = SAME_ARCHITECTURE
) -> None:
    """Load named tensors strictly; the error names the first that does not fit, the file
    ``source``, and as ``hint`` what to give in its place. Batch norms' counters of batches may be
    missing, as in other frameworks' files: nothing reads them.
    """
    module.load_state_dict(fitting(module, state, source=source, hint=hint))


def fitting(
    module: nn.Module, state: State, *, source: Path | str, hint: str = SAME_ARCHITECTURE
) -> State:
    """The tensors that ``fit_state`` would load, with the same errors."""
    wanted = module.state_dict()
    given = {k: v for k, v in wanted.items() if k.endswith(".num_batches_tracked")} | state
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
