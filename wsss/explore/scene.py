"""One photo in detail: maps, affinities, walk and labels at any setting.

Slow parts (both networks, the CRF's lattice) are computed once per photo; parts that depend on a
setting are computed again when it changes.
"""

from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from wsss import models
from wsss.affinity import STRIDE, boundaries
from wsss.cam import multi_scale_cam
from wsss.crf import DenseCRF
from wsss.errors import InputError
from wsss.explore.one_cell import walker_ends
from wsss.geometry import upsample
from wsss.lab import lineage, paths
from wsss.metrics import ConfusionMatrix
from wsss.models.ready import ready
from wsss.synthesis import label_map, walk_scores


class Networks(NamedTuple):
    """Two trained networks, ready for inference."""

    cam: nn.Module
    affinity: nn.Module
    settings: dict  # how affinities are read: arguments of ``synthesis.Walk``


def open_networks(data, dataset, *, train_cam_run="", train_affinity_run="", output_stride=0):
    """The CAM network and the AffinityNet of completed runs.

    Args:
        data: the open dataset, whose classes the CAM network must know.
        dataset: its name.
        train_cam_run, train_affinity_run: folders of completed stages; empty takes the latest.
        output_stride: pixels a cell of AffinityNet's backbone; 0 keeps the trained one.

    Raises:
        InputError: no completed run, or one with other classes.
    """
    found = {}
    for name, given in (("train_cam", train_cam_run), ("train_affinity", train_affinity_run)):
        try:
            found[name] = paths.from_root(given) if given else lineage.latest(name, data.digest())
        except InputError:
            experiment = dataset if dataset == "shapes" else "YOURS"
            raise InputError(
                f"no trained networks yet: {paths.outputs_root()} holds no completed {name} on "
                f"dataset '{dataset}'; run first: wsss run experiments/{experiment}.yaml --until "
                "train_affinity"
            ) from None
    cam = models.open_network(found["train_cam"], "cam")
    if cam.classes != data.classes:
        raise InputError(
            f"{found['train_cam']}: its network knows the classes {', '.join(cam.classes)}, but "
            f"the dataset has {', '.join(data.classes)}; give a run on this dataset"
        )
    affinity = models.open_network(found["train_affinity"], "affinity", output_stride=output_stride)
    return Networks(ready(cam.network), ready(affinity.network), affinity.settings)


def open_scene(
    photo_id, *, data, networks, walk, scales=(1.0,), flip=True, cam_power=1.0, preview_side=256
):
    """The ``Scene`` of a photo of a dataset.

    Args:
        photo_id: of the photo.
        data, networks: of ``datasets.open`` and ``open_networks``.
        walk: a ``synthesis.Walk``, for the affinities' settings.
        scales, flip, cam_power: of the activation maps, see ``cam.multi_scale_cam``.
        preview_side: see ``Scene``.

    Raises:
        InputError: the photo or its labels are missing, or it has no label.
    """
    image, classes = data.image(photo_id), data.labels(photo_id)
    if not classes:
        raise InputError(f"photo {photo_id}: expected image labels but it has none; take another")
    cams = multi_scale_cam(
        networks.cam, image, classes, scales=scales, flip=flip, cam_power=cam_power
    )
    affinity = walk.affinities(networks.affinity, image)
    return Scene(
        image,
        classes,
        cams=cams.cpu().numpy(),
        affinity=affinity.cpu(),
        radius=walk.radius,
        names=data.classes,
        mask=data.mask(photo_id) if data.mask_path(photo_id).exists() else None,
        preview_side=preview_side,
    )


