"""How much room an experiment's files will take, asked before it begins rather than when the disk
is full; also for photos that are not there yet.
"""

import shutil
from math import ceil
from pathlib import Path

import numpy as np
import torch

from wsss import datasets, models
from wsss.errors import InputError
from wsss.lab import paths

MIB = 2**20
BLOCK = 4096  # bytes that a file system hands out at once
PICTURES = 16 * MIB  # a stage's notebook, its page and its figures: 1 to 14 MB in the demo
SPARE = 256 * MIB  # for the record and whatever else the machine writes meanwhile
PNG = 0.05  # bytes a pixel of a label map, beside a palette of 1 KiB
MARGINALS = 0.1  # compressed, of their bytes
TENSOR = 512  # bytes for a tensor's name and place in a file
LISTS = ("train_split", "score_split", "val_split")
CHECKPOINTS = 2  # the newest, and the one before it
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
        place = item.values["dataset"], paths.from_root(item.values["data_root"])
        if place not in opened:
            opened[place] = datasets.open(*place)
        there, data = taken(files_of(item.folder)), opened[place]
        wanted = stage_bytes(item.name, item.values, data) + PICTURES
        wanted += joined_bytes(item.values, planned, len(data.classes))
        total += max(0, wanted - there)
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


def stage_bytes(name, values, data, *, times=1.0, classes=None, checkpoints=CHECKPOINTS):
    """What a stage's networks and photos take, without its notebook and pictures.

    Args:
        name: of the stage.
        values: of its parameters.
        data: the open dataset.
        times: how many times as many photos there are as in the dataset, and like them.
        classes: their number; None takes the dataset's.
        checkpoints: that are kept of each training while it goes on.
    """
    if name in NETWORKS:
        return _training(_network(name, values, classes or len(data.classes)), values, checkpoints)
    written = kinds(name, values)
    ids = photos_of(name, values, data) if written else []
    return ceil(times * sum(_photos(data, ids, kind) for kind in written))


def photos_of(name, values, data):
    """The ids of the photos that a stage works on, sorted.

    Args:
        name: of the stage.
        values: of its parameters.
        data: the open dataset.
    """
    lists = ("train_split",) if name == "affinity_labels" else LISTS  # its others are only scored
    return sorted({id for each in lists if each in values for id in data.ids(values[each])})


def _chosen(values, *names):
    """The builders' arguments that a stage's parameters give under the same names."""
    names = ("backbone", "output_stride", "frozen_levels", *names)
    return {name: values[name] for name in names}


NETWORKS = {  # of the stages that train: from their parameters and the number of classes
    "train_cam": lambda values, classes: models.build_cam(
        num_classes=classes, **_chosen(values, "head_channels")
    ),
    "train_affinity": lambda values, classes: models.build_affinity(
        reduced=tuple(values["reduced"]), **_chosen(values, "norm_group")
    ),
    "train_segmentation": lambda values, classes: models.build_segmentation(
        num_classes=classes + 1,
        dilation=values["reach"],
        low_level_channels=values["fine"],
        **_chosen(values, "channels"),
    ),
}


def _network(name, values, classes):
    with torch.device("meta"):  # sizes alone, no memory for the tensors
        return NETWORKS[name](values, classes)


def joined_bytes(values, planned, classes):
    """What the network takes that evaluation keeps where a walk follows: two that other stages
    wrote or will write, once more.

    Args:
        values: of a stage's parameters; 0 bytes for those that tell of no such walk.
        planned: from ``pipeline.plan``.
        classes: their number.
    """
    if not values.get("walk_steps"):
        return 0
    total = 0
    for name in ("train_segmentation", "train_affinity"):
        folder = paths.from_root(values[f"{name}_run"])
        written = folder / "weights.pt"
        if written.exists():
            total += written.stat().st_size
        else:
            for item in planned:
                if item.folder == folder:
                    total += _bytes(_network(name, item.values, classes).state_dict().values())
    return _blocks(total)


def _training(network, values, checkpoints):
    """The weights; and of each member its own and its checkpoints, with the optimiser's tensors."""
    weights = _bytes(network.state_dict().values())
    if values.get("checkpoint"):  # nothing is trained
        return _blocks(weights)
    trained = _bytes(p for p in network.parameters() if p.requires_grad)
    checkpoint = weights + STATES[values["optimiser"]] * trained
    members = values.get("members")  # None where the stage knows of none
    return (
        _blocks(weights)
        + (members or 1) * checkpoints * _blocks(checkpoint)
        + (members or 0) * _blocks(weights)
    )


def _bytes(tensors):
    return sum(TENSOR + tensor.numel() * tensor.element_size() for tensor in tensors)


def kinds(name, values):
    """For each file that a stage writes of a photo, what tells its bytes: a function of the photo's
    height, its width and the number of classes that it shows.
    """
    if name == "affinity_labels" and values["marginals"]:
        return (_labels, _marginals)
    return KINDS.get(name, ())


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


# stage to what tells the bytes of each file that it writes of a photo
KINDS = {
    "infer_cam": (_cams,),
    "affinity_labels": (_labels,),
    "random_walk": (_labels, _labels),
    "evaluate": (_labels,),
}


def _blocks(size):
    return BLOCK * ceil(size / BLOCK)


def files_of(folder):
    """Yield the paths of the files in a folder and below."""
    return (path for path in Path(folder).rglob("*") if path.is_file())


def taken(files):
    """The bytes of the disk that some files take."""
    return sum(_blocks(path.stat().st_size) for path in files)


def _told(size):
    return f"{size / 2**30:.1f} GiB"
