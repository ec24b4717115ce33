"""Other people's weight files as ours: what a file is, and its tensors in our layout.

Known are ImageNet weights of each backbone (in torchvision's, MXNet's or Caffe's names) and the
authors' own checkpoints, ``res38_cls.pth``, ``res38_aff.pth``, ``vgg16_cls.pth`` and
``vgg16_aff.pth``, from which labels can be synthesized without any training.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from wsss.errors import InputError
from wsss.models import build_affinity, build_cam, fit_state, load_state, save_state
from wsss.models.backbones.catalogue import BACKBONES, build_backbone
from wsss.models.state_dicts import fitting

MOST_CHANNELS = 4096  # of any layer of theirs
# the authors' names of the heads' tensors, and ours
CAM_HEAD = {"fc8.weight": "classifier.weight"}
AFFINITY_HEAD = {
    "f8_3.weight": "reduce.0.weight",
    "f8_4.weight": "reduce.1.weight",
    "f8_5.weight": "reduce.2.weight",
    "f9.weight": "mix.weight",
}
GROUP_NORMS = {
    f"gn8_{place + 3}.{tensor}": f"norms.{place}.{tensor}"
    for place in range(3)
    for tensor in ("weight", "bias")
}


@dataclass(frozen=True)
class Content:
    """What a weight file holds.

    Args:
        what: in words.
        state: in our layout: of a backbone's body, or of a whole network.
        skipped: tensors that were left out: name to reason.
    """

    what: str
    state: dict
    skipped: dict


def identify(given, path):
    """What a weight file is, with its tensors in our layout.

    Args:
        given: the file's tensors, from ``load_state``.
        path: of the file, for messages.

    Raises:
        InputError: nothing that is known.
    """
    # the authors' classifier has no bias, unlike ImageNet's and Caffe's
    if "f9.weight" in given or ("fc8.weight" in given and "fc8.bias" not in given):
        return _authors(given, path)
    for backbone, kind in BACKBONES.items():
        if kind.origin is None:
            continue
        state, skipped = kind.adapt(given)
        with torch.device("meta"):
            body = build_backbone(backbone, output_stride=kind.output_strides[-1]).body
        wanted = set(body.state_dict())
        counters = {name for name in wanted if name.endswith(".num_batches_tracked")}
        if wanted == set(state) | counters:
            fitting(body, state, path, hint=kind.origin)
            return Content(f"ImageNet weights of {backbone}", state, skipped)
    names = ", ".join(list(given)[:3])
    pretrained = ", ".join(name for name, kind in BACKBONES.items() if kind.origin)
    raise InputError(
        f"{path}: {len(given)} tensors ({names}, ...) of no network known here; expected ImageNet "
        f"weights of {pretrained}, or the authors' "
        "res38_cls.pth, res38_aff.pth, vgg16_cls.pth or vgg16_aff.pth"
    )


def _authors(given, path):
    """One of the authors' checkpoints, every tensor of which must find its place."""
    backbone = "vgg16" if "conv1_1.weight" in given else "resnet38"
    affinity = "f9.weight" in given
    head = AFFINITY_HEAD if affinity else CAM_HEAD
    if affinity and backbone == "vgg16":
        head = head | GROUP_NORMS
    absent = [name for name in head if name not in given]
    if absent:
        raise InputError(f"{path}: has no '{absent[0]}'; give the authors' checkpoint as published")
    for name in set(head) & {*CAM_HEAD, *AFFINITY_HEAD}:  # whose sizes decide what is built
        if given[name].ndim != 4 or max(given[name].shape) > MOST_CHANNELS:
            raise InputError(
                f"{path}: has '{name}' of shape {tuple(given[name].shape)}; give the authors' "
                "checkpoint as published"
            )
    body = {name: tensor for name, tensor in given.items() if name not in head}
    if affinity:
        reduced = tuple(given[name].shape[0] for name in list(AFFINITY_HEAD)[:3])
        network = build_affinity(
            backbone,
            weights=(body, path),
            reduced=reduced,
            norm_group=8 if backbone == "vgg16" else 0,
        )
    else:
        network = build_cam(
            backbone, len(given["fc8.weight"]), weights=(body, path), output_stride=8
        )
    state = network.state_dict() | {ours: given[theirs] for theirs, ours in head.items()}
    fit_state(network, state, path, hint="the authors' checkpoint as published")
    what = "AffinityNet" if affinity else f"CAM network of {len(given['fc8.weight'])} classes"
    return Content(f"the authors' {what} over {backbone}", state, {})


def load_checkpoint(network, path):
    """Load a whole network's file, ours or the authors', strictly, and leave it in evaluation mode:
    in training mode an unfrozen batch norm would go on learning from what it is shown.

    Raises:
        InputError: unreadable, or of another network.
    """
    state = load_state(path)
    if not any(name.startswith("backbone.") for name in state):
        content = identify(state, path)
        print(f"{path}: {content.what}")
        state = content.state
    fit_state(network, state, path, hint="a checkpoint of this network")
    network.eval()


def convert(source, target):
    """Write a weight file in our layout, to be named as ``weights`` (ImageNet's) or as
    ``checkpoint`` (a whole network).

    Returns:
        ``Content`` of the source.
    """
    content = identify(load_state(source), source)
    target = Path(target)
    if target.exists():
        raise InputError(f"{target}: exists already; give another name, or remove it")
    save_state(content.state, target)
    return content
