"""Disk space that an experiment will take, checked before the first stage starts; also for more
photos than the dataset has.
"""

import shutil
from collections.abc import Collection, Iterable
from functools import cache
from itertools import chain
from math import ceil
from pathlib import Path

import torch
from torch import nn

from wsss import datasets, models
from wsss.errors import InputError
from wsss.lab import paths, results, stages
from wsss.lab.plan import Planned
from wsss.lab.record.stage_run import Inputs

BLOCK = 4096  # bytes that a file system allocates at once
PICTURES = 16 * 2**20  # a stage's notebook, its page and its figures: 1 to 14 MB in the demo
SPARE = 256 * 2**20  # for the record and whatever else the machine writes meanwhile
PNG = 0.05  # bytes per pixel of a label map, beside a palette of 1 KiB
MARGINALS = 0.1  # compressed, of their bytes
TENSOR = 512  # bytes for a tensor's name and place in a file
PER_PHOTO = ("infer_cam", "affinity_labels", "random_walk", "evaluate")  # stages with such files
LISTS = ("train_split", "score_split", "val_split")
CHECKPOINTS = 2  # the newest, and the one before it
STATES = {"adam": 2, "sgd": 1, "sgd_released": 1}  # tensors of the optimiser per trained one


def needed(planned: Collection[Planned]) -> int:
    """The bytes that the stages of a plan will still write; what unfinished ones wrote counts."""
    total, open_dataset = 0, cache(datasets.open)
    for item in planned:
        if not item.done:
            place = item.values["dataset"], paths.from_root(item.values["data_root"])
            wanted = planned_bytes(item, planned, data=open_dataset(*place))
            total += max(0, wanted - taken(files_of(item.folder)))
    return total


def check(planned: Collection[Planned], folder: Path) -> None:
    """InputError if ``folder`` has no room for what a plan will write."""
    path = Path(folder).absolute()
    existing = next(each for each in (path, *path.parents) if each.exists())
    wanted, free = needed(planned) + SPARE, shutil.disk_usage(existing).free
    if wanted > max(free, SPARE):
        fault = f"need about {wanted / 2**30:.1f} GiB but {free / 2**30:.1f} GiB are free"
        fix = "free some, or set WSSS_OUTPUTS to another folder"
        raise InputError(f"{folder}: the remaining stages {fault}; {fix}")


def planned_bytes(
    item: Planned, planned: Collection[Planned], *, data: datasets.Dataset, times=1.0, classes=0
) -> int:
    """The bytes that a stage of a plan writes: ``stage_bytes``, its notebook, its figures, and for
    evaluate with a walk the networks of train_segmentation and train_affinity once more.
    """
    joined = 0
    for name in ("train_segmentation", "train_affinity") if item.values.get("walk_steps") else ():
        network = network_of(name, upstream(name, item, planned), classes or len(data.classes))
        joined += _bytes(network.state_dict().values())
    own = stage_bytes(item.name, item.values, data=data, times=times, classes=classes)
    return own + PICTURES + _blocks(joined)


def upstream(name: str, item: Planned, planned: Collection[Planned]) -> dict:
    """The parameters' values of a stage that a planned one builds on; InputError without it."""
    place = item.values[f"{name}_run"]
    folder = paths.from_root(Inputs()[name] if place == stages.NONE else place)
    own = [other.values for other in planned if other.folder == folder]
    return own[0] if own else results.completed_in(folder, name)["parameters"]


def stage_bytes(
    name: str, values: dict, *, data: datasets.Dataset, times: float = 1, classes: int = 0
) -> int:
    """The bytes of a stage's networks and of its files per photo, by its parameters' values.

    Args:
        times: factor on the dataset's number of photos.
        classes: their number; 0 takes the dataset's.
    """
    if name in NETWORKS:
        return _training(network_of(name, values, classes or len(data.classes)), values)
    ids = photos_of(name, values, data=data)
    if name not in PER_PHOTO:
        return 0
    sample = ids[:: ceil(len(ids) / 16) or 1]  # the mean of some photos stands for all
    total = sum(_photo_bytes(name, values, data, photo_id) for photo_id in sample)
    return ceil(times * len(ids) * total / max(1, len(sample)))


def _photo_bytes(name, values, data, photo_id):
    """The bytes of the files that a stage writes of one photo."""
    (height, width), classes = data.image(photo_id).shape[:2], len(data.labels(photo_id))
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
    """The ids of the photos that a stage with these parameters works on, sorted."""
    lists = ("train_split",) if name == "affinity_labels" else LISTS  # its others are only scored
    return sorted({*chain.from_iterable(data.ids(values[k]) for k in lists if k in values)})


def _chosen(values, *names):
    """The builders' arguments that a stage's parameters give under the same names."""
    return {k: values[k] for k in ("backbone", "output_stride", "frozen_stages", *names)}


NETWORKS = {  # of the stages that train: from their parameters and the number of classes
    "train_cam": lambda values, classes: models.build_cam(
        num_classes=classes, **_chosen(values, "head_channels")
    ),
    "train_affinity": lambda values, classes: models.build_affinity(
        **_chosen(values, "reduced", "norm_group")
    ),
    "train_segmentation": lambda values, classes: models.build_segmentation(
        num_classes=classes + 1, **_chosen(values, "channels", "dilation", "low_level_channels")
    ),
}


def network_of(name: str, values: dict, classes: int) -> nn.Module:
    """The network that a stage trains, without weights; InputError if values do not fit it."""
    with torch.device("meta"):  # sizes alone, no memory for the tensors
        return NETWORKS[name](values, classes)


def _training(network: nn.Module, values: dict) -> int:
    """The weights, and of each training its own and its checkpoints with optimiser states."""
    weights = _bytes(network.state_dict().values())
    if values.get("checkpoint"):  # nothing is trained
        return _blocks(weights)
    trained = _bytes(p for p in network.parameters() if p.requires_grad)
    checkpoint = _blocks(weights + STATES[values["optimiser"]] * trained)
    trainings = values.get("soup_size", 0)  # 0: the stage has no such parameter
    return (1 + trainings) * _blocks(weights) + max(1, trainings) * CHECKPOINTS * checkpoint


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
