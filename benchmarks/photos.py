"""Pairs on photos and files: networks, dense CRF, scores and disk. See ``pairs.py``."""

import hashlib
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import reference
from benchmarks.harness import Aim, Pair, Unavailable
from wsss import datasets, models
from wsss import synthesize as synthesize_labels
from wsss.affinity import neighbour_offsets
from wsss.cam import background_score, multi_scale_cam
from wsss.crf import CrfParams, DenseCRF
from wsss.datasets.voc import read_mask
from wsss.geometry import upsample
from wsss.io import artifacts, contents
from wsss.lab.paths import from_root
from wsss.metrics import ConfusionMatrix
from wsss.models.imported import imagenet_classifier
from wsss.models.ready import ready
from wsss.photos.evaluation import score_cams, score_labels
from wsss.photos.jobs import affinity_label_job, cam_job
from wsss.photos.map_photos import infer
from wsss.synthesis import Walk, label_map

SAMPLE = "../shared/voc-sample"
WEIGHTS = "../shared/weights/mobilenet_v2_imagenet.pth"
PHOTO = (375, 500)  # pixels, the size of most photos of VOC
SCRATCH = tempfile.TemporaryDirectory(prefix="wsss-bench-")
FILE_BYTES = 110_000  # of a photo of VOC, on average
THRESHOLD = 0.3  # of activation maps; fixed, since only differences of scores count


def crf_alphas():
    """One photo with one class beside the background at both alphas: an object each, or both at
    once in one; pixels whose label differs.
    """
    image, maps = _photo(), _heat(1)
    scores = np.stack(
        [np.concatenate([background_score(maps, alpha)[None], maps]) for alpha in (4, 24)]
    )
    return Pair(
        plain=lambda: np.stack([reference.crf(image, each) for each in scores]),
        fast=lambda: DenseCRF(image).infer(scores),
        aim=Aim("ratio", 1.2),
        difference=lambda one, other: float((one.argmax(1) != other.argmax(1)).sum()),
    )


def crf_pool():
    """Affinity labels of photos in two processes beside one: seconds a photo."""
    data = _sample()
    ids = data.ids("train")[:40]
    cams = _folder()
    for id in ids:
        classes = data.labels(id)
        artifacts.save_cams(
            cams / f"{id}.npz", classes, cams=_heat(len(classes), data.image(id).shape)
        )

    def run(processes):
        job = partial(affinity_label_job, data, cams, alpha_low=4, alpha_high=24, crf=CrfParams())
        seconds, folder = _seconds_a_photo(ids, partial(job, crf_steps=10), processes)
        return seconds, [read_mask(folder / f"{id}.png", num_classes=20) for id in ids]

    def difference(one, other):
        return sum(float((a != b).sum()) for a, b in zip(one, other, strict=True))

    return Pair(
        plain=lambda: run(1),
        fast=lambda: run(2),
        aim=Aim("ratio", 0.85 * 2),
        difference=difference,
        timed=False,
    )


def resnet38():
    """Labels of one photo by the released networks, random weights, scale 1, one class.

    The plain way is float32, walks by the dense matrix and leaves the CRF out. Random weights make
    no labels worth comparing: ``labels`` compares those of a MobileNetV2.
    """
    image = _photo()
    torch.manual_seed(0)
    cam = models.build_cam("resnet38", 20, output_stride=8).eval()
    affinity = models.build_affinity("resnet38").eval()
    ready_networks = ready(cam), ready(affinity)

    @torch.inference_mode()
    def plain():
        maps = reference.cam(cam, image, [1], scales=(1.0,), flip=False)
        return _plain_walk(affinity, image, maps, reference.random_walk).argmax(0)

    return Pair(
        plain=plain,
        fast=lambda: synthesize_labels(image, [1], *ready_networks, scales=(1.0,), flip=False),
        aim=Aim("ratio", 6),
        difference=None,
    )


