"""Reading weights: nothing is unpickled beyond tensors, and a file that does not fit is refused by
name.
"""

import os
from pathlib import Path

import torch
from torch.hub import load_state_dict_from_url

from wsss.errors import InputError


def load_state(path):
    """The state dict in a file: a dict of name to tensor.

    Raises:
        InputError: missing, unreadable, or holding anything else than named tensors.
    """
    path = Path(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such weight file; give the path of a state dict saved by torch.save"
        ) from None
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: not a state dict of plain tensors ({reason}); give another file"
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise InputError(
            f"{path}: expected a dict of name to tensor, found {type(state).__name__}; give "
            "another file"
        )
    return state


def pretrained_state(trunk, weights):
    """The ImageNet state dict that ``weights`` means for a trunk, and its name for messages.

    Args:
        trunk: of ``backbones``, or its class.
        weights: a file, or ``download`` for torchvision's own.
    """
    if weights != "download":
        return load_state(weights), weights
    url = trunk.pretrained.url
    return load_state_dict_from_url(url, progress=True, check_hash=True), url


def save_state(module, path):
    """Write a module's state dict so that a reader sees all of it or none."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    torch.save(module.state_dict(), partial)
    os.replace(partial, path)


def fit_state(module, state, source, *, ignore=()):
    """Load a state dict strictly, naming the first tensor that does not fit.

    Args:
        module: what the tensors are for.
        state: dict of name to tensor.
        source: the file's name, for messages.
        ignore: beginnings of names in ``state`` that the module has no use for (a classifier, say).
    """
    wanted = module.state_dict()
    given = {name: tensor for name, tensor in state.items() if not name.startswith(tuple(ignore))}
    faults = [f"has no '{name}'" for name in wanted if name not in given]
    faults += [f"has '{name}', which the network does not" for name in given if name not in wanted]
    faults += [
        f"has '{name}' of shape {tuple(given[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InputError(f"{source}: {faults[0]}{more}; give weights of the same architecture")
    module.load_state_dict(given)
