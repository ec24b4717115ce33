"""Jobs: the files to compute per photo, and those of label synthesis (paper, section 3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from wsss.cam import multi_scale_cam
from wsss.crf import CrfParams
from wsss.datasets import Dataset
from wsss.errors import InputError
from wsss.geometry import upsample
from wsss.io import artifacts, atomic
from wsss.synthesis import Walk, alpha_marginals, combine_alphas, crf_scores, label_map, walk_scores


@dataclass
class Job:
    """Photos to files, for ``map_photos.infer``. It is pickled, so its functions must be those of a
    module, with ``functools.partial`` for their settings.
    """

    outputs: Sequence[tuple[Path, str]]  # (folder, suffix) of each file; done once all are whole
    compute: Callable  # ``(network, photo_id) -> payload``, on the network's device
    save: Callable  # ``(photo_id, payload, *paths)``, on the CPU; writes each file atomically
    network: nn.Module | None = None  # made ready once per process; a ``ModuleList`` of several

    def paths(self, photo_id: str) -> list[Path]:
        return [folder / f"{photo_id}{suffix}" for folder, suffix in self.outputs]

    def done(self, photo_id: str) -> bool:
        return all(map(atomic.is_whole, self.paths(photo_id)))

    def predict(self, photo_id: str) -> object:
        return self.compute(self.network, photo_id)

    def postprocess(self, photo_id: str, payload: object) -> None:
        self.save(photo_id, payload, *self.paths(photo_id))


def cam_job(dataset: Dataset, network: nn.Module, *, folder: Path, **settings: Any) -> Job:
    """Photos to activation maps ``folder/<id>.npz`` (section 3.1); ``settings`` are those of
    ``multi_scale_cam``.
    """
    compute = partial(_compute_cams, dataset, settings)
    return Job([(folder, ".npz")], compute, _save_cams, network)


def _compute_cams(dataset, settings, network, photo_id):
    classes = dataset.labels(photo_id)
    cams = multi_scale_cam(network, dataset.image(photo_id), classes, **settings)
    return classes, cams.cpu().numpy()


def _save_cams(photo_id, payload, path):
    artifacts.save_cams(path, payload[0], cams=payload[1])


def affinity_label_job(
    dataset: Dataset,
    cams: Path,
    *,
    folder: Path,
    alpha_low: float,
    alpha_high: float,
    crf: CrfParams,
    crf_steps: int,
    marginals: Path | None = None,
) -> Job:
    """Activation maps ``cams/<id>.npz`` to confident regions ``folder/<id>.png`` (section 3.2.2)
    and, if that folder is given, the CRF's marginals ``marginals/<id>.npz``. Raises InputError if
    the alphas are not in order.
    """
    if alpha_low > alpha_high:
        given = f"alpha_low {alpha_low:g}, alpha_high {alpha_high:g}"
        raise InputError(f"{given}: expected alpha_low not to exceed alpha_high; exchange them")
    outputs = [(folder, ".png")] + ([(marginals, ".npz")] if marginals else [])
    settings = {"alphas": (alpha_low, alpha_high), "crf": crf, "crf_steps": crf_steps}
    return Job(outputs, partial(_load_cams, cams), partial(_save_regions, dataset, settings))


def _load_cams(cams, network, photo_id):
    return artifacts.load_cams(cams / f"{photo_id}.npz")


def _save_regions(dataset, settings, photo_id, payload, path, marginals=None):
    classes, cams = payload
    low, high = alpha_marginals(dataset.image(photo_id), cams, **settings)
    if marginals:
        artifacts.save_marginals(marginals, classes, low=low, high=high)
    artifacts.save_labels(path, combine_alphas(low, high, classes=classes))


def walk_job(dataset: Dataset, cams: Path, *, network: nn.Module, folder: Path, walk: Walk) -> Job:
    """Activation maps ``cams/<id>.npz`` and affinities to labels (section 3.4):
    ``folder/walk/<id>.png`` before the CRF, ``folder/labels/<id>.png`` after it.
    """
    outputs = [(folder / "walk", ".png"), (folder / "labels", ".png")]
    compute = partial(_compute_walk, dataset, cams, walk)
    return Job(outputs, compute, partial(_save_walk, dataset, walk), network)


def _compute_walk(dataset, cams, walk, network, photo_id):
    classes, maps = artifacts.load_cams(cams / f"{photo_id}.npz")
    affinity = walk.affinities(network, dataset.image(photo_id))
    return classes, walk_scores(maps, affinity, walk=walk).cpu().numpy()


def _save_walk(dataset, walk, photo_id, payload, walked, refined):
    classes, scores = payload
    image = dataset.image(photo_id)
    scores = upsample(scores, image.shape[:2]).numpy()
    artifacts.save_labels(walked, label_map(scores, classes))
    artifacts.save_labels(refined, label_map(crf_scores(image, scores, walk=walk), classes))