def cams():
    """Activation maps of photos at four scales with mirror images, written to files: seconds a
    photo; mIoU at a fixed threshold, in points.
    """
    data = _sample()
    ids = data.ids("train")[:50]
    network = _recognising(data)
    scales = (1.0, 0.5, 1.5, 2.0)

    def plain():
        folder, made = _folder(), {}
        began = time.perf_counter()
        for id in ids:
            image, classes = data.image(id), data.labels(id)
            made[id] = reference.cam(network, image, classes, scales=scales, flip=True).numpy()
            np.save(folder / f"{id}.npy", made[id])
        return (time.perf_counter() - began) / len(ids), _miou(data, made)

    def fast():
        job = partial(cam_job, data, network, scales=scales, flip=True)
        seconds, folder = _seconds_a_photo(ids, job, 2)
        return seconds, score_cams(data, ids, folder=folder, threshold=THRESHOLD).total(ids).miou()

    return Pair(plain, fast, Aim("ratio", 3), _points, 0.1, timed=False)


def labels():
    """mIoU of the labels of 50 photos after walk and CRF, in points: bfloat16 where native and all
    that is fast, beside float32 and the definitions.

    The classifier is ImageNet's, read as VOC's classes; the affinities are those of a random
    projection of ImageNet's features, too alike for the paper's beta and t: they are 64 and 16.
    """
    data = _sample()
    ids = data.ids("train")[:50]
    network = _recognising(data)
    torch.manual_seed(0)
    affinity = models.build_affinity("mobilenet_v2", weights=from_root(WEIGHTS)).eval()
    ready_networks = ready(network), ready(affinity)
    walk = Walk(background_alpha=3.0, beta=64.0, steps=16)

    walk_plainly = partial(reference.step_by_step, beta=64, steps=16)

    def score(synthesize):
        confusion = ConfusionMatrix(21)
        for id in ids:
            made = synthesize(data.image(id), data.labels(id))
            confusion.update(made, data.mask(id))
        return 100 * confusion.miou(), confusion.miou()

    @torch.inference_mode()
    def plain(image, classes):
        maps = reference.cam(network, image, classes, scales=(1.0,), flip=False)
        scores = _plain_walk(affinity, image, maps, walk_plainly, alpha=3.0)
        return label_map(reference.crf(image, scores.numpy()), classes)

    def fast(image, classes):
        return synthesize_labels(
            image, classes, *ready_networks, scales=(1.0,), flip=False, walk=walk
        )

    return Pair(
        plain=lambda: score(plain),
        fast=lambda: score(fast),
        aim=Aim("none"),
        difference=_points,
        allowed=0.1,
        unit="mIoU",
        timed=False,
    )


def evaluation():
    """Label maps from files against masks from files, on one core."""
    data = _sample()
    ids = data.ids("train")[:200]
    folder = _folder()
    for id, following in zip(ids, ids[1:] + ids[:1], strict=True):
        mask, other = data.mask(id), data.mask(following)
        wrong = np.resize(np.where(other == 255, 0, other), mask.shape)  # of another photo
        artifacts.save_labels(folder / f"{id}.png", np.where(mask == 255, wrong, mask))

    def plain():
        return sum(
            reference.confusion(read_mask(folder / f"{id}.png", num_classes=20), data.mask(id), 21)
            for id in ids
        )

    return Pair(
        plain=plain,
        fast=lambda: score_labels(data, ids, folder=folder).total(ids).matrix,
        aim=Aim("rate", 400, len(ids)),
        difference=lambda one, other: float(abs(one - other).max()),
    )


def disk():
    """Bytes of the activation maps of photos in files, and mIoU at a fixed threshold, in points:
    float32 at full size, beside what is kept.
    """
    data = _sample()
    ids = data.ids("train")[:24]
    network = _recognising(data)

    def plain():
        folder, made = _folder(), {}
        for id in ids:
            image, classes = data.image(id), data.labels(id)
            maps = multi_scale_cam(network, image, classes, scales=(1.0,), flip=False)
            made[id] = upsample(maps, image.shape[:2]).numpy()
            np.save(folder / f"{id}.npy", made[id])
        return _size(folder), _miou(data, made)

    def fast():
        folder = _folder()
        job = cam_job(data, network, folder=folder, scales=(1.0,), flip=False)
        infer(ids, job, label="maps")
        return _size(folder), score_cams(data, ids, folder=folder, threshold=THRESHOLD).total(
            ids
        ).miou()

    return Pair(plain, fast, Aim("ratio", 20), _points, 0.1, unit="bytes", timed=False)


