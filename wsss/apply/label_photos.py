"""Label maps of your own photos, ``labels/<id>.png`` of the photo's size and ``overlays/<id>.jpg``:
from tags by the method (``label_job``), or without by a segmentation network (``predict_job``).
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import nn

from wsss import viz
from wsss.apply.label_page import write_page
from wsss.cam import multi_scale_cam
from wsss.datasets import Folder
from wsss.datasets.annotations.formats import LabelMaps, write_coco, write_cvat, write_labelme
from wsss.datasets.folder import MAKING
from wsss.datasets.photos import photo_digests, photo_size
from wsss.errors import one_line
from wsss.geometry import upsample
from wsss.io import artifacts, atomic
from wsss.photos.jobs import Job
from wsss.photos.map_photos import PhotosFailed, infer
from wsss.photos.segmentation import segment_job
from wsss.runtime.progress import progress
from wsss.synthesis import Walk, crf_scores, label_map, labels_at, walk_scores

OVERLAY_SIDE = 1024  # pixels; the longer side of an overlay picture
FORMS = {"coco": write_coco, "labelme": write_labelme, "cvat": write_cvat}


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


def discard(folder: Path, making: Mapping) -> None:
    """Remove the labels in a folder that are of another making than this, if it has any."""
    path, root = folder / MAKING, folder.resolve()
    with suppress(FileNotFoundError, ValueError, LookupError, TypeError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["making"] != json.loads(json.dumps(making, default=str)):
            for file in ((folder / name).resolve() for name in found["made_from"]):
                if file.is_relative_to(root):  # the record may be of anyone
                    file.unlink(missing_ok=True)
            atomic.save_json(path, {"making": making, "made_from": {}})


def run(
    job: Job,
    ids: Sequence[str],
    *,
    dataset: Folder,
    folder: Path,
    making: dict[str, object],
    label: str,
    forms: Sequence[str] = (),
    processes: int = 0,
) -> Report:
    """Label photos, continue past those that fail, and write the labels in further forms. A map
    that exists is kept if it was made from the same contents and tags of its photo. Faults, those
    of photos' names and tags first, are also in ``faults.txt``. Raises InputError if the folder is
    not one, or not of this making: see ``atomic.claim``.

    Args:
        job: of ``label_job`` or ``predict_job``, on this dataset and folder.
        making: networks and settings by name; a folder holds labels of one making.
        label: of the progress bar.
        forms: of ``FORMS``, besides those that the folder has, which are kept up to date.
        processes: see ``infer``.
    """
    files = {each: (f"labels/{each}.png", f"overlays/{each}.jpg") for each in dataset.photos}
    made_from = dict.fromkeys(name for names in files.values() for name in names)
    paths, tagged = {each: dataset.image_path(each) for each in ids}, dataset.labelled()
    digests = photo_digests(progress(paths.values(), "check", total=len(paths)))
    for photo_id, path in paths.items():
        tags = dataset.labels(photo_id) if photo_id in tagged else []
        made_from |= {name: [digests.get(path), tags] for name in files[photo_id]}
    stale = atomic.claim(folder / MAKING, making, made_from=made_from)
    atomic.write_text(folder / "classes.txt", "".join(f"{name}\n" for name in dataset.classes))
    lines = [one_line(fault) for fault in dataset.faults]
    try:
        infer(ids, job, label=label, processes=processes)
    except PhotosFailed as failed:
        lines += map(one_line, failed.faults.values())
    done = [photo_id for photo_id in ids if job.done(photo_id)]
    for path in (folder / "labelme" / f"{each}.json" for each in done if files[each][0] in stale):
        if os.path.exists(path):
            fault = "of an earlier label map, as the photo or its tags changed"
            lines.append(one_line(f"{path}: {fault}; delete it to have it written again"))
    (folder / "faults.txt").unlink(missing_ok=True)
    if lines:
        atomic.write_text(folder / "faults.txt", "\n".join([*lines, ""]))
    maps = LabelMaps(folder / "labels", done, dataset.classes, dataset.image_path)
    written = []
    for name, write in FORMS.items() if done else ():
        out = folder / ("coco.json" if name == "coco" else name)
        if name in forms or out.exists():
            write(maps, out)
            written.append(out)
    tags = {each: [dataset.classes[k - 1] for k in dataset.labels(each)] for each in tagged}
    write_page(folder, done, tags=tags, about=f"{len(done)} of {len(ids)} photos")
    return Report(len(done), written, lines)
