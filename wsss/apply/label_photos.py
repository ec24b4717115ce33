"""Label maps of your own photos, ``labels/<id>.png`` of the photo's size and ``overlays/<id>.jpg``:
from tags by the method (``label_job``), or without by a segmentation network (``predict_job``).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import nn

from wsss import viz
from wsss.cam import multi_scale_cam
from wsss.datasets import Folder
from wsss.datasets.annotations.formats import LabelMaps, write_coco, write_cvat, write_labelme
from wsss.datasets.photos import photo_size
from wsss.errors import InputError, one_line
from wsss.geometry import upsample
from wsss.io import artifacts, atomic
from wsss.photos.jobs import Job
from wsss.photos.map_photos import PhotosFailed, infer
from wsss.photos.segmentation import segment_job
from wsss.synthesis import Walk, crf_scores, label_map, labels_at, walk_scores

OVERLAY_SIDE = 1024  # pixels; the longer side of an overlay picture


def label_job(
    dataset: Folder, networks: Sequence[nn.Module], *, folder: Path, maps: Mapping, walk: Walk
) -> Job:
    """Tagged photos to label maps by a CAM network and an AffinityNet: maps, walk, dense CRF,
    argmax (see ``synthesize``). The dataset has the CAM network's classes; ``maps`` are
    ``scales``, ``flip`` and ``cam_power``.
    """
    compute = partial(_compute_walk, dataset, maps, walk)
    save = partial(_save_walk, dataset, folder, walk)
    return Job([(folder / "labels", ".png")], compute, save, nn.ModuleList(networks))


def predict_job(dataset: Folder, network: nn.Module, *, folder: Path, **settings) -> Job:
    """Photos, tagged or not, to label maps by a segmentation network; ``settings`` are those of
    ``segment_job``.
    """
    save = partial(_save, dataset, folder)
    return segment_job(dataset, network, folder=folder / "labels", save=save, **settings)


def _compute_walk(dataset, maps, walk, networks, photo_id):
    cam_network, affinity_network = networks
    image, classes = dataset.image(photo_id), dataset.labels(photo_id)
    cams = multi_scale_cam(cam_network, image, classes, **maps)
    affinity = walk.affinities(affinity_network, image)
    return image, classes, walk_scores(cams, affinity, walk=walk).cpu().numpy()


def _save_walk(dataset, folder, walk, photo_id, payload, path):
    image, classes, scores = payload
    scores = crf_scores(image, upsample(scores, image.shape[:2]).numpy(), walk=walk)
    _save(dataset, folder, photo_id, scores, image=image, classes=classes, path=path)


def _save(dataset, folder, photo_id, scores, *, image, classes, path):
    """Write the labels of scores (1 + C, h, w) on the read photo, uint8 (h, w, 3)."""
    labels = labels_at(scores, classes, size=photo_size(dataset.image_path(photo_id)))
    names = dict(enumerate(dataset.classes, 1))
    overlay = Image.fromarray(viz.overlay_labels(image, label_map(scores, classes), names=names))
    overlay.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
    with atomic.write(folder / "overlays" / f"{photo_id}.jpg") as partial_file:
        overlay.save(partial_file, format="JPEG", quality=90)
    artifacts.save_labels(path, labels)  # last: it marks the photo as done


class Report(NamedTuple):
    """The result of ``run``."""

    done: int  # label maps in the folder
    written: list[Path]  # further files and folders
    faults: list[str]  # one line per problem


def run(
    job: Job,
    ids: Sequence[str],
    *,
    dataset: Folder,
    folder: Path,
    making: dict[str, object],
    forms: Sequence[str] = (),
    processes: int = 0,
) -> Report:
    """Label photos, continue past those that fail, and write the labels in further forms.

    Args:
        job: of ``label_job`` or ``predict_job``, on this dataset and folder.
        making: inputs and settings by name; a folder holds labels of one making.
        forms: ``coco``, ``labelme``, ``cvat``; see ``annotations``.
        processes: worker processes; 0 takes one per core.

    Returns:
        a ``Report``; its faults, those of the tags first, are also in ``faults.txt``.

    Raises:
        InputError: the folder is a file, or holds labels of another making.
    """
    if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
        raise InputError(f"{folder}: expected a folder for the results; give another --out")
    atomic.claim(folder / "making.json", making)
    atomic.write_text(folder / "classes.txt", "".join(f"{name}\n" for name in dataset.classes))
    lines = [one_line(fault) for fault in dataset.tag_faults]
    try:
        infer(ids, job, label="label", processes=processes)
    except PhotosFailed as failed:
        lines += map(one_line, failed.faults.values())
    done = [photo_id for photo_id in ids if job.done(photo_id)]
    (folder / "faults.txt").unlink(missing_ok=True)
    if lines:
        atomic.write_text(folder / "faults.txt", "\n".join([*lines, ""]))
    written = [_export(name, folder, done, dataset) for name in forms if done]
    return Report(len(done), written, lines)


def _export(name, folder, ids, dataset):
    out = folder / ("coco.json" if name == "coco" else name)
    maps = LabelMaps(folder / "labels", ids, dataset.classes, dataset.image_path)
    {"coco": write_coco, "labelme": write_labelme, "cvat": write_cvat}[name](maps, out)
    return out
