"""What completed stages took, on how much: ``plan`` scales from it to what is not there yet."""

import json
import math
import time
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch

from wsss import datasets, models
from wsss.cost import disk_space
from wsss.crf import CrfParams, DenseCRF
from wsss.errors import InputError
from wsss.lab import lineage, paths, results
from wsss.lab.record import journal
from wsss.lab.run.notebook import seconds_of
from wsss.models.ready import ready
from wsss.photos.segmentation import segment
from wsss.runtime.devices import pick_device
from wsss.train import losses

# parameters that change how much there is to do, or nothing that takes time; all others must agree
FREE = (
    *disk_space.LISTS,
    *("data_root", "weights", "corrected_folder", "tuning_photos", "model_name"),
    *("seed", "epochs", "members", *lineage.IRRELEVANT),
)
ALIKE = 0.05  # by which the pixels of typical photos may differ
GROW = ("train_segmentation", "evaluate")  # with the classes of all photos, not of each
WORK = ("infer.infer(", "train.fit")  # of a notebook's cell that more processors shorten
START = "tracking.start("  # of the cell before the first that looks at photos


class Measurement(NamedTuple):
    """What a completed stage took."""

    values: dict  # of its parameters
    photos: int  # that it worked on
    units: int  # of work: photos, or crops where it trains
    classes: int
    gpu: bool
    cores: int  # that worked, of its processors
    start: float  # seconds that take as long for any number of photos: processes, imports
    work: float  # seconds on photos or crops, which more processors shorten
    rest: float  # all other seconds: figures, scores, checks; in one process
    bytes: int  # on the disk, but for networks
    files: int
    entries: int  # in its record
    memory: dict  # bytes at most, see ``devices.peak_memory``; empty where it was not noted


def units_of(values, photos):
    """How much work there is in a stage: its photos, or the crops that it trains on."""
    if "epochs" not in values:
        return photos
    if values.get("checkpoint"):  # nothing is trained
        return 0
    batch = values["batch_size"]
    steps = max(1, photos // batch)  # as ``batches.EpochSampler``
    return values["epochs"] * values.get("members", 1) * steps * min(batch, photos)


def find(planned, data):
    """The runs of an experiment's stages that are complete under ``outputs/``: with the same
    parameters but for numbers of photos and passes, on photos of the same size, in one go.

    Args:
        planned: from ``pipeline.plan``.
        data: its open dataset.

    Returns:
        stage's name to a list of ``Measurement``.
    """
    opened, wanted, found = {}, _pixels(data), {}
    for item in planned:
        found[item.name] = []
        for marker in sorted(item.folder.parent.glob(f"*/{results.COMPLETE}")):
            record = results.completion(marker.parent)
            theirs = record["parameters"] if record else {}
            if not _same(theirs, item.values):
                continue
            place = theirs["dataset"], str(theirs.get("data_root"))
            if place not in opened:
                opened[place] = _opened(*place)
            kit, digest, pixels = opened[place]
            if digest == record["data_digest"] and abs(pixels / wanted - 1) < ALIKE:
                found[item.name] += _measurement(item.name, marker.parent, record, kit)
    return found


def _same(theirs, ours):
    def kept(values):
        return {
            name: value
            for name, value in values.items()
            if name not in FREE and not name.endswith("_run")
        }

    return kept(theirs) == kept(ours)


def _opened(name, root):
    """A dataset as it is now, its digest and the pixels of a typical photo; of none, no digest."""
    root = paths.from_root(root)
    with suppress(InputError, OSError):
        if root.exists():  # a built-in one would be made
            data = datasets.open(name, root)
            return data, data.digest(), _pixels(data)
    return None, "", 1.0


def _pixels(data):
    """The mean number of pixels of up to 16 of a dataset's photos that have labels; nan of none."""
    ids = sorted(data.labelled())
    if not ids:
        return math.nan
    chosen = np.linspace(0, len(ids) - 1, min(16, len(ids))).astype(int)
    return float(np.mean([np.prod(data.image(ids[place]).shape[:2]) for place in chosen]))


def _measurement(name, folder, record, data):
    """A list of a stage's ``Measurement``; empty where it was interrupted, since the seconds of its
    work are then not those of all of it, or where it was run by hand and nobody took the time.
    """
    values = record["parameters"]
    kinds = [entry["kind"] for entry, _ in journal.entries(folder)]
    machine, _, cores = journal.opening(folder)[1].get("wsss.device", "").rpartition(", ")
    try:
        work, rest = _worked(folder)
        start, cores = seconds_of(folder) - work - rest, int(cores.split()[0])
        photos = len(disk_space.photos_of(name, values, data))
    except (OSError, ValueError, KeyError, TypeError, IndexError):  # also an InputError
        return []
    if "again" in kinds or not start >= 0:
        return []
    files, memory = list(disk_space.files_of(folder)), record.get("memory")
    return [
        Measurement(
            values,
            photos,
            units_of(values, photos),
            len(data.classes),
            not machine.endswith(" CPU"),
            busy(values, cores),
            start,
            work,
            rest,
            disk_space.taken(path for path in files if path.suffix != ".pt"),
            len(files),
            len(kinds),
            memory if isinstance(memory, dict) and len(memory) == 2 else {},
        )
    ]


def busy(values, cores):
    """How many of a machine's cores a stage's work takes without a GPU: one for each process, or
    all, as training does.
    """
    return min(values.get("processes") or cores, cores)


def _worked(folder):
    """Seconds that a notebook's cells took which do a stage's work, and which come before and after
    it, but for the one that starts: by papermill's account.
    """
    work = rest = 0.0
    for cell in json.loads((folder / results.NOTEBOOK).read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or START in source:
            continue
        seconds = cell["metadata"]["papermill"]["duration"]
        if any(call in source for call in WORK):
            work += seconds
        else:
            rest += seconds
    return work, rest


def class_growth(name, everything, data, classes, before):
    """How many times as long a stage's step, or photo, takes with other numbers of classes, timed
    here with random weights; 1 for what knows only the classes that a photo shows.
    """
    if name not in GROW or classes == before or "train_segmentation" not in everything:
        return 1.0
    after, then = (_timed(name, everything, data, count) for count in (classes, before))
    return after / then


def _timed(name, everything, data, classes):
    """Seconds of one step on two crops, or of one photo, the least of three after one more."""
    trained, values = everything["train_segmentation"], everything[name]
    network, device = disk_space.NETWORKS["train_segmentation"](trained, classes), pick_device()
    if name == "evaluate":
        if values["walk_steps"] and "train_affinity" in everything:
            affinity = disk_space.NETWORKS["train_affinity"](everything["train_affinity"], classes)
            walk = {"beta": values["walk_beta"], "steps": values["walk_steps"]}
            network = models.RandomWalkSegmenter(network, affinity, **walk)
        image, network = data.image(data.ids(values["val_split"])[0]), ready(network)

        def step():
            found = segment(network, image, scales=tuple(values["scales"]), flip=values["flip"])
            if values["crf_steps"]:
                DenseCRF(image, CrfParams()).infer(found.cpu().numpy(), values["crf_steps"])
    else:
        side = values["crop"]
        images = torch.rand(2, 3, side, side, device=device)
        labels = torch.randint(classes + 1, (2, side, side), device=device)
        loss = losses.decoder_loss if values["fine"] else losses.segmentation_loss
        network.to(device).train()

        def step():
            loss(network, images, labels)["loss"].backward()

    seconds = []
    for _ in range(4):
        began = time.monotonic()
        step()
        if device.type == "cuda":  # which is only told what to do
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - began)
    return min(seconds[1:])
