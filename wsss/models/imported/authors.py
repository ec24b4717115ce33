"""Other people's weight files: which network a file is of, and its tensors by our names. Known are
each backbone's ImageNet weights, and the authors' checkpoints ``res38_cls.pth``, ``res38_aff.pth``,
``vgg16_cls.pth`` and ``vgg16_aff.pth``, which synthesize labels without any training.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from wsss.errors import InputError
from wsss.models import build_affinity, build_cam, fit_state, load_state, save_state
from wsss.models.backbones.catalogue import BACKBONES, build_backbone
from wsss.models.backbones.layers import State
from wsss.models.state_dicts import fitting

MOST_CHANNELS = 4096  # of any of the authors' layers
AS_PUBLISHED = "the authors' checkpoint as published"
# the authors' names of the heads' tensors, and ours
CAM_HEAD = {"fc8.weight": "classifier.weight"}
REDUCE = {f"f8_{n + 3}.weight": f"reduce.{n}.weight" for n in range(3)}
AFFINITY_HEAD = {**REDUCE, "f9.weight": "mix.weight"}
GROUP_NORMS = {f"gn8_{n + 3}.{t}": f"norms.{n}.{t}" for n in range(3) for t in ("weight", "bias")}


class Content(NamedTuple):
    """What a weight file holds."""

    what: str  # in words
    state: State  # by our names: of a backbone's body, or of a whole network
    skipped: dict[str, str]  # tensors that were left out: name to reason


def identify(given: State, path: Path | str) -> Content:
    """Find out which network the tensors of a file, from ``load_state``, belong to. Raises
    InputError for an unknown network, or tensors that do not fit it.
    """
    # the authors' classifier has no bias, unlike ImageNet's and Caffe's
    if "f9.weight" in given or ("fc8.weight" in given and "fc8.bias" not in given):
        return _authors(given, path)
    pretrained = {name: kind for name, kind in BACKBONES.items() if kind.origin}
    for backbone, kind in pretrained.items():
        state, skipped = kind.adapt(given)
        with torch.device("meta"):
            body = build_backbone(backbone, output_stride=kind.output_strides[-1]).body
        different = body.state_dict().keys() ^ state.keys()
        if all(name.endswith(".num_batches_tracked") for name in different):
            fitting(body, state, source=path, hint=kind.origin)
            return Content(f"ImageNet weights of {backbone}", state, skipped)
    raise InputError(
        f"{path}: {len(given)} tensors ({', '.join(list(given)[:3])}, ...) of an unknown network; "
        f"expected ImageNet weights of {', '.join(pretrained)}, or the authors' "
        "res38_cls.pth, res38_aff.pth, vgg16_cls.pth or vgg16_aff.pth"
    )


def _authors(given, path) -> Content:
    """One of the authors' checkpoints, of which every tensor must be used."""
    backbone = "vgg16" if "conv1_1.weight" in given else "resnet38"
    affinity = "f9.weight" in given
    norm_group = 8 if affinity and backbone == "vgg16" else 0
    head = AFFINITY_HEAD if affinity else CAM_HEAD
    head = head | GROUP_NORMS if norm_group else head
    for name in head:
        if name not in given:
            raise InputError(f"{path}: has no '{name}'; give {AS_PUBLISHED}")
        shape = tuple(given[name].shape)  # of convolutions, which decide what is built
        if name not in GROUP_NORMS and (len(shape) != 4 or max(shape) > MOST_CHANNELS):
            raise InputError(f"{path}: has '{name}' of shape {shape}; give {AS_PUBLISHED}")
    weights = {name: tensor for name, tensor in given.items() if name not in head}, str(path)
    if affinity:
        what = "AffinityNet"
        reduced = [len(given[name]) for name in REDUCE]
        network = build_affinity(backbone, weights=weights, reduced=reduced, norm_group=norm_group)
    else:
        what = f"CAM network of {len(given['fc8.weight'])} classes"
        network = build_cam(backbone, len(given["fc8.weight"]), weights=weights, output_stride=8)
    state = network.state_dict() | {name: given[other] for other, name in head.items()}
    fit_state(network, state, source=path, hint=AS_PUBLISHED)
    return Content(f"the authors' {what} over {backbone}", state, {})


def load_checkpoint(network: nn.Module, path: Path | str) -> None:
    """Load a whole network's file, ours or the authors', strictly, and set evaluation mode, since
    in training mode an unfrozen batch norm learns from each input.
    """
    state = load_state(path)
    if not any(name.startswith("backbone.") for name in state):
        what, state, _ = identify(state, path)
        print(f"{path}: {what}")
    fit_state(network, state, source=path, hint="a checkpoint of this network")
    network.eval()


def convert(source: Path | str, target: Path | str) -> Content:
    """Write a weight file by our names, to be given as ``weights`` (ImageNet's) or ``checkpoint``
    (a whole network); returns the source's ``Content``.
    """
    content = identify(load_state(source), source)
    if Path(target).exists():
        raise InputError(f"{target}: exists already; give another name, or remove it")
    save_state(content.state, target)
    return content