class Scene:
    """A photo with its maps and affinities, and their results at any setting.

    Settings are a ``synthesis.Walk``. The last scores are kept for other results that need them.

    Args:
        image: uint8 RGB (H, W, 3).
        classes: numbers of the present classes, from 1.
        cams: float32 (C, ceil(H/4), ceil(W/4)) in [0, 1], of the present classes.
        affinity: float32 (K, ceil(H/8), ceil(W/8)) in [0, 1], on the CPU.
        radius: of the affinities, in cells.
        names: of all classes of the dataset, in the order of their numbers.
        mask: uint8 (H, W), 255 ignored; None where there is none.
        preview_side: pixels; largest side of pictures and of the CRF's preview.
    """

    def __init__(
        self, image, classes, *, cams, affinity, radius, names, mask=None, preview_side=256
    ):
        self.image, self.classes, self.names, self.mask = image, list(classes), names, mask
        self.cams, self.affinity, self.radius = cams, affinity, radius
        self.size = image.shape[:2]
        self.cells = tuple(affinity.shape[-2:])
        self.shrink = max(1.0, max(self.size) / preview_side)  # photo's side over the preview's
        height, width = (max(1, round(side / self.shrink)) for side in self.size)
        # uint8 (H', W', 3)
        self.small = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
        self._scores = None, None
        self._lattices = {}

    @cached_property
    def largest_map(self):
        """The largest activation map at each pixel: float32 (H, W) in [0, 1]."""
        return self._maps.max(0)

    @cached_property
    def borders(self):
        """One minus the mean affinity of each cell to its neighbours: (h, w) in [0, 1]."""
        return boundaries(self.affinity, radius=self.radius)

    @cached_property
    def _maps(self):
        return upsample(self.cams, self.size).numpy()

    def cam_labels(self, threshold):
        """Labels of the maps alone, uint8 (H, W): background where none exceeds the threshold."""
        background = np.full((1, *self.size), threshold, np.float32)
        return label_map(np.concatenate([background, self._maps]), self.classes)

    def walked(self, walk, times):
        """Background and class maps after each of several numbers of steps (instead of
        ``walk.steps``), in the time of the longest: float32 (len(times), 1 + C, h, w).
        """
        return walk_scores(self.cams, self.affinity, walk=replace(walk, steps=tuple(times)))

    def scores(self, walk):
        """Scores of every pixel after the walk: float32 (1 + C, H, W)."""
        if self._scores[0] != walk:
            scores = walk_scores(self.cams, self.affinity, walk=walk)
            self._scores = walk, upsample(scores, self.size).numpy()
        return self._scores[1]

    def plain_labels(self, scores):
        """Labels of scores (1 + C, H, W) as they are: uint8 (H, W)."""
        return label_map(scores, self.classes)

    def crf_labels(self, scores, walk, *, preview=False):
        """Labels of scores (1 + C, H, W) after dense CRF, uint8 (H, W), as ``random_walk`` makes
        them.

        With ``preview`` the CRF runs on the photo shrunk to ``preview_side``, with its kernels
        shrunk alike, and its marginals are enlarged: a quarter of the work at half the side. With
        blurred masks of 20 VOC photos as scores, 99.0 % of the pixels got the label of the full
        size; 96.5 % with kernels of the original width.
        """
        if not preview or self.shrink == 1:
            marginals = self._lattice(self.image, walk.crf).infer(
                scores**walk.crf_sharpness, walk.crf_steps
            )
            return label_map(marginals, self.classes)
        narrow = replace(
            walk.crf,
            gaussian_sxy=walk.crf.gaussian_sxy / self.shrink,
            bilateral_sxy=walk.crf.bilateral_sxy / self.shrink,
        )
        shrunk = resized(scores, self.small.shape[:2]) ** walk.crf_sharpness
        marginals = self._lattice(self.small, narrow).infer(shrunk, walk.crf_steps)
        return label_map(resized(marginals, self.size), self.classes)

    def iou(self, labels):
        """IoU of a label map (H, W) against the mask: class name to a number in [0, 1], of the
        classes that occur in either; None without a mask.
        """
        if self.mask is None:
            return None
        matrix = ConfusionMatrix(len(self.names) + 1)
        matrix.update(labels, self.mask)
        every = zip(("background", *self.names), matrix.iou(), strict=True)
        return {name: float(value) for name, value in every if not np.isnan(value)}

    def cell_at(self, y, x):
        """The cell, (row, column), nearest to a pixel: cell i lies on pixel 8 i."""
        return tuple(
            min((place + STRIDE // 2) // STRIDE, count - 1)
            for place, count in zip((y, x), self.cells, strict=True)
        )

    def walker(self, cell, walk, *, times):
        """Where a walker from a cell is after each of several numbers of steps: ``walker_ends``,
        float32 (len(times), h, w).
        """
        ends = walker_ends(
            self.affinity, cell, beta=walk.beta, steps=tuple(times), radius=self.radius
        )
        return ends.numpy()

    def _lattice(self, image, params):
        key = image.shape, params
        if key not in self._lattices:
            self._lattices[key] = DenseCRF(image, params)
        return self._lattices[key]


def resized(maps, size):
    """Maps (C, H, W) resampled to other pixels of the same photo, float32 (C, *size)."""
    return F.interpolate(
        torch.as_tensor(maps)[None], size, mode="bilinear", align_corners=False, antialias=True
    )[0].numpy()
