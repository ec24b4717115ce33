"""A trained network in one file, with the arguments that build it and the settings that its answers
are read with.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from wsss.errors import InputError, reason
from wsss.models.build import build_affinity, build_cam, build_segmentation
from wsss.models.heads import RandomWalkSegmenter
from wsss.models.state_dicts import fit_state, fitting, load_described, save_state


def _segmentation(classes, *, walk=None, **arguments):
    network = build_segmentation(num_classes=len(classes) + 1, **arguments)
    if walk is None:
        return network
    settings = dict(walk)
    return RandomWalkSegmenter(network, build_affinity(**settings.pop("affinity")), **settings)


BUILDERS = {
    "cam": lambda classes, **arguments: build_cam(num_classes=len(classes), **arguments),
    "affinity": lambda classes, **arguments: build_affinity(**arguments),
    "segmentation": _segmentation,
}
RENAMED = {"reach": "dilation", "fine": "low_level_channels"}  # arguments of earlier versions
KEYS = {"kind": str, "classes": list | tuple, "arguments": dict, "settings": dict}
NAMES = {"cam": "CAM network", "affinity": "AffinityNet", "segmentation": "segmentation network"}


class Trained(NamedTuple):
    """A network as ``open_network`` finds it.

    Attributes:
        network: in evaluation mode, on the CPU.
        kind: ``cam``, ``affinity`` or ``segmentation``.
        classes: names of the object classes, in the order of their numbers from 1.
        arguments: of the builder, with ``backbone``; with ``walk`` for a random walk, which holds
            those of its AffinityNet as ``affinity``.
        settings: for reading its answers, such as AffinityNet's ``reduction``; may be empty.
    """

    network: nn.Module
    kind: str
    classes: tuple
    arguments: dict
    settings: dict


def save_network(path, network, kind, classes, *, settings=None, **arguments):
    """Write a network's weights and its description to one file, atomically.

    Args:
        path: the file.
        kind, classes, settings, arguments: see ``Trained``; plain values and lists.
    """
    description = {
        "kind": kind,
        "classes": list(classes),
        "arguments": arguments,
        "settings": settings or {},
    }
    save_state(network, path, description=description)


def add_walk(path, segmentation, affinity, *, beta, steps, flip):
    """Write a ``RandomWalkSegmenter``, which opens like any other segmentation network.

    Args:
        path: the file.
        segmentation, affinity: the files of both networks, or their folders; the settings that the
            AffinityNet was trained with are kept.
        beta, steps, flip: of the walk, see ``synthesis.Walk``.
    """
    scorer, walker = open_network(segmentation, "segmentation"), open_network(affinity, "affinity")
    if "walk" in scorer.arguments:
        raise InputError(f"{segmentation}: has a random walk already; give its train_segmentation")
    walk = walker.settings | {"beta": beta, "steps": steps, "flip": flip}
    save_network(
        path,
        RandomWalkSegmenter(scorer.network, walker.network, **walk),
        "segmentation",
        scorer.classes,
        **scorer.arguments,
        walk=walk | {"affinity": walker.arguments},
    )


def open_network(path, kind=None, **changes):
    """A network that ``save_network`` wrote, ready for inference.

    Args:
        path: the file, or a folder with ``weights.pt``.
        kind: the expected one; None takes any.
        changes: arguments of the builder that do not change the weights, such as ``output_stride``;
            0 keeps the trained value.

    Returns:
        ``Trained``.

    Raises:
        InputError: missing, of another kind, or without a description that fits its weights.
    """
    path = Path(path)
    path = path / "weights.pt" if path.is_dir() else path
    state, description = load_described(path)
    if description is None:
        raise InputError(
            f"{path}: holds tensors but not which network they are of; name it as `checkpoint` of "
            "train_cam or train_affinity, and take the file that the stage writes"
        )
    if (
        not isinstance(description, dict)
        or description.keys() != KEYS.keys()
        or not all(isinstance(description[name], kind) for name, kind in KEYS.items())
        or not all(isinstance(name, str) for name in description["classes"])
    ):
        raise InputError(
            f"{path}: expected a description with {', '.join(sorted(KEYS))}; give another file"
        )
    found = description["kind"]
    if found not in BUILDERS or (kind and found != kind):
        raise InputError(
            f"{path}: expected: {NAMES.get(kind, 'a network')}, found: {NAMES.get(found, found)}; "
            "give another file"
        )
    given = {name: value for name, value in changes.items() if value}
    built = {RENAMED.get(name, name): value for name, value in description["arguments"].items()}
    classes, arguments = tuple(description["classes"]), built | given
    if _names_weights(arguments):  # an untrusted file must not have others read
        raise InputError(f"{path}: its description names further weights; give another file")
    try:
        # first without memory: the described network may be of any size
        with torch.device("meta"):
            wanted = BUILDERS[found](classes, **arguments)
    except InputError as fault:
        raise InputError(f"{path}: describes no network that can be built: {fault}") from None
    except Exception as error:  # wrong values fail in many ways
        raise InputError(
            f"{path}: describes no network that is known ({reason(error)}); give another file"
        ) from None
    fitting(wanted, state, path, hint="weights of the same architecture")
    with torch.random.fork_rng():  # its random weights are overwritten at once
        network = BUILDERS[found](classes, **arguments)
    fit_state(network, state, path)
    return Trained(network.eval(), found, classes, arguments, description["settings"])


def _names_weights(arguments):
    """Whether the arguments of a builder, or of one within it, name a file of weights."""
    return isinstance(arguments, dict) and (
        "weights" in arguments or any(_names_weights(value) for value in arguments.values())
    )
