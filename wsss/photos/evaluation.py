"""Scores: which photos, against which masks, at which threshold, by which protocol."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from wsss.crf import CrfParams, DenseCRF
from wsss.datasets import Devkit, tuning_split
from wsss.datasets.voc import read_mask
from wsss.geometry import upsample
from wsss.io import artifacts, atomic
from wsss.io.artifacts import IGNORE
from wsss.metrics import Confusions, ThresholdSweep
from wsss.models import WalkedNetwork
from wsss.runtime.devices import as_batch, autocast
from wsss.synthesis import label_map, spread


def scored_lists(dataset, split, *, tuning_photos=0, seed=0):
    """The id lists that a score is told for: of the photos that have a mask.

    Returns:
        dict of list name to ids: the split, and where ``tuning_photos`` of it were used to choose
        constants, also ``<split>_tuning`` and the rest as ``<split>_held_out``. Empty where no
        photo has a mask.
    """
    ids = dataset.masked(dataset.ids(split))
    lists = {split: ids} if ids else {}
    if tuning_photos and ids:
        lists[f"{split}_tuning"], lists[f"{split}_held_out"] = tuning_split(
            ids, tuning_photos, seed=seed
        )
    return lists


def gallery_ids(dataset, split, count=16):
    """The fixed photos that every stage shows: evenly spaced in the split's list."""
    ids = dataset.ids(split)
    return [
        ids[place]
        for place in np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int)
    ]


def told(dataset, lists, split):
    """One line on what scores are told on: photos with a mask of how many, and which masks."""
    count, masked = len(dataset.ids(split)), len(lists.get(split, ()))
    if not masked:
        return f"no photo of {split} has a mask in {dataset.mask_folder}: no scores"
    of = f"{masked} of the {count} photos" if masked < count else f"{count} photos"
    return f"{split}, {of}; masks: {dataset.mask_folder}"


def mask_if_any(dataset, id):
    """A photo's mask, uint8 (H, W), or None where it has none."""
    return dataset.mask(id) if dataset.masked([id]) else None


def score_labels(dataset, ids, folder):
    """The ``Confusions`` of label maps ``folder/<id>.png`` with the dataset's masks."""
    confusions = Confusions(len(dataset.classes) + 1)
    for id in ids:
        labels = read_mask(Path(folder) / f"{id}.png", num_classes=len(dataset.classes))
        confusions.add(id, labels, dataset.mask(id))
    return confusions


def score_cams(dataset, ids, folder, threshold):
    """The ``Confusions`` of activation maps ``folder/<id>.npz``, at one background threshold, with
    the masks.
    """
    confusions = Confusions(len(dataset.classes) + 1)
    for id in ids:
        classes, cams = artifacts.load_cams(Path(folder) / f"{id}.npz")
        target = dataset.mask(id)
        maps = upsample(cams, target.shape).numpy()
        scores = np.concatenate([np.full((1, *target.shape), threshold, np.float32), maps])
        confusions.add(id, label_map(scores, classes), target)
    return confusions


def sweep_cams(dataset, ids, folder):
    """Activation maps ``folder/<id>.npz`` against the masks, at every background threshold."""
    sweep = ThresholdSweep(len(dataset.classes) + 1)
    for id in ids:
        classes, cams = artifacts.load_cams(Path(folder) / f"{id}.npz")
        target = dataset.mask(id)
        sweep.update(upsample(cams, target.shape).numpy(), classes, target)
    return sweep


def score_regions(dataset, ids, folder):
    """Affinity labels against the masks: coverage and precision, in [0, 1], of objects and of
    background.

    Coverage is the share of the pixels whose label is not neutral; precision, the share of the
    pixels labelled as an object (as background) whose mask says the same. Pixels that the mask
    ignores do not count.
    """
    confident = pixels = 0
    hits, labelled = np.zeros(2), np.zeros(2)
    for id in ids:
        labels, target = (
            read_mask(Path(folder) / f"{id}.png", num_classes=len(dataset.classes)),
            dataset.mask(id),
        )
        counted = target != IGNORE
        confident += ((labels != IGNORE) & counted).sum()
        pixels += counted.sum()
        for kind, chosen in enumerate(((labels > 0) & (labels != IGNORE), labels == 0)):
            labelled[kind] += (chosen & counted).sum()
            hits[kind] += (chosen & counted & (labels == target)).sum()
    precision = hits / np.maximum(labelled, 1)
    return {
        "regions_coverage": confident / pixels,
        "regions_object_share": labelled[0] / pixels,
        "regions_object_precision": precision[0],
        "regions_background_precision": precision[1],
    }


def log_confusions(run, name, confusions):
    """Keep per-photo counts as ``confusions/<name>.npz`` of a stage's folder, and log the file.

    Args:
        run: the stage's ``StageRun``.
    """
    path = run.folder / "confusions" / f"{name}.npz"
    artifacts.save_confusions(path, confusions)
    run.log_file(path, "confusions")


def iou_table(dataset, columns):
    """A table of IoU in percent: a row a class and the mean, a column for each named
    ``ConfusionMatrix``.
    """
    frame = pd.DataFrame({name: 100 * matrix.iou() for name, matrix in columns.items()})
    frame.insert(0, "class", ["background", *dataset.classes])
    frame.loc[len(frame)] = [
        "mean",
        *(100 * matrix.miou() for matrix in columns.values()),
    ]
    return frame


@dataclass
class SegmentJob:
    """Photos to label maps by a segmentation network: ``folder/<id>.png``."""

    dataset: Devkit
    network: nn.Module
    folder: Path
    scales: tuple = (1.0,)
    flip: bool = False
    crf: CrfParams | None = None
    crf_steps: int = 10

    def path(self, id):
        return Path(self.folder) / f"{id}.png"

    def done(self, id):
        return atomic.is_whole(self.path(id))

    def forward(self, id):
        return (
            segment(
                self.network,
                self.dataset.image(id),
                scales=self.scales,
                flip=self.flip,
            )
            .cpu()
            .numpy()
        )

    def finish(self, id, probabilities):
        if self.crf:
            probabilities = DenseCRF(self.dataset.image(id), self.crf).infer(
                probabilities, self.crf_steps
            )
        artifacts.save_labels(self.path(id), label_map(probabilities, range(1, len(probabilities))))


@torch.inference_mode()
def segment(network, image, *, scales=(1.0,), flip=False):
    """Class probabilities (classes, H, W) of a photo, uint8 RGB (H, W, 3), averaged over scales
    and mirror images; those of a ``WalkedNetwork`` after its walk.
    """
    device = next(network.parameters()).device
    pixels = as_batch(image, device)
    height, width = pixels.shape[-2:]
    total = 0
    for scale in scales:
        scaled = pixels
        if scale != 1:
            size = (max(1, round(height * scale)), max(1, round(width * scale)))
            scaled = F.interpolate(
                pixels, size, mode="bilinear", align_corners=False, antialias=scale < 1
            )
        if flip:
            scaled = torch.cat([scaled, scaled.flip(-1)])
        with autocast(device):
            scores = network(scaled.contiguous(memory_format=torch.channels_last))
        scores = upsample(scores.float(), scaled.shape[-2:]).softmax(1)
        scores = scores[:1] + scores[1:].flip(-1) if flip else scores
        if scale != 1:
            scores = F.interpolate(
                scores, (height, width), mode="bilinear", align_corners=False, antialias=scale > 1
            )
        total = total + scores[0]
    probabilities = total / total.sum(0)
    if isinstance(network, WalkedNetwork):
        return spread(network, image, probabilities)
    return probabilities
