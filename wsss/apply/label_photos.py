"""Label maps of your own photos: from tags by the method (``LabelJob``), or without them by a
segmentation network (``PredictJob``).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import nn

from wsss import viz
from wsss.cam import multi_scale_cam
from wsss.crf import CrfParams, DenseCRF
from wsss.datasets import Folder
from wsss.datasets.annotations import formats as annotations_formats
from wsss.datasets.photos import photo_size
from wsss.errors import InputError, one_line
from wsss.geometry import upsample
from wsss.io import artifacts, atomic
from wsss.photos.evaluation import segment
from wsss.photos.map_photos import PhotosFailed, infer
from wsss.synthesis import Walk, crf_scores, label_map, labels_at, walk_scores

OVERLAY_SIDE = 1024  # pixels of the longer side of a picture that is there to be looked at


@dataclass
class Outputs:
    """Where a photo's results go: ``labels/<id>.png``, of the photo's own size, and pictures to
    look at, ``overlays/<id>.jpg``.
    """

    folder: Path

    def path(self, id):
        return Path(self.folder) / "labels" / f"{id}.png"

    def done(self, id):
        return atomic.is_whole(self.path(id))

    def write(self, dataset, id, image, scores, classes):
        """Labels of scores (1 + C, h, w) on a photo as it was read, uint8 (h, w, 3)."""
        labels = labels_at(scores, classes, photo_size(dataset.image_path(id)))
        shown = Image.fromarray(viz.overlay_labels(image, label_map(scores, classes)))
        shown.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
        picture = Path(self.folder) / "overlays" / f"{id}.jpg"
        with atomic.write(picture) as partial:
            shown.save(partial, format="JPEG", quality=90)
        artifacts.save_labels(self.path(id), labels)  # last: it says that the photo is done


@dataclass
class LabelJob:
    """Photos with tags to label maps: maps, walk, dense CRF, argmax (see ``synthesize``).

    Args:
        dataset: whose classes are the CAM network's.
        cam_network, affinity_network: trained.
        outputs: where results go.
        scales, flip, power: of the activation maps, see ``multi_scale_cam``.
        walk: a ``Walk``.
    """

    dataset: Folder
    cam_network: nn.Module
    affinity_network: nn.Module
    outputs: Outputs
    scales: tuple
    flip: bool
    power: float
    walk: Walk

    def done(self, id):
        return self.outputs.done(id)

    def forward(self, id):
        image, classes = self.dataset.image(id), self.dataset.labels(id)
        cams = multi_scale_cam(
            self.cam_network, image, classes, scales=self.scales, flip=self.flip, power=self.power
        )
        affinity = self.walk.affinities(self.affinity_network, image)
        return image, classes, walk_scores(cams, affinity, self.walk).cpu().numpy()

    def finish(self, id, payload):
        image, classes, scores = payload
        scores = upsample(scores, image.shape[:2]).numpy()
        scores = crf_scores(image, scores, self.walk)
        self.outputs.write(self.dataset, id, image, scores, classes)


@dataclass
class PredictJob:
    """Photos alone to label maps, by a segmentation network.

    Args:
        dataset: photos, tagged or not.
        network: trained.
        outputs: where results go.
        scales, flip: see ``segment``.
        crf: parameters of a dense CRF on the result, or None.
        crf_steps: its mean-field iterations.
    """

    dataset: Folder
    network: nn.Module
    outputs: Outputs
    scales: tuple = (1.0,)
    flip: bool = False
    crf: CrfParams | None = None
    crf_steps: int = 10

    def done(self, id):
        return self.outputs.done(id)

    def forward(self, id):
        image = self.dataset.image(id)
        scores = segment(self.network, image, scales=self.scales, flip=self.flip)
        return image, scores.cpu().numpy()

    def finish(self, id, payload):
        image, scores = payload
        if self.crf:
            scores = DenseCRF(image, self.crf).infer(scores, self.crf_steps)
        self.outputs.write(self.dataset, id, image, scores, range(1, len(scores)))


class Report(NamedTuple):
    """What ``run`` did.

    Attributes:
        done: how many label maps there are now.
        written: the further files and folders.
        faults: what could not be done, as lines of text.
    """

    done: int
    written: list
    faults: list


def run(job, ids, making, *, formats=(), processes=0, faults=()):
    """Label photos, go on past those that fail, and write the labels in further forms.

    Args:
        job: a ``LabelJob`` or ``PredictJob``.
        ids: of photos; those that have a label map already are left alone.
        making: what makes the labels, plain values by name: a folder holds those of one making.
        formats: ``coco``, ``labelme``, ``cvat``; see ``annotations``.
        processes: worker processes; 0 takes one a core.
        faults: further lines for the report, of the tags.

    Returns:
        a ``Report``; its faults are also in ``faults.txt``.

    Raises:
        InputError: the folder holds labels of another making.
    """
    folder, dataset = Path(job.outputs.folder), job.dataset
    if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
        raise InputError(f"{folder}: expected a folder for the results; give another --out")
    atomic.claim(folder / "making.json", making)
    with atomic.write(folder / "classes.txt") as partial:
        partial.write_text("".join(f"{name}\n" for name in dataset.classes), encoding="utf-8")
    failed = {}
    try:
        infer(ids, job, label="label", processes=processes)
    except PhotosFailed as photos:
        failed = photos.faults
    done = [id for id in ids if job.done(id)]
    faults = [one_line(fault) for fault in (*faults, *failed.values())]
    log = folder / "faults.txt"
    log.unlink(missing_ok=True)
    if faults:
        with atomic.write(log) as partial:
            partial.write_text("\n".join(faults) + "\n", encoding="utf-8")
    written = [_write(name, folder, done, dataset) for name in formats if done]
    return Report(len(done), written, faults)


def _write(form, folder, ids, dataset):
    """The label maps of some photos in a further form; returns where."""
    given = (dataset.classes, dataset.image_path)
    if form == "coco":
        annotations_formats.write_coco(folder / "labels", folder / "coco.json", ids, *given)
        return folder / "coco.json"
    out = folder / form
    if form == "labelme":
        # those that are there may have been corrected
        new = [id for id in ids if not (out / f"{id}.json").exists()]
        annotations_formats.write_labelme(folder / "labels", out, new, *given)
    else:
        annotations_formats.write_cvat(folder / "labels", out, ids, *given)
    return out
