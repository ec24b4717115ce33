"""Costs that completed runs recorded, from which ``forecast`` predicts those of larger runs."""

import timeit
from typing import NamedTuple

import torch

from wsss import datasets, models
from wsss.cost import disk_space
from wsss.crf import CrfParams, DenseCRF
from wsss.errors import InputError
from wsss.lab import lineage, results
from wsss.lab.record import journal
from wsss.lab.run.notebook import seconds_of
from wsss.models.ready import ready
from wsss.photos.segmentation import segment
from wsss.runtime.devices import pick_device
from wsss.train import losses

# parameters in which compared runs may differ: they set the amount of work or take no time
FREE = (
    *disk_space.LISTS,
    *("data_root", "weights", "corrected_folder", "tuning_photos", "model_name"),
    *("seed", "epochs", "soup_size", *lineage.IRRELEVANT),
)


class Measurement(NamedTuple):
    """The cost of a completed run of a stage."""

    values: dict  # of its parameters
    photos: int  # that it worked on
    start: float  # seconds before the stage began: processes, imports
    work: float  # seconds of work on photos, which more processors shorten
    rest: float  # all other seconds, in one process: figures, scores, checks
    cores: int  # that it could use
    gpu: bool  # whether it used one
    bytes: int  # on the disk, without the networks of stages that train
    files: int
    bulk_bytes: int  # of these, in the folders that hold files of each photo
    bulk_files: int
    memory: dict[str, int]  # from ``devices.peak_memory``


def find(planned: list, data: datasets.Dataset) -> dict[str, list[Measurement]]:
    """Completed runs of an experiment's stages under ``outputs/``: on the same data, with the same
    parameters but for ``FREE`` ones.

    Interrupted runs, whose record covers only the last attempt, runs started by hand and runs
    without such a record are left out.

    Args:
        planned: from ``lab.plan.plan``.
        data: the experiment's open dataset.

    Returns:
        stage's name to its measurements.
    """
    digest, found = data.digest(), {item.name: [] for item in planned}
    for item in planned:
        for marker in sorted(item.folder.parent.glob(f"*/{results.COMPLETE}")):
            folder, record = marker.parent, results.completion(marker.parent)
            if not record or record["data_digest"] != digest:
                continue
            values = record["parameters"]
            interrupted = any(entry["kind"] == "resumed" for entry, _ in journal.entries(folder))
            if interrupted or _compared(values) != _compared(item.values):
                continue
            manifest = record.get("manifest", ())
            skipped = ".pt" if item.name in disk_space.NETWORKS else None
            files = [path for path in disk_space.files_of(folder) if path.suffix != skipped]
            bulk = [path for path in files if path.relative_to(folder).parts[0] in manifest]
            try:
                usage, machine = record["usage"], record["machine"]
                measurement = Measurement(
                    values=values,
                    photos=len(disk_space.photos_of(item.name, values, data=data)),
                    start=seconds_of(folder) - usage["seconds"],
                    work=usage["work_seconds"],
                    rest=usage["seconds"] - usage["work_seconds"],
                    cores=machine["cores"],
                    gpu=machine["gpu"],
                    bytes=disk_space.taken(files),
                    files=len(files),
                    bulk_bytes=disk_space.taken(bulk),
                    bulk_files=len(bulk),
                    memory=record["memory"],
                )
            except (InputError, KeyError, TypeError):  # no such record, or a damaged one
                continue
            if measurement.start >= 0:
                found[item.name].append(measurement)
    return found


def _compared(values):
    return {k: v for k, v in values.items() if k not in FREE and not k.endswith("_run")}


def class_growth(name: str, everything: dict, *, data: datasets.Dataset, classes: int) -> float:
    """The time of a stage per step or photo with ``classes`` over that with the dataset's, timed
    here with random weights; 1 for stages that only see each photo's classes.

    Args:
        name: of the stage.
        everything: stage's name to the values of its parameters.
    """
    scores_all = name in ("train_segmentation", "evaluate") and "train_segmentation" in everything
    if not scores_all or classes == len(data.classes):
        return 1.0
    steps = [_step(name, everything, data, count) for count in (classes, len(data.classes))]
    # the least of three, after one that warms up
    seconds = [min(timeit.repeat(step, number=1, repeat=4)[1:]) for step in steps]
    return seconds[0] / seconds[1]


def _step(name, everything, data, classes):
    """A function that trains the segmentation network on two crops, or predicts a photo."""
    values, device = everything[name], pick_device()
    network = disk_space.NETWORKS["train_segmentation"](everything["train_segmentation"], classes)
    if name == "train_segmentation":
        network.to(device).train()
        images = torch.rand(2, 3, values["crop"], values["crop"], device=device)
        labels = torch.randint(classes + 1, images[:, 0].shape, device=device)
        loss = losses.decoder_loss if values["low_level_channels"] else losses.segmentation_loss

        def train():
            loss(network, images, labels)["loss"].backward()
            if device.type == "cuda":  # which is still at work
                torch.cuda.synchronize()

        return train
    if values["walk_steps"] and "train_affinity" in everything:
        affinity = disk_space.NETWORKS["train_affinity"](everything["train_affinity"], classes)
        walk = {"beta": values["walk_beta"], "steps": values["walk_steps"]}
        network = models.RandomWalkSegmenter(network, affinity, **walk)
    image, network = data.image(data.ids(values["val_split"])[0]), ready(network)
    protocol = {"scales": tuple(values["scales"]), "flip": values["flip"]}

    def predict():
        scores = segment(network, image, **protocol).cpu().numpy()
        if values["crf_steps"]:
            DenseCRF(image, CrfParams()).infer(scores, values["crf_steps"])

    return predict
