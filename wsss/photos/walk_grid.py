"""Label quality at every combination of background alpha, beta and steps (equations 2, 11 and 12),
in one pass over the photos.

``T^t`` is linear: the class maps are walked once per beta, with a background score per alpha as
further maps, and one recurrence yields every t. Interpolation is linear too: the classes are
upsampled, and their maximum found, once for all alphas. The labels are those of ``jobs.walk_job``
without dense CRF, bit for bit.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from wsss import cam, models
from wsss.affinity import STRIDE
from wsss.datasets import Dataset
from wsss.errors import InputError, reason
from wsss.geometry import upsample
from wsss.io import artifacts, atomic
from wsss.metrics import mean_iou
from wsss.photos import evaluation
from wsss.photos.jobs import Job
from wsss.photos.map_photos import infer
from wsss.random_walk import random_walk
from wsss.runtime.devices import pick_device
from wsss.synthesis import Walk, restore_maxima


class Grid(NamedTuple):
    """The values to combine, each in ascending order."""

    alphas: tuple
    betas: tuple
    steps: tuple


def sweep_job(
    dataset: Dataset,
    cams: Path,
    *,
    network: nn.Module | None,
    affinities: Path,
    folder: Path,
    walk: Walk,
    grid: Grid,
) -> Job:
    """Activation maps ``cams/<id>.npz``, affinities and masks to confusion counts of every
    combination: ``folder/<id>.npz``, some kilobytes each. ``walk`` has the constants they share.

    ``affinities`` is a folder of ``<id>.npz``, read if they exist, else computed and stored as
    float32, since float16 would change ten pixels in a million. ``network`` is an AffinityNet; None
    if all affinities are stored.
    """
    compute = partial(_compute_walks, dataset, cams, affinities, walk, grid)
    return Job([(folder, ".npz")], compute, partial(_save_counts, dataset), network)


def _compute_walks(dataset, cams, affinities, walk, grid, network, photo_id):
    classes, maps = artifacts.load_cams(cams / f"{photo_id}.npz")
    path = affinities / f"{photo_id}.npz"
    if atomic.is_whole(path):
        kept = _load(path, affinity=("f", 3), size=("i", 1))
        affinity, size = torch.from_numpy(kept["affinity"]).to(pick_device()), kept["size"].tolist()
    else:
        image = dataset.image(photo_id)
        affinity, size = walk.affinities(network, image), image.shape[:2]
        with atomic.write(path) as partial_file, partial_file.open("wb") as file:
            np.savez(file, affinity=affinity.cpu().numpy(), size=size)
    return classes, tuple(size), walk_all(maps, affinity, grid=grid, walk=walk).cpu()


def _save_counts(dataset, photo_id, payload, path):
    classes, size, scores = payload
    target = dataset.mask(photo_id)
    if target.shape != size:
        photo, mask = (f"{width}x{height}" for height, width in (size, target.shape))
        raise InputError(f"photo {photo_id} is {photo} but its mask is {mask}; replace the mask")
    targets, counts = count(scores, target, classes=len(classes))
    with atomic.write(path) as partial_file, partial_file.open("wb") as file:
        np.savez_compressed(file, targets=targets, predictions=[0, *classes], counts=counts)


def walk_all(
    cams: np.ndarray | torch.Tensor, affinity: torch.Tensor, *, grid: Grid, walk: Walk
) -> torch.Tensor:
    """``synthesis.walk_scores`` at every combination: float32 (betas, steps, alphas + C, h, w), the
    alphas' backgrounds first, then the C classes that all alphas share.
    """
    step = STRIDE // cam.STRIDE
    maps = torch.as_tensor(cams)[:, ::step, ::step].to(affinity.device)
    backgrounds = [cam.background_score(maps, alpha)[None] for alpha in grid.alphas]
    scores = torch.cat([*backgrounds, maps])
    walked = [
        random_walk(scores, affinity, beta=beta, steps=grid.steps, radius=walk.radius)
        for beta in grid.betas
    ]
    return restore_maxima(torch.stack(walked), walk.restore, backgrounds=len(backgrounds))


def count(
    scores: torch.Tensor, target: np.ndarray, *, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Confusion counts of the labels of every combination: ``scores`` of ``walk_all``, for C
    ``classes``, against a uint8 mask (H, W), 255 ignored.

    Returns ``(targets, counts)``: the n values in the mask, uint8, and int32 (alphas, betas, steps,
    n, 1 + C), background first.
    """
    betas, steps, alphas = *scores.shape[:2], scores.shape[2] - classes
    targets = np.unique(target[target != artifacts.IGNORE])
    rows = np.full(256, len(targets))  # one more row for ignored pixels, dropped at the end
    rows[targets] = np.arange(len(targets))
    starts = rows[target] * classes
    counts = np.empty((alphas, betas, steps, len(targets), 1 + classes), np.int32)

    def histogram(cells):
        found = np.bincount(cells.ravel(), minlength=(len(targets) + 1) * classes)
        return found.reshape(-1, classes)[:-1]

    for place in np.ndindex(betas, steps):
        maps = upsample(scores[place], target.shape).numpy()
        largest, cells = maps[alphas:].max(0), starts + maps[alphas:].argmax(0)
        winners = histogram(cells)
        for alpha, background in enumerate(maps[:alphas]):
            lost = histogram(cells[background >= largest])
            counts[alpha, *place, :, 0] = lost.sum(-1)
            counts[alpha, *place, :, 1:] = winners - lost
    return targets, counts


