"""Disk space that an experiment will take, checked before the first stage starts; also for more
photos than the dataset has.
"""

import shutil
from collections.abc import Collection, Iterable
from itertools import chain
from math import ceil
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wsss import datasets, models
from wsss.errors import InputError
from wsss.lab import paths
from wsss.lab.plan import Planned

MIB = 2**20
BLOCK = 4096  # bytes that a file system allocates at once
PICTURES = 16 * MIB  # a stage's notebook, its page and its figures: 1 to 14 MB in the demo
SPARE = 256 * MIB  # for the record and whatever else the machine writes meanwhile
PNG = 0.05  # bytes per pixel of a label map, beside a palette of 1 KiB
MARGINALS = 0.1  # compressed, of their bytes
TENSOR = 512  # bytes for a tensor's name and place in a file
LISTS = ("train_split", "score_split", "val_split")
CHECKPOINTS = 2  # the newest, and the one before it
STATES = {"adam": 2, "sgd": 1, "sgd_released": 1}  # tensors of the optimiser per trained one


def needed(planned: Collection[Planned]) -> int:
    """Estimate the bytes that the stages of a plan will still write into the outputs folder. The
    files of an unfinished stage count as written.
    """
    opened, total = {}, 0
    for item in planned:
        if item.done:
            continue
        place = item.values["dataset"], paths.from_root(item.values["data_root"])
        data = opened[place] = opened.get(place) or datasets.open(*place)
        wanted = stage_bytes(item.name, item.values, data=data) + PICTURES
        wanted += joined_bytes(item.values, planned, classes=len(data.classes))
        total += max(0, wanted - taken(files_of(item.folder)))
    return total


def check(planned: Collection[Planned], folder: Path) -> None:
    """Check that ``folder`` has room for what a plan will write.

    Raises:
        InputError: it does not.
    """
    path = Path(folder).absolute()
    existing = next(each for each in (path, *path.parents) if each.exists())
    wanted, free = needed(planned), shutil.disk_usage(existing).free
    if wanted and free < wanted + SPARE:
        raise InputError(
            f"{folder}: the remaining stages need about {(wanted + SPARE) / 2**30:.1f} GiB but "
            f"{free / 2**30:.1f} GiB are free; free some, or set WSSS_OUTPUTS to another folder"
        )


def stage_bytes(
    name: str,
    values: dict,
    *,
    data: datasets.Dataset,
    times: float = 1.0,
    classes: int | None = None,
    checkpoints: int = CHECKPOINTS,
) -> int:
    """The bytes of a stage's networks and of its files per photo, without its notebook and figures.

    Args:
        name: of the stage.
        values: of its parameters.
        data: the open dataset.
        times: factor on the dataset's number of photos.
        classes: their number; None takes the dataset's.
        checkpoints: that each training keeps while it runs.
    """
    if name in NETWORKS:
        return _training(_network(name, values, classes or len(data.classes)), values, checkpoints)
    if name not in PER_PHOTO:
        return 0
    ids = photos_of(name, values, data=data)
    # the mean of some photos stands for all
    sample = [ids[place] for place in np.linspace(0, len(ids) - 1, min(16, len(ids))).astype(int)]
    total = 0
    for photo_id in sample:
        height, width = data.image(photo_id).shape[:2]
        total += _photo_bytes(name, values, height, width, len(data.labels(photo_id)))
    return ceil(times * len(ids) * total / max(1, len(sample)))


PER_PHOTO = ("infer_cam", "affinity_labels", "random_walk", "evaluate")


def _photo_bytes(name, values, height, width, classes):
    """The bytes of the files that a stage writes of one photo."""
    pixels = height * width
    label_map = _blocks(1024 + PNG * pixels)
    marginals = _blocks(TENSOR + MARGINALS * 2 * (1 + classes) * pixels)
    return {
        "infer_cam": _blocks(TENSOR + 2 * classes * ceil(height / 4) * ceil(width / 4)),
        "affinity_labels": label_map + marginals * values.get("marginals", 0),
        "random_walk": 2 * label_map,
        "evaluate": label_map,
    }[name]


def photos_of(name: str, values: dict, *, data: datasets.Dataset) -> list[str]:
    """The ids of the photos that a stage works on, sorted.

    Args:
        values: of its parameters.
    """
    lists = ("train_split",) if name == "affinity_labels" else LISTS  # its others are only scored
    return sorted({*chain.from_iterable(data.ids(values[k]) for k in lists if k in values)})


def _chosen(values, *names):
    """The builders' arguments that a stage's parameters give under the same names."""
    names = ("backbone", "output_stride", "frozen_stages", *names)
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
        dilation=values["dilation"],
        low_level_channels=values["low_level_channels"],
        **_chosen(values, "channels"),
    ),
}


def _network(name, values, classes):
    with torch.device("meta"):  # sizes alone, no memory for the tensors
        return NETWORKS[name](values, classes)


def joined_bytes(values: dict, planned: Collection[Planned], *, classes: int) -> int:
    """The bytes of the joint network that evaluate saves where a walk follows: a second copy of
    those of train_segmentation and train_affinity, written already or not yet.

    Args:
        values: of a stage's parameters; without such a walk, 0 bytes.
        planned: from ``lab.plan.plan``.
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


def _training(network: nn.Module, values: dict, checkpoints: int) -> int:
    """The weights, and of each training its own and its checkpoints with optimiser states."""
    weights = _bytes(network.state_dict().values())
    if values.get("checkpoint"):  # nothing is trained
        return _blocks(weights)
    trained = _bytes(p for p in network.parameters() if p.requires_grad)
    checkpoint = _blocks(weights + STATES[values["optimiser"]] * trained)
    trainings = values.get("soup_size", 0)  # 0: the stage has no such parameter
    return (1 + trainings) * _blocks(weights) + max(1, trainings) * checkpoints * checkpoint


def _bytes(tensors):
    return sum(TENSOR + tensor.numel() * tensor.element_size() for tensor in tensors)


def _blocks(size):
    return BLOCK * ceil(size / BLOCK)


def files_of(folder: Path) -> Iterable[Path]:
    """The files in a folder and below."""
    return (path for path in Path(folder).rglob("*") if path.is_file())


def taken(files: Iterable[Path]) -> int:
    """The bytes of the disk that files take."""
    return sum(_blocks(path.stat().st_size) for path in files)