def identity():
    """Digests of the contents of 10,000 unchanged files, and how many differ from a plain hash;
    the plain way reads and hashes each.
    """
    folder, random = _folder(), np.random.default_rng(0)
    files = [folder / f"{number:05}.jpg" for number in range(10_000)]
    for path in files:
        path.write_bytes(random.bytes(FILE_BYTES))
    time.sleep(3)  # files count as settled after two seconds
    contents.digests(files)

    def plain():
        return [hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest() for path in files]

    def differing(one, other):
        return float(sum(a != b for a, b in zip(one, other, strict=True)))

    return Pair(plain, lambda: contents.digests(files), Aim("seconds", 2), differing)


def _heat(count, size=PHOTO):
    """Smooth maps (count, H, W) in [0, 1]."""
    grid = [length // 64 + 1 for length in size[:2]]
    coarse = torch.randn(1, count, *grid, generator=torch.Generator().manual_seed(0))
    maps = F.interpolate(coarse, tuple(size[:2]), mode="bicubic")[0].clamp(0)
    return (maps / maps.amax((1, 2), keepdim=True)).numpy()


def _sample():
    if not from_root(SAMPLE).exists():
        raise Unavailable(f"no photos in {SAMPLE}")
    return datasets.open("voc", from_root(SAMPLE))


def _folder():
    """A new folder that goes when the process ends."""
    return Path(tempfile.mkdtemp(dir=SCRATCH.name))


def _photo():
    """A real photo, since the time of a CRF depends on what is to be seen."""
    data = _sample()
    photos = (data.image(id) for id in data.ids("train"))
    return next(photo for photo in photos if photo.shape[:2] == PHOTO)


def _recognising(data):
    """A MobileNetV2 whose classifier is ImageNet's, read as the dataset's classes."""
    weights = from_root(WEIGHTS)
    if not weights.exists():
        raise Unavailable(f"no {WEIGHTS}")
    network = models.build_cam("mobilenet_v2", len(data.classes), weights=weights)
    ids = data.ids("train")[:200]
    imagenet_classifier.init_from_imagenet(
        network, "mobilenet_v2", weights=weights, dataset=data, ids=ids
    )
    return network.eval()


def _plain_walk(network, image, maps, walk, alpha=16.0):
    """Scores (1 + C, H, W) after the affinities of a network in float32 and a plain walk."""
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    features = network(pixels)
    height, width = features.shape[-2:]
    offsets, ones, others = reference.pairs(height, width, 5)
    affinity = torch.zeros(len(neighbour_offsets(5)), height * width)
    affinity[offsets, ones] = torch.exp(-reference.pair_distance(features, ones, others)[0])
    coarse = maps[:, ::8, ::8]
    scores = torch.cat([background_score(coarse, alpha)[None], coarse])
    walked = walk(scores, affinity.unflatten(1, (height, width)))
    return upsample(walked.float(), image.shape[:2])


def _seconds_a_photo(ids, job, processes):
    """Seconds a photo of a job, which takes its folder, and that folder.

    Starting is no part of it, since a split has thousands of photos: what a photo a process takes
    in all is taken off.
    """
    taken = {}
    for count in (processes, len(ids)):
        folder = _folder()
        began = time.perf_counter()
        infer(ids[:count], job(folder=folder), label=f"{processes} processes", processes=processes)
        taken[count] = time.perf_counter() - began
    return (taken[len(ids)] - taken[processes]) / (len(ids) - processes), folder


def _miou(data, maps):
    """mIoU of maps (C, H, W), by id, at the threshold."""
    confusion = ConfusionMatrix(len(data.classes) + 1)
    for id, each in maps.items():
        scores = np.concatenate([np.full_like(each[:1], THRESHOLD), each])
        confusion.update(label_map(scores, data.labels(id)), data.mask(id))
    return confusion.miou()


def _size(folder):
    return sum(file.stat().st_size for file in folder.iterdir())


def _points(one, other):
    """Difference of two scores, in points."""
    return 100 * abs(one - other)
