"""A trained network in one file, with the arguments that build it and its inference settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from wsss.errors import InputError, reason
from wsss.models.build import build_affinity, build_cam, build_segmentation
from wsss.models.heads import RandomWalkSegmenter
from wsss.models.state_dicts import check_classes, fit_state, fitting, load_described, save_state

KEYS = {"kind": str, "classes": list | tuple, "arguments": dict, "settings": dict}
NAMES = {"cam": "CAM network", "affinity": "AffinityNet", "segmentation": "segmentation network"}


class Trained(NamedTuple):
    """A network that ``open_network`` read."""

    network: nn.Module  # in evaluation mode, on the CPU
    kind: str  # ``cam``, ``affinity`` or ``segmentation``
    classes: tuple[str, ...]  # names of the object classes, in the order of their numbers from 1
    # of the builder; with a random walk also ``walk``, with its AffinityNet's as ``affinity``
    arguments: dict[str, Any]
    settings: dict[str, Any]  # for inference, such as AffinityNet's ``reduction``; may be empty


def save_network(
    path: Path | str,
    network: nn.Module,
    *,
    kind: str,
    classes: Sequence[str],
    settings: dict | None = None,
    **arguments: Any,
) -> None:
    """Write a network's weights and its description (see ``Trained``: plain values and lists) to
    one file, atomically.
    """
    description = {"kind": kind, "classes": list(classes), "arguments": arguments}
    save_state(network, path, description=description | {"settings": settings or {}})


def add_walk(
    path: Path | str, segmentation: Path | str, *, affinity: Path | str, **walk: Any
) -> None:
    """Write a ``RandomWalkSegmenter``, which opens like any other segmentation network, from the
    files of both networks, or their folders. ``walk`` has ``beta``, ``steps`` and ``flip`` of
    ``synthesis.Walk``; its other arguments are the settings that the AffinityNet was trained with.
    """
    scorer, walker = open_network(segmentation, "segmentation"), open_network(affinity, "affinity")
    if "walk" in scorer.arguments:
        raise InputError(f"{segmentation}: has a random walk already; give its train_segmentation")
    walk = walker.settings | walk
    save_network(
        path,
        RandomWalkSegmenter(scorer.network, walker.network, **walk),
        kind="segmentation",
        classes=scorer.classes,
        **scorer.arguments,
        walk=walk | {"affinity": walker.arguments},
    )


def open_network(
    path: Path | str,
    kind: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    **changes: Any,
) -> Trained:
    """A network that ``save_network`` wrote, ready for inference. Raises InputError for a file that
    is missing, of another kind or other classes, or without a description that fits its weights.

    Args:
        path: the file, or a folder with ``weights.pt``.
        kind: the expected one; None takes any.
        classes: the expected ones, in their order; None takes any.
        changes: arguments of the builder that do not change the weights, such as ``output_stride``;
            0 keeps the trained value.
    """
    path = Path(path)
    path = path / "weights.pt" if path.is_dir() else path
    state, description = load_described(path)
    if description is None:
        raise InputError(
            f"{path}: holds tensors but no description of their network; name it as `checkpoint` "
            "of train_cam or train_affinity, and take the file that the stage writes"
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
    found, settings = description["kind"], description["settings"]
    if found not in NAMES or (kind and found != kind):
        raise InputError(
            f"{path}: expected: {NAMES.get(kind or '', 'a network')}, "
            f"found: {NAMES.get(found, found)}; give another file"
        )
    check_classes(description["classes"], classes, source=path)
    arguments: dict[str, Any] = description["arguments"]
    arguments |= {name: value for name, value in changes.items() if value}
    named = tuple(description["classes"])
    try:
        # first without memory: the described network may be of any size
        with torch.device("meta"):
            wanted = _build(found, named, **arguments)
    except InputError as fault:  # of a value, in the file or among the changes
        raise InputError(f"{path}: {fault}") from None
    except Exception as error:  # wrong values fail in many ways
        raise InputError(
            f"{path}: describes a network that cannot be built ({reason(error)}); give another file"
        ) from None
    fitting(wanted, state, source=path)
    with torch.random.fork_rng():  # the random weights are overwritten at once
        network = _build(found, named, **arguments)
    fit_state(network, state, source=path)
    return Trained(network.eval(), found, named, arguments, settings)


def _build(kind, classes, **arguments) -> nn.Module:
    """An untrained network; arguments that name weights, which would be read, are a TypeError."""
    if kind == "cam":
        return build_cam(num_classes=len(classes), weights="", **arguments)
    if kind == "affinity":
        return build_affinity(weights="", **arguments)
    walk = dict(arguments.pop("walk", {}))
    network = build_segmentation(num_classes=len(classes) + 1, weights="", **arguments)
    if walk:
        affinity = build_affinity(weights="", **walk.pop("affinity"))
        network = RandomWalkSegmenter(network, affinity, **walk)
    return network
