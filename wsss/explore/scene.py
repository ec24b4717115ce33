"""One photo under the lens: maps, affinities, walk and labels at any setting.

What is dear (both networks, the CRF's lattice) is computed once a photo; what hangs on a setting is
computed again when that setting changes.
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
from wsss.cam import multi_scale_cam
from wsss.crf import DenseCRF
from wsss.errors import InputError
from wsss.explore.one_cell import walker_ends
from wsss.geometry import upsample
from wsss.lab import lineage, paths
from wsss.metrics import ConfusionMatrix
from wsss.photos.map_photos import ready
from wsss.synthesis import AFFINITY_STRIDE, boundaries, label_map, walk_scores


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
        output_stride: pixels a cell of AffinityNet's trunk; 0 as trained.

    Raises:
        InputError: there is no completed run, or it is of other classes.
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


def open_scene(data, networks, walk, id, *, scales=(1.0,), flip=True, power=1.0, preview_side=256):
    """The ``Scene`` of a photo of a dataset.

    Args:
        data, networks: of ``datasets.open`` and ``open_networks``.
        walk: a ``synthesis.Walk``, of which the affinities' settings are taken.
        id: of the photo.
        scales, flip, power: of the activation maps, see ``cam.multi_scale_cam``.
        preview_side: see ``Scene``.

    Raises:
        InputError: the photo or its labels are missing, or it has none.
    """
    image, classes = data.image(id), data.labels(id)
    if not classes:
        raise InputError(f"photo {id} has no image labels, so nothing to look for; take another")
    cams = multi_scale_cam(networks.cam, image, classes, scales=scales, flip=flip, power=power)
    affinity = walk.affinities(networks.affinity, image)
    mask = data.mask(id) if data.mask_path(id).exists() else None
    return Scene(
        image,
        classes,
        cams.cpu().numpy(),
        affinity.cpu(),
        names=data.classes,
        mask=mask,
        preview_side=preview_side,
    )


class Scene:
    """A photo with its maps and affinities, and what comes of them at any setting.

    Settings are a ``synthesis.Walk``. The last scores are kept, for what else hangs on them.

    Args:
        image: uint8 RGB (H, W, 3).
        classes: numbers of the present classes, from 1.
        cams: float32 (C, ceil(H/4), ceil(W/4)) in [0, 1], of the present classes.
        affinity: float32 (K, ceil(H/8), ceil(W/8)) in [0, 1], on the CPU.
        names: of all classes of the dataset, in the order of their numbers.
        mask: uint8 (H, W), 255 ignored; None where there is none.
        preview_side: pixels; pictures, and the CRF's preview, are at most so long on a side.
    """

    def __init__(self, image, classes, cams, affinity, *, names, mask=None, preview_side=256):
        self.image, self.classes, self.names, self.mask = image, list(classes), names, mask
        self.cams, self.affinity = cams, affinity
        self.size = image.shape[:2]
        self.cells = tuple(affinity.shape[-2:])
        self.shrink = max(1.0, max(self.size) / preview_side)  # photo's over the preview's size
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
        return boundaries(self.affinity)

    @cached_property
    def _maps(self):
        return upsample(self.cams, self.size).numpy()

    def cam_labels(self, threshold):
        """Labels of the maps alone, uint8 (H, W): background where none exceeds the threshold."""
        background = np.full((1, *self.size), threshold, np.float32)
        return label_map(np.concatenate([background, self._maps]), self.classes)

    def walked(self, walk, times):
        """Background and class maps after several numbers of steps, in place of ``walk.steps``:
        float32 (len(times), 1 + C, h, w), at the price of the longest.
        """
        return walk_scores(self.cams, self.affinity, replace(walk, steps=tuple(times)))

    def scores(self, walk):
        """Scores of every pixel after the walk: float32 (1 + C, H, W)."""
        if self._scores[0] != walk:
            scores = walk_scores(self.cams, self.affinity, walk)
            self._scores = walk, upsample(scores, self.size).numpy()
        return self._scores[1]

    def plain_labels(self, scores):
        """Labels of scores (1 + C, H, W) as they are: uint8 (H, W)."""
        return label_map(scores, self.classes)

    def crf_labels(self, scores, walk, *, preview=False):
        """Labels of scores (1 + C, H, W) after dense CRF, uint8 (H, W), as the chain has them.

        With ``preview`` the CRF sees the photo no longer than ``preview_side``, its kernels'
        widths shrunk alike, and its marginals are enlarged: a quarter of the work at half the
        side. Blurred masks of 20 photos of VOC as scores: 99.0 % of the pixels got the label of
        the full size; 96.5 % with the widths left as they were.
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
        """IoU of a label map (H, W) against the mask: name to a number in [0, 1], of the classes
        that the photo or the label map shows; None without a mask.
        """
        if self.mask is None:
            return None
        matrix = ConfusionMatrix(len(self.names) + 1)
        matrix.update(labels, self.mask)
        every = zip(("background", *self.names), matrix.iou(), strict=True)
        return {name: float(value) for name, value in every if not np.isnan(value)}

    def cell_at(self, y, x):
        """The cell, (row, column), nearest to a pixel: cell i stands on pixel 8 i."""
        return tuple(
            min((place + AFFINITY_STRIDE // 2) // AFFINITY_STRIDE, count - 1)
            for place, count in zip((y, x), self.cells, strict=True)
        )

    def walker(self, cell, walk, times):
        """Where a walker that starts on a cell is after several numbers of steps: ``walker_ends``,
        float32 (len(times), h, w).
        """
        ends = walker_ends(
            self.affinity, cell, beta=walk.beta, steps=tuple(times), radius=walk.radius
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
