"""The room on the disk that an experiment's files will take, checked before the first stage starts;
also for photos that are not there yet.
"""

import shutil
from collections.abc import Iterable
from math import ceil
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wsss import datasets, models
from wsss.errors import InputError
from wsss.lab import paths

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


def needed(planned: Iterable) -> int:
    """The bytes that the stages of a plan will still write into the outputs folder, estimated.

    What is there of an unfinished stage counts as written.

    Args:
        planned: from ``lab.plan.plan``.
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


def check(planned: Iterable, folder: Path) -> None:
    """Check that ``folder`` has room for what a plan will write.

    Raises:
        InputError: it has not.
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
    data: datasets.Devkit,
    times: float = 1.0,
    classes: int | None = None,
    checkpoints: int = CHECKPOINTS,
) -> int:
    """The bytes of a stage's networks and of its files per photo, without its notebook and figures.

    Args:
        name: of the stage.
        values: of its parameters.
        data: the open dataset.
        times: how many times as many photos as in the dataset, and like them.
        classes: their number; None takes the dataset's.
        checkpoints: that each training keeps while it runs.
    """
    if name in NETWORKS:
        return _training(_network(name, values, classes or len(data.classes)), values, checkpoints)
    kinds = PER_PHOTO.get(name, ())
    if name == "affinity_labels" and values["marginals"]:
        kinds = (*kinds, _marginals)
    ids = photos_of(name, values, data=data) if kinds else []
    # the mean of some photos stands for all
    sample = [ids[place] for place in np.linspace(0, len(ids) - 1, min(16, len(ids))).astype(int)]
    sizes = [(*data.image(id).shape[:2], len(data.labels(id))) for id in sample]
    total = sum(_blocks(kind(*size)) for kind in kinds for size in sizes)
    return ceil(times * len(ids) * total / max(1, len(sample)))


def photos_of(name: str, values: dict, *, data: datasets.Devkit) -> list[str]:
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


def joined_bytes(values: dict, planned: Iterable, *, classes: int) -> int:
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
    """The weights, and of each member its own and its checkpoints with the optimiser's tensors."""
    weights = _bytes(network.state_dict().values())
    if values.get("checkpoint"):  # nothing is trained
        return _blocks(weights)
    trained = _bytes(p for p in network.parameters() if p.requires_grad)
    checkpoint = _blocks(weights + STATES[values["optimiser"]] * trained)
    members = values.get("soup_size", 0)  # 0: the stage has no such parameter and saves one network
    return (1 + members) * _blocks(weights) + max(1, members) * checkpoints * checkpoint


def _bytes(tensors):
    return sum(TENSOR + tensor.numel() * tensor.element_size() for tensor in tensors)


def _cams(height, width, classes):
    return TENSOR + 2 * classes * ceil(height / 4) * ceil(width / 4)


def _labels(height, width, classes):
    return 1024 + PNG * height * width


def _marginals(height, width, classes):
    return TENSOR + MARGINALS * 2 * (1 + classes) * height * width


# stage to the bytes of each file that it writes per photo: functions of the photo's height and
# width, and of the number of classes that it shows
PER_PHOTO = {
    "infer_cam": (_cams,),
    "affinity_labels": (_labels,),
    "random_walk": (_labels, _labels),
    "evaluate": (_labels,),
}


def _blocks(size):
    return BLOCK * ceil(size / BLOCK)


def files_of(folder: Path) -> Iterable[Path]:
    """The files in a folder and below."""
    return (path for path in Path(folder).rglob("*") if path.is_file())


def taken(files: Iterable[Path]) -> int:
    """The bytes of the disk that files take."""
    return sum(_blocks(path.stat().st_size) for path in files)