def merge(folder: Path, ids: Iterable[str], *, grid: Grid, num_classes: int) -> np.ndarray:
    """Sum the counts of photos: int64 (alphas, betas, steps, 1 + num_classes, 1 + num_classes),
    target first.
    """
    size = num_classes + 1
    total = np.zeros((*map(len, grid), size, size), np.int64)
    whole = {"targets": ("u", 1), "predictions": ("i", 1), "counts": ("i", 5)}
    for photo_id in ids:
        kept = _load(folder / f"{photo_id}.npz", **whole)
        total[..., kept["targets"][:, None], kept["predictions"]] += kept["counts"]
    return total


def compare(
    values: Mapping,
    combinations: Sequence[tuple[float, float, int]],
    *,
    data: Dataset,
    folders: Mapping[str, Path],
    made: Mapping[str, object],
    cache: Path,
) -> list[dict[str, float]]:
    """The scores of the random_walk stage after the walk, at several constants:
    ``{"walk_miou/<list>": percent}`` per combination, for the lists of ``eval_splits``. Affinities
    and counts are stored in ``cache``, in folders named by a digest of all they depend on, and
    reused. Raises InputError if no photo of ``score_split`` has a mask, or a photo cannot be used.

    Args:
        values: the stage's parameters.
        combinations: of ``(background_alpha, beta, steps)``.
        folders: of the completed ``infer_cam`` and ``train_affinity``, by name.
        made: plain values that identify the run of each folder's files, by name.
    """
    split, stride = values["score_split"], values["output_stride"]
    lists = evaluation.eval_splits(data, split, tuning_photos=values["tuning_photos"])
    if not lists:
        raise InputError(
            f"random_walk.score_split: no photo of '{split}' has a mask, and walks are compared "
            "against masks; name another list"
        )
    grid = Grid(*(tuple(sorted(set(axis))) for axis in zip(*combinations, strict=True)))
    shared = {name: values[name] for name in ("reduction", "radius", "border_pairs", "flip")}
    affinity_key = [data.digest(), made["train_affinity"], [stride, *shared.values()]]
    counts_key = [affinity_key, made["infer_cam"], grid, values["restore"]]
    folder = _folder(cache / "walk_sweeps", counts_key)
    saved = models.open_network(folders["train_affinity"], "affinity", output_stride=stride)
    job = sweep_job(
        data,
        folders["infer_cam"] / "cams",
        network=saved.network,
        affinities=_folder(cache / "affinities", affinity_key),
        folder=folder,
        walk=Walk(**shared, restore=values["restore"]),
        grid=grid,
    )
    infer(lists[split], job, label=f"{len(combinations)} walks", processes=values["processes"])
    classes = len(data.classes)
    scores = {
        f"walk_miou/{name}": mean_iou(merge(folder, ids, grid=grid, num_classes=classes))
        for name, ids in lists.items()
    }
    places = [tuple(map(tuple.index, grid, combination)) for combination in combinations]
    return [{name: 100 * miou[place] for name, miou in scores.items()} for place in places]


def _folder(parent, key):
    return parent / hashlib.blake2b(json.dumps(key).encode(), digest_size=6).hexdigest()


def _load(path, **wanted):
    try:
        return artifacts.read_arrays(path, **wanted)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not readable ({reason(error)}); delete it and sweep again"
        ) from None
