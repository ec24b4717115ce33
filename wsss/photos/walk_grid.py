"""The walk's constants compared: label quality at every combination of background alpha, beta and
steps, one pass over the photos.

``T^t`` is linear: the class maps are walked once for each beta, and the background's score at
each alpha is one map more beside them; one recurrence serves every t. Interpolation treats each
map by itself too, so classes are brought to the photo's size, and their largest found, once for
all alphas. All of it is what ``jobs.WalkJob`` computes, without dense CRF, and to the bit.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from wsss import models
from wsss.cam import background_score
from wsss.datasets import Devkit
from wsss.errors import InputError, reason
from wsss.geometry import upsample
from wsss.io import artifacts, atomic, mirror
from wsss.io.artifacts import IGNORE
from wsss.metrics import ConfusionMatrix
from wsss.photos import evaluation
from wsss.photos.map_photos import infer
from wsss.random_walk import random_walk
from wsss.runtime.devices import pick_device
from wsss.synthesis import AFFINITY_STRIDE, CAM_STRIDE, Walk, restored

BITS = np.arange(256)[:, None] >> np.arange(8) & 1  # of every byte, the lowest first


class Grid(NamedTuple):
    """The values whose combinations are compared, each ascending."""

    alphas: tuple
    betas: tuple
    steps: tuple


@dataclass
class WalkSweepJob:
    """Activation maps, affinities and masks to the confusion counts of every combination:
    ``folder/<id>.npz``, some kilobytes a photo.

    ``affinities/<id>.npz`` is read where it is there, else computed and kept: float32, 400 KiB a
    photo of 500 x 375. As float16 they would change ten pixels in a million.
    """

    dataset: Devkit
    cams: Path
    network: nn.Module
    walk: Walk  # what all have in common
    grid: Grid
    affinities: Path
    folder: Path

    def path(self, id):
        return Path(self.folder) / f"{id}.npz"

    def done(self, id):
        return atomic.is_whole(self.path(id))

    def _affinity(self, id):
        """Affinities (K, h, w) of a photo, and its size."""
        path = Path(self.affinities) / f"{id}.npz"
        if atomic.is_whole(path):
            kept = _load(path)
            affinity = torch.from_numpy(kept["affinity"]).to(pick_device())
            return affinity, tuple(kept["size"].tolist())
        image = self.dataset.image(id)
        affinity = self.walk.affinities(self.network, image)
        with atomic.write(path) as partial, partial.open("wb") as file:
            np.savez(file, affinity=affinity.cpu().numpy(), size=image.shape[:2])
        return affinity, image.shape[:2]

    def forward(self, id):
        classes, cams = artifacts.load_cams(Path(self.cams) / f"{id}.npz")
        affinity, size = self._affinity(id)
        return classes, size, walk_all(cams, affinity, self.grid, self.walk).cpu()

    def finish(self, id, payload):
        classes, size, scores = payload
        target = self.dataset.mask(id)
        if target.shape != size:
            raise InputError(
                f"photo {id} is {size[1]}x{size[0]} but its mask is "
                f"{target.shape[1]}x{target.shape[0]}; replace the mask"
            )
        targets, counts = count(scores, target, len(classes))
        with atomic.write(self.path(id)) as partial, partial.open("wb") as file:
            np.savez_compressed(file, targets=targets, predictions=[0, *classes], counts=counts)


def walk_all(cams, affinity, grid, walk):
    """``synthesis.walk_scores`` at every combination: float32 (betas, steps, alphas + C, h, w), the
    backgrounds first, then the C classes that they have in common.
    """
    step = AFFINITY_STRIDE // CAM_STRIDE
    maps = torch.as_tensor(cams)[:, ::step, ::step].to(affinity.device)
    backgrounds = [background_score(maps, alpha)[None] for alpha in grid.alphas]
    scores = torch.cat([*backgrounds, maps])
    walked = [
        random_walk(scores, affinity, beta=beta, steps=grid.steps, radius=walk.radius)
        for beta in grid.betas
    ]
    return restored(torch.stack(walked), walk.restore, backgrounds=len(backgrounds))


def count(scores, target, classes):
    """Confusion counts of the labels that scores lead to, at every combination.

    Args:
        scores: float32 (betas, steps, alphas + C, h, w), as from ``walk_all``.
        target: uint8 mask (H, W), 255 ignored.
        classes: C.

    Returns:
        ``(targets, counts)``: the n values in the mask, uint8, and int32 (alphas, betas, steps, n,
        1 + C), background first.
    """
    betas, steps, alphas = *scores.shape[:2], scores.shape[2] - classes
    targets = np.bincount(target.ravel(), minlength=256)[:IGNORE].nonzero()[0].astype(np.uint8)
    rows = np.full(256, len(targets))  # a row more for what is ignored, dropped at the end
    rows[targets] = np.arange(len(targets))
    starts = rows[target] * classes
    counts = np.empty((alphas, betas, steps, len(targets), 1 + classes), np.int32)
    for place in np.ndindex(betas, steps):
        maps = upsample(scores[place], target.shape).numpy()
        largest, winner = maps[alphas], np.zeros(target.shape, np.uint8)
        for number, map in enumerate(maps[alphas + 1 :], 1):
            winner[map > largest] = number  # the first of equals wins, as argmax has it
            largest = np.maximum(largest, map)
        cells = starts + winner << 8
        for first in range(0, alphas, len(BITS[0])):
            # a bit for each background that wins: one histogram counts eight alphas
            group = maps[first : min(first + len(BITS[0]), alphas)]
            wins = np.zeros(target.shape, np.uint8)
            for bit, background in enumerate(group):
                wins |= (background >= largest).view(np.uint8) << bit
            histogram = np.bincount(
                (cells | wins).ravel(), minlength=(len(targets) + 1) * classes << 8
            ).reshape(-1, classes, 256)[:-1]
            total, lost = histogram.sum(-1), histogram @ BITS  # (n, C), (n, C, 8)
            for bit in range(len(group)):
                found = counts[first + bit, *place]
                found[:, 0] = lost[..., bit].sum(-1)
                found[:, 1:] = total - lost[..., bit]
    return targets, counts


def merge(job, ids):
    """The counts of some photos together: int64 (alphas, betas, steps, 1 + classes, 1 + classes),
    target first.
    """
    size = len(job.dataset.classes) + 1
    total = np.zeros((*map(len, job.grid), size, size), np.int64)
    for id in ids:
        kept = _load(job.path(id))
        total[..., kept["targets"][:, None], kept["predictions"]] += kept["counts"]
    return total


def compare(values, combinations, *, data, folders, made, cache):
    """What the random_walk stage scores after the walk, at several constants.

    What is computed is kept under ``affinities/`` and ``walk_sweeps/`` of ``cache``, in folders
    whose names change with all that it depends on; what is there is not computed again.

    Args:
        values: of every parameter of the stage, the folders of its inputs among them, whose stages
            are completed.
        combinations: ``(background_alpha, beta, steps)`` of each.
        data: the open dataset.
        folders: of the completed ``infer_cam`` and ``train_affinity``, by name.
        made: what identifies the run that each folder's files are of, by name; plain values.
        cache: folder for what is computed.

    Returns:
        for each combination ``{"walk_miou/<list>": percent}`` of the lists that
        ``evaluation.scored_lists`` tells of the photos with a mask.

    Raises:
        InputError: no photo of ``score_split`` has a mask, or a photo cannot be used.
    """
    lists = evaluation.scored_lists(
        data, values["score_split"], tuning_photos=values["tuning_photos"]
    )
    if not lists:
        raise InputError(
            f"random_walk.score_split: no photo of '{values['score_split']}' has a mask, and walks "
            "are compared against masks; name another list"
        )
    grid = Grid(*(tuple(sorted(set(axis))) for axis in zip(*combinations, strict=True)))
    names = ("output_stride", "reduction", "radius", "border_pairs", "flip")
    affinity_key = [data.digest(), made["train_affinity"], [values[n] for n in names]]
    job = WalkSweepJob(
        data,
        folders["infer_cam"] / "cams",
        models.open_network(
            folders["train_affinity"], "affinity", output_stride=values["output_stride"]
        ).network,
        Walk(**{name: values[name] for name in (*names[1:], "restore")}),
        grid,
        _folder(cache / "affinities", affinity_key),
        _folder(cache / "walk_sweeps", [affinity_key, made["infer_cam"], grid, values["restore"]]),
    )
    infer(
        lists[values["score_split"]],
        job,
        label=f"{len(combinations)} walks",
        processes=values["processes"],
    )
    scores = {name: _miou(merge(job, members)) for name, members in lists.items()}
    return [
        {
            f"walk_miou/{name}": 100 * miou[tuple(map(tuple.index, grid, combination))]
            for name, miou in scores.items()
        }
        for combination in combinations
    ]


def _miou(counts):
    """Mean IoU in [0, 1] of confusion counts (..., classes, classes)."""
    result = np.empty(counts.shape[:-2])
    for place in np.ndindex(result.shape):
        matrix = ConfusionMatrix(counts.shape[-1])
        matrix.matrix = counts[place]
        result[place] = matrix.miou()
    return result


def _folder(parent, key):
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=6).hexdigest()
    return parent / digest


def _load(path):
    try:
        local = mirror.download_file(path)
        with local.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # zip and numpy raise many kinds for a damaged file
        raise InputError(
            f"{path}: not readable ({reason(error)}); delete it and sweep again"
        ) from None
