"""One photo in detail: maps, affinities, walk and labels at any setting. Slow parts (both networks,
the CRF's lattice) are computed once per photo.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from wsss import datasets, models
from wsss.affinity import STRIDE, boundaries
from wsss.cam import multi_scale_cam
from wsss.crf import DenseCRF
from wsss.errors import InputError
from wsss.explore.one_cell import walker_ends
from wsss.geometry import upsample
from wsss.lab import paths
from wsss.lab.record import find_runs
from wsss.metrics import ConfusionMatrix
from wsss.models.ready import ready
from wsss.synthesis import Walk, label_map, walk_scores


class Networks(NamedTuple):
    """Two trained networks, ready for inference."""

    cam: nn.Module
    affinity: nn.Module
    settings: dict  # how affinities are read: arguments of ``synthesis.Walk``


def open_networks(
    data: datasets.Dataset,
    dataset: str,
    *,
    train_cam_run: str = "",
    train_affinity_run: str = "",
    output_stride: int = 0,
) -> Networks:
    """The CAM network and the AffinityNet of completed runs, named as for ``find_runs.find``; empty
    takes the latest. ``data`` is the open dataset, whose classes the CAM network must have, and
    ``dataset`` its name; ``output_stride`` is the pixels per cell of AffinityNet's backbone, 0
    keeps that of training. Raises InputError for no completed run, or one with other classes.
    """
    found = {}
    for name, given in (("train_cam", train_cam_run), ("train_affinity", train_affinity_run)):
        try:
            named = given or "latest"
            found[name] = find_runs.find(named, name, data_digest=data.digest())
        except InputError:
            if given:
                raise
            experiment = dataset if dataset == "shapes" else "YOURS"
            raise InputError(
                f"no trained networks yet: {paths.outputs_root()} holds no completed {name} on "
                f"dataset '{dataset}'; run first: wsss run experiments/{experiment}.yaml --until "
                "train_affinity"
            ) from None
    cam = models.open_network(found["train_cam"], "cam", classes=data.classes)
    affinity = models.open_network(found["train_affinity"], "affinity", output_stride=output_stride)
    return Networks(ready(cam.network), ready(affinity.network), affinity.settings)


def open_scene(
    photo_id: str,
    *,
    data: datasets.Dataset,
    networks: Networks,
    walk: Walk,
    preview_side: int = 256,
    **maps: Any,
) -> "Scene":
    """The ``Scene`` of a photo of a dataset; ``walk`` gives the affinities' settings, and ``maps``
    are the activation maps', those of ``cam.multi_scale_cam``. Raises InputError if the photo or
    its labels are missing, or it has no label.
    """
    image, classes = data.image(photo_id), data.labels(photo_id)
    if not classes:
        raise InputError(f"photo {photo_id}: expected image labels but it has none; take another")
    return Scene(
        image,
        classes,
        cams=multi_scale_cam(networks.cam, image, classes, **maps).cpu().numpy(),
        affinity=walk.affinities(networks.affinity, image).cpu(),
        radius=walk.radius,
        names=data.classes,
        mask=data.mask(photo_id) if data.mask_path(photo_id).exists() else None,
        preview_side=preview_side,
    )


@dataclass(eq=False)
class Scene:
    """A photo with its maps and affinities, and their results at any setting."""

    image: np.ndarray  # uint8 RGB (H, W, 3)
    classes: Sequence[int]  # the present ones, from 1
    _: KW_ONLY
    cams: np.ndarray  # float32 (C, ceil(H/4), ceil(W/4)) in [0, 1], of the present classes
    affinity: torch.Tensor  # float32 (K, ceil(H/8), ceil(W/8)) in [0, 1], on the CPU
    radius: int  # of the affinities, in cells
    names: Sequence[str]  # of all classes of the dataset, in the order of their numbers
    mask: np.ndarray | None = None  # uint8 (H, W), 255 ignored
    preview_side: int = 256  # pixels; largest side of pictures and of the CRF's preview

    def __post_init__(self):
        self.size, self.cells = self.image.shape[:2], self.affinity.shape[-2:]
        self.shrink = max(1.0, max(self.size) / self.preview_side)  # photo's side over preview's
        height, width = (max(1, round(side / self.shrink)) for side in self.size)
        preview = Image.fromarray(self.image).resize((width, height), Image.Resampling.BOX)
        self.small = np.array(preview)  # uint8 (H', W', 3)
        self._lattices = {}

    @cached_property
    def _maps(self):
        return upsample(self.cams, self.size).numpy()

    @cached_property
    def largest_map(self) -> np.ndarray:
        """The largest activation map at each pixel: float32 (H, W) in [0, 1]."""
        return self._maps.max(0)

    @cached_property
    def borders(self) -> np.ndarray:
        """One minus the mean affinity of each cell to its neighbours: (h, w) in [0, 1]."""
        return boundaries(self.affinity, radius=self.radius)

    def cam_labels(self, threshold: float) -> np.ndarray:
        """Labels of the maps alone, uint8 (H, W): background where none exceeds the threshold."""
        background = np.full((1, *self.size), threshold, np.float32)
        return self.plain_labels(np.concatenate([background, self._maps]))

    def scores(self, walk: Walk) -> np.ndarray:
        """Scores of every pixel after the walk: float32 (1 + C, H, W), or (len(walk.steps), 1 + C,
        H, W) of several numbers of steps.
        """
        return upsample(walk_scores(self.cams, self.affinity, walk=walk), self.size).numpy()

    def plain_labels(self, scores: np.ndarray) -> np.ndarray:
        """Labels of scores (1 + C, H, W) without a CRF: uint8 (H, W)."""
        return label_map(scores, self.classes)

    def crf_labels(self, scores: np.ndarray, walk: Walk, *, preview: bool = False) -> np.ndarray:
        """Labels of scores (1 + C, H, W) after dense CRF: uint8 (H, W).

        With ``preview`` the CRF runs on the photo shrunk to ``preview_side``, with its kernels
        shrunk alike, and its marginals are enlarged: a quarter of the work at half the side. With
        blurred masks of 20 VOC photos as scores, 99.0 % of the pixels got the label of the full
        size; 96.5 % with kernels of the original width.
        """
        image, params, small = self.image, walk.crf, preview and self.shrink > 1
        if small:
            image, scores = self.small, resized(scores, self.small.shape[:2])
            params = replace(
                params,
                gaussian_sxy=params.gaussian_sxy / self.shrink,
                bilateral_sxy=params.bilateral_sxy / self.shrink,
            )
        key = small, params
        if key not in self._lattices:
            self._lattices[key] = DenseCRF(image, params)
        marginals = self._lattices[key].infer(scores**walk.crf_sharpness, walk.crf_steps)
        return self.plain_labels(resized(marginals, self.size) if small else marginals)

    def iou(self, labels: np.ndarray) -> dict[str, float] | None:
        """IoU in [0, 1] of a label map (H, W) against the mask, per class that occurs in either;
        None without a mask.
        """
        if self.mask is None:
            return None
        matrix = ConfusionMatrix(len(self.names) + 1)
        matrix.update(labels, self.mask)
        scores = zip(("background", *self.names), matrix.iou(), strict=True)
        return {name: float(value) for name, value in scores if not np.isnan(value)}

    def cell_at(self, y: int, x: int) -> tuple[int, int]:
        """The cell, (row, column), nearest to a pixel: cell i lies on pixel 8 i."""
        (rows, columns), half = self.cells, STRIDE // 2
        return min((y + half) // STRIDE, rows - 1), min((x + half) // STRIDE, columns - 1)

    def walker(self, cell: tuple[int, int], walk: Walk) -> np.ndarray:
        """Where a walker from a cell is after ``walk.steps``, see ``walker_ends``: float32."""
        constants = {"beta": walk.beta, "steps": walk.steps, "radius": self.radius}
        return walker_ends(self.affinity, cell, **constants).numpy()


def resized(maps: np.ndarray | torch.Tensor, size: Sequence[int]) -> np.ndarray:
    """Maps (C, H, W) resampled to other pixels of the same photo, float32 (C, *size)."""
    return F.interpolate(
        torch.as_tensor(maps)[None], size, mode="bilinear", align_corners=False, antialias=True
    )[0].numpy()
