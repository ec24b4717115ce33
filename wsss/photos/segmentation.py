"""Class probabilities and labels of photos by a segmentation network (paper, section 3.5)."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wsss.cam import multi_scale
from wsss.crf import CrfParams, DenseCRF
from wsss.datasets import Dataset
from wsss.geometry import upsample
from wsss.io import artifacts
from wsss.models import RandomWalkSegmenter
from wsss.photos.jobs import Job
from wsss.runtime.devices import as_batch, autocast
from wsss.synthesis import Walk, label_map, walk_probabilities


@torch.inference_mode()
def segment(
    network: nn.Module, image: np.ndarray, *, scales: Sequence[float] = (1.0,), flip: bool = False
) -> torch.Tensor:
    """Class probabilities of a photo, uint8 RGB (H, W, 3), by a network in evaluation mode: float32
    (classes, H, W), background first, summing to 1 over the classes.

    They are averaged over scales, factors of the photo's size, and mirror images. Those of a
    ``RandomWalkSegmenter`` are taken after its walk.
    """
    device = next(network.parameters()).device

    def predict(images):
        with autocast(device):
            scores = network(images)
        return upsample(scores.float(), images.shape[-2:]).softmax(1)

    scaled = multi_scale(predict, as_batch(image, device), scales=scales, flip=flip)
    total = sum(scaled, torch.zeros(()))
    probabilities = total / total.sum(0)
    if not isinstance(network, RandomWalkSegmenter):
        return probabilities
    walk = Walk(**network.walk)
    return walk_probabilities(probabilities, walk.affinities(network.affinity, image), walk=walk)


def _save_label_map(photo_id, scores, *, image, classes, path):
    artifacts.save_labels(path, label_map(scores, classes))


def segment_job(
    dataset: Dataset,
    network: nn.Module,
    *,
    folder: Path,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    crf: CrfParams | None = None,
    crf_steps: int = 10,
    save: Callable = _save_label_map,
) -> Job:
    """Photos to label maps ``folder/<id>.png``; see ``segment``. ``crf`` is that of a dense CRF on
    the probabilities, None skips it; ``save``, given ``(photo_id, scores, *, image, classes,
    path)``, writes the label map of scores (1 + C, H, W) to ``path``, and other files.
    """
    compute = partial(_compute_probabilities, dataset, scales, flip)
    return Job([(folder, ".png")], compute, partial(_save_labels, crf, crf_steps, save), network)


def _compute_probabilities(dataset, scales, flip, network, photo_id):
    image = dataset.image(photo_id)
    return image, segment(network, image, scales=scales, flip=flip).cpu().numpy()


def _save_labels(crf, crf_steps, save, photo_id, payload, path):
    image, scores = payload
    if crf:
        scores = DenseCRF(image, crf).infer(scores, crf_steps)
    save(photo_id, scores, image=image, classes=range(1, len(scores)), path=path)
