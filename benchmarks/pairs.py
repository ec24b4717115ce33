"""What ``python -m benchmarks`` measures: each hot step at its real size, beside its definition in
``reference.py``, and what it must reach.

A function makes the inputs and returns a ``Pair``; ``PAIRS`` names them in the order of the table.
"""

import itertools
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import photos, reference, training
from benchmarks.harness import Aim, Pair
from wsss.affinity import affinity_loss, neighbour_offsets, pair_distance, pair_targets
from wsss.geometry import upsample
from wsss.metrics import ConfusionMatrix
from wsss.photos import walk_grid
from wsss.random_walk import random_walk
from wsss.synthesis import Walk, label_map, walk_scores

GRID = (47, 63)  # cells of a photo of 375 x 500 at stride 8


def walk(height, width, aim, *, plain=reference.random_walk):
    """Four maps over random affinities, t = 256; the plain way squares the dense matrix."""
    scores, affinity = _maps(height, width)
    return Pair(
        plain=lambda: plain(scores, affinity),
        fast=lambda: random_walk(scores, affinity),
        aim=aim,
        allowed=1e-5,
    )


def walk_at_once():
    """Six numbers of steps at once beside the longest alone, which stands as the plain way."""
    scores, affinity = _maps(*GRID)
    steps = (16, 32, 64, 128, 256, 512)
    return Pair(
        plain=lambda: random_walk(scores, affinity, steps=512),
        fast=lambda: random_walk(scores, affinity, steps=steps),
        aim=Aim("price", 1.3),
        difference=lambda alone, all_: float((alone - all_[-1]).abs().max()),
        allowed=1e-5,
    )


def walk_constants():
    """Confusion counts of a photo's labels at 60 combinations of alpha, beta and t: one after the
    other, as the stage scores them, or together; pixels counted elsewhere.
    """
    scores, affinity = _maps(*GRID)
    cams = F.interpolate(scores[None, :2], (94, 125), mode="bilinear")[0].clamp(0, 1)
    target = np.random.default_rng(0).choice([0, 1, 2, 255], (375, 500)).astype(np.uint8)
    grid = walk_grid.Grid((2.0, 4.0, 8.0, 12.0, 16.0), (4.0, 8.0, 16.0), (32, 64, 128, 256))

    def plain():
        counts = []
        for alpha, beta, steps in itertools.product(*grid):
            walk = Walk(background_alpha=alpha, beta=beta, steps=steps)
            walked = upsample(walk_scores(cams, affinity, walk=walk), target.shape).numpy()
            matrix = ConfusionMatrix(3)
            matrix.update(label_map(walked, [1, 2]), target)
            counts.append(matrix.matrix)
        return np.stack(counts).reshape(*map(len, grid), 3, 3)

    def fast():
        walked = walk_grid.walk_all(cams, affinity, grid=grid, walk=Walk())
        return walk_grid.count(walked, target, classes=2)[1]

    return Pair(
        plain=plain,
        fast=fast,
        aim=Aim("ratio", 5),
        difference=lambda one, other: float(np.abs(one - other).sum()) / 2,
    )


def distances():
    """Distances of all pairs of AffinityNet's features at crop 448, and their gradient."""
    features = _random(4, 448, 56, 56)
    offsets, ones, others = reference.pairs(56, 56, 5)
    weights = _random(4, len(neighbour_offsets(5)), 56, 56, seed=1)
    picked = weights[:, offsets, ones // 56, ones % 56]  # the same, pair by pair

    def plain():
        leaf = features.clone().requires_grad_()
        distance = reference.pair_distance(leaf, ones, others)
        distance.backward(picked)
        return distance.detach(), leaf.grad

    def fast():
        leaf = features.clone().requires_grad_()
        distance = pair_distance(leaf)
        distance.backward(weights)
        return distance.detach()[:, offsets, ones // 56, ones % 56], leaf.grad

    def difference(plain, fast):
        return max(float((a - b).abs().max()) for a, b in zip(plain, fast, strict=True))

    return Pair(plain, fast, Aim("ratio", 12), difference, 1e-5)


def loss():
    """Targets of eight crops, the loss and its gradient; the plain way makes float masks sample by
    sample, as a loader would.
    """
    features = _random(8, 16, 56, 56)
    labels = torch.from_numpy(_regions(8, 56, 56))
    _, ones, others = reference.pairs(56, 56, 5)
    gathered = reference.pair_distance(features, ones, others).requires_grad_()
    distance = pair_distance(features).requires_grad_()

    def plain():
        gathered.grad = None
        samples = [reference.pair_masks(each, *ends) for each in labels.numpy()]
        masks = [torch.from_numpy(np.stack(kind)) for kind in zip(*samples, strict=True)]
        result = reference.affinity_loss(gathered, *masks)
        result.backward()
        return float(result.detach())

    def fast():
        distance.grad = None
        result = affinity_loss(distance, pair_targets(labels)).total
        result.backward()
        return float(result.detach())

    ends = ones.numpy(), others.numpy()
    return Pair(plain, fast, Aim("ratio", 5), lambda one, other: abs(one - other), 1e-5)


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _maps(height, width):
    """Scores (4, H, W) and affinities (K, H, W) of smooth random features."""
    scores = _random(4, height, width).abs()
    coarse = _random(1, 16, height // 8 + 1, width // 8 + 1, seed=1)
    features = F.interpolate(coarse, (height, width), mode="bicubic")
    return scores / scores.max(), torch.exp(-pair_distance(features)[0])


def _regions(count, height, width):
    """Affinity labels (count, H, W) in patches of 8 cells: two fifths background, two fifths two
    classes, a fifth neutral.
    """
    patches = np.random.default_rng(0).choice(
        np.uint8([0, 0, 1, 2, 255]), (count, height // 8, width // 8)
    )
    return patches.repeat(8, 1).repeat(8, 2)


PAIRS = {
    "random walk, 47 x 63, 4 maps, t = 256": partial(walk, *GRID, Aim("ratio", 100)),
    "random walk, 64 x 64": partial(walk, 64, 64, Aim("ratio", 250)),
    "random walk, 128 x 128 (plain: 256 sparse products)": partial(
        walk, 128, 128, Aim("seconds", 1), plain=reference.step_by_step
    ),
    "random walk, 256 x 256 (plain: 256 sparse products)": partial(
        walk, 256, 256, Aim("seconds", 5), plain=reference.step_by_step
    ),
    "random walk, six t at once (plain: t = 512 alone)": walk_at_once,
    "walk's constants, 60 of a photo (plain: one by one)": walk_constants,
    "pair distances and gradient, 4 x 448 x 56 x 56": distances,
    "affinity targets, loss and gradient, 8 x 56 x 56": loss,
    "dense CRF, both alphas of a photo": photos.crf_alphas,
    "dense CRF, photos in 2 processes (plain: 1)": photos.crf_pool,
    "label synthesis of a photo, ResNet-38 (plain: float32, no CRF)": photos.resnet38,
    "label synthesis, mIoU of 50 photos": photos.labels,
    "activation maps, 50 photos, 4 scales, mirrored": photos.cams,
    "evaluation of label maps": photos.evaluation,
    "disk for activation maps": photos.disk,
    "identity of 10,000 unchanged files (plain: hash all)": photos.identity,
    "training in 2 processes, small, generated photos (plain: 1)": partial(
        training.processes, "small", crop=88, photos=240
    ),
    "training in 2 processes, MobileNetV2, VOC, crops of 256 (plain: 1)": partial(
        *(training.processes, "mobilenet_v2"), crop=256, photos=32, long_side=(300, 500), voc=True
    ),
}
