"""How much room an experiment's files will take, asked before it begins rather than when the disk
is full.
"""

import shutil
from math import ceil
from pathlib import Path

import numpy as np
import torch

from wsss import datasets, models, stages
from wsss.errors import InputError

MIB = 2**20
BLOCK = 4096  # bytes that a file system hands out at once
PICTURES = 16 * MIB  # a stage's notebook, its page and its figures: 1 to 14 MB in the demo
SPARE = 256 * MIB  # for the record and whatever else the machine writes meanwhile
PNG = 0.05  # bytes a pixel of a label map, beside a palette of 1 KiB
MARGINALS = 0.1  # compressed, of their bytes
TENSOR = 512  # bytes for a tensor's name and place in a file
STATES = {"adam": 2, "sgd": 1, "sgd_released": 1}  # tensors kept for each one that is trained


def needed(planned):
    """The bytes that the stages of a plan will still write into the outputs folder, about.

    What is there of an unfinished stage counts as written.

    Args:
        planned: from ``pipeline.plan``.
    """
    opened, total = {}, 0
    for item in planned:
        if item.done:
            continue
        place = item.values["dataset"], stages.from_root(item.values["data_root"])
        if place not in opened:
            opened[place] = datasets.open(*place)
        there = sum(_blocks(p.stat().st_size) for p in _files(item.folder))
        total += max(0, stage_bytes(item.name, item.values, opened[place]) + PICTURES - there)
    return total


def check(planned, folder):
    """Whether there is room in ``folder`` for what a plan will write.

    Raises:
        InputError: there is not.
    """
    place = Path(folder).absolute()
    there = next(each for each in (place, *place.parents) if each.exists())
    wanted, free = needed(planned), shutil.disk_usage(there).free
    if wanted and free < wanted + SPARE:
        raise InputError(
            f"{folder}: the stages to come need some {_told(wanted + SPARE)} but {_told(free)} are "
            "free; free some, or set WSSS_OUTPUTS to a folder elsewhere"
        )


def stage_bytes(name, values, data):
    """What a stage's networks and photos take, without its notebook and pictures.

    Args:
        name: of the stage.
        values: of its parameters.
        data: the open dataset.
    """
    if name in NETWORKS:
        with torch.device("meta"):  # sizes alone, no memory for the tensors
            network = NETWORKS[name](values, data)
        return _training(network, values)
    if name == "infer_cam":
        return _photos(data, _both(data, values), _cams)
    if name == "affinity_labels":
        kinds = (_labels, _marginals) if values["marginals"] else (_labels,)
        return sum(_photos(data, data.ids(values["train_split"]), kind) for kind in kinds)
    if name == "random_walk":
        return 2 * _photos(data, _both(data, values), _labels)
    if name == "evaluate":
        return _photos(data, data.ids(values["val_split"]), _labels)
    return 0


def _chosen(values, *names):
    """The builders' arguments that a stage's parameters give under the same names."""
    names = ("backbone", "output_stride", "frozen_levels", *names)
    return {name: values[name] for name in names}


NETWORKS = {
    "train_cam": lambda values, data: models.build_cam(
        num_classes=len(data.classes), **_chosen(values, "head_channels")
    ),
    "train_affinity": lambda values, data: models.build_affinity(
        reduced=tuple(values["reduced"]), **_chosen(values, "norm_group")
    ),
    "train_segmentation": lambda values, data: models.build_segmentation(
        num_classes=len(data.classes) + 1, **_chosen(values, "channels", "reach", "fine")
    ),
}


def _training(network, values):
    """The weights; and of each member its own and two checkpoints, with the optimiser's tensors."""
    weights = _bytes(network.state_dict().values())
    if values.get("checkpoint"):  # nothing is trained
        return _blocks(weights)
    trained = _bytes(p for p in network.parameters() if p.requires_grad)
    checkpoint = weights + STATES[values["optimiser"]] * trained
    members = values.get("members")  # None where the stage knows of none
    return (
        _blocks(weights)
        + (members or 1) * 2 * _blocks(checkpoint)
        + (members or 0) * _blocks(weights)
    )


def _bytes(tensors):
    return sum(TENSOR + tensor.numel() * tensor.element_size() for tensor in tensors)


def _both(data, values):
    return sorted(set(data.ids(values["train_split"])) | set(data.ids(values["score_split"])))


def _photos(data, ids, size):
    """The bytes of a file for each photo, by some of them.

    Args:
        size: (height, width, number of classes) of a photo to the bytes of its file.
    """
    if not ids:
        return 0
    sample = [ids[place] for place in np.linspace(0, len(ids) - 1, min(16, len(ids))).astype(int)]
    sizes = [_blocks(size(*data.image(id).shape[:2], len(data.labels(id)))) for id in sample]
    return ceil(np.mean(sizes) * len(ids))


def _cams(height, width, classes):
    return TENSOR + 2 * classes * ceil(height / 4) * ceil(width / 4)


def _labels(height, width, classes):
    return 1024 + PNG * height * width


def _marginals(height, width, classes):
    return TENSOR + MARGINALS * 2 * (1 + classes) * height * width


def _blocks(size):
    return BLOCK * ceil(size / BLOCK)


def _files(folder):
    return (path for path in Path(folder).rglob("*") if path.is_file())


def _told(size):
    return f"{size / 2**30:.1f} GiB"
