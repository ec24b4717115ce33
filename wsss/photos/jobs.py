"""What label synthesis does to each photo of a list, stage by stage, for ``infer.infer``."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from wsss.cam import multi_scale_cam
from wsss.crf import CrfParams
from wsss.datasets import Devkit
from wsss.geometry import upsample
from wsss.io import artifacts, atomic
from wsss.synthesis import Walk, alpha_marginals, crf_scores, decide, label_map, walk_scores


@dataclass
class CamJob:
    """Photos to activation maps: ``folder/<id>.npz``."""

    dataset: Devkit
    network: nn.Module
    folder: Path
    scales: tuple
    flip: bool
    power: float = 1.0

    def path(self, id):
        return Path(self.folder) / f"{id}.npz"

    def done(self, id):
        return atomic.is_whole(self.path(id))

    def forward(self, id):
        classes = self.dataset.labels(id)
        cams = multi_scale_cam(
            self.network,
            self.dataset.image(id),
            classes,
            scales=self.scales,
            flip=self.flip,
            power=self.power,
        )
        return classes, cams.cpu().numpy()

    def finish(self, id, payload):
        artifacts.save_cams(self.path(id), *payload)


@dataclass
class AffinityLabelJob:
    """Activation maps to confident regions: ``folder/<id>.png``, and what the CRF said of each
    pixel, ``marginals/<id>.npz``, if that folder is given.
    """

    dataset: Devkit
    cams: Path
    folder: Path
    alpha_low: float
    alpha_high: float
    crf: CrfParams
    crf_steps: int
    marginals: Path | None = None

    def path(self, id):
        return Path(self.folder) / f"{id}.png"

    def done(self, id):
        paths = [self.path(id)] + ([self.marginals / f"{id}.npz"] if self.marginals else [])
        return all(atomic.is_whole(path) for path in paths)

    def forward(self, id):
        return artifacts.load_cams(Path(self.cams) / f"{id}.npz")

    def finish(self, id, payload):
        classes, cams = payload
        low, high = alpha_marginals(
            self.dataset.image(id),
            cams,
            (self.alpha_low, self.alpha_high),
            crf=self.crf,
            crf_steps=self.crf_steps,
        )
        if self.marginals:
            artifacts.save_marginals(self.marginals / f"{id}.npz", classes, low, high)
        artifacts.save_labels(self.path(id), decide(low, high, classes))


@dataclass
class WalkJob:
    """Activation maps and affinities to labels: ``walk/<id>.png`` before the CRF,
    ``labels/<id>.png`` after.
    """

    dataset: Devkit
    cams: Path
    network: nn.Module
    folder: Path
    walk: Walk

    def path(self, id, kind="labels"):
        return Path(self.folder) / kind / f"{id}.png"

    def done(self, id):
        return all(atomic.is_whole(self.path(id, kind)) for kind in ("labels", "walk"))

    def forward(self, id):
        classes, cams = artifacts.load_cams(Path(self.cams) / f"{id}.npz")
        image = self.dataset.image(id)
        affinity = self.walk.affinities(self.network, image)
        return classes, walk_scores(cams, affinity, self.walk).cpu().numpy()

    def finish(self, id, payload):
        classes, scores = payload
        image = self.dataset.image(id)
        scores = upsample(scores, image.shape[:2]).numpy()
        artifacts.save_labels(self.path(id, "walk"), label_map(scores, classes))
        labels = label_map(crf_scores(image, scores, self.walk), classes)
        artifacts.save_labels(self.path(id), labels)
