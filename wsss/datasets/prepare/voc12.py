"""A ``Devkit`` folder of VOC 2012 (photos, boxes, official masks) and the Semantic Boundaries
Dataset, SBD (coarser masks of more of these photos), from archives that a person has downloaded.
"""

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wsss.datasets.prepare.matlab import read_field
from wsss.datasets.prepare.shrink import write_labels
from wsss.datasets.prepare.unpack import Download, fetch
from wsss.datasets.voc import VOC_CLASSES, Devkit, read_ids, read_mask
from wsss.errors import InputError
from wsss.io import atomic
from wsss.io.artifacts import save_labels
from wsss.io.byte_reader import Fault
from wsss.io.text import read_bytes
from wsss.runtime.progress import progress

# Photos on each list: VOC's own, and train_aug, every photo outside val with a mask of VOC or SBD.
EXPECTED = {"train": 1464, "val": 1449, "train_aug": 10582, "test": 1456}

VOC = Download(
    archive="VOCtrainval_11-May-2012.tar",
    md5="6cd6e144f989b92b3379bac3b3de84fd",
    top="VOCdevkit/VOC2012",
    parts=("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"),
    where="the official page host.robots.ox.ac.uk/pascal/VOC/voc2012/ (its download host has been "
    "refusing since late 2025; new home: www.robots.ox.ac.uk/~vgg/projects/pascal/VOC/) or mirrors "
    "on Kaggle and Academic Torrents",
)
VOC_TEST = Download(
    archive="VOC2012test.tar",
    md5="9065beb292b6c291fad82b2725749fda",
    top="VOCdevkit/VOC2012",
    parts=("JPEGImages", "ImageSets/Segmentation"),  # labels of test photos are not public
    where="VOC's evaluation server, which asks for an account",
)
SBD = Download(
    archive="benchmark.tgz",
    md5="82b4d87ceb2ed10f6038a1cba92111cb",
    top="benchmark_RELEASE/dataset",
    parts=("cls", "train.txt", "val.txt"),
    where="its page home.bharathh.info/pubs/codes/SBD/download.html, or Berkeley's server "
    "www2.eecs.berkeley.edu (Research/Projects/CS/vision/grouping/semantic_contours)",
)

MAT_BYTES = 2**24  # of a .mat file at most; SBD's have about 20,000


class Report(NamedTuple):
    """The contents of the folder after ``prepare``."""

    root: Path  # the experiments' data_root
    lacking: dict[Download, list[Path]]  # missing paths
    lists: dict[str, int]  # photos on each id list
    masks: Counter  # by origin: kept, VOC, SBD; or missing
    labelled: int  # photos with image labels
    unlabelled: list[str]  # ids of those without, listed ones first


def prepare(
    root: Path | str,
    *,
    voc: Path | str | None = None,
    sbd: Path | str | None = None,
    any_digest: bool = False,
) -> Report:
    """Make ``root`` a devkit with ``SegmentationClassAug``, all id lists and ``image_labels.csv``.

    Intact files are kept. A ``VOC2012test.tar`` in ``root`` is unpacked too. What lacks a download
    is skipped and reported in ``lacking``. Raises InputError for a wrong archive, list, mask or
    annotation, or if ``root`` cannot be written.

    Args:
        root: a devkit, or a folder that has or gets a VOCdevkit/VOC2012.
        voc: the archive of VOC 2012, or a folder with its devkit, to copy; None uses ``root``'s.
        sbd: likewise of SBD.
        any_digest: accept archives whose MD5 is not the published one.
    """
    root = Path(root)
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: expected a folder but it is a file; give another --root")
    flat = (root / "JPEGImages").is_dir() and not (root / VOC.top).is_dir()
    home, boundaries = root if flat else root / VOC.top, root / SBD.top
    test = root / VOC_TEST.archive
    given = [(VOC, voc, home), (SBD, sbd, boundaries)]
    given += [(VOC_TEST, test, home)] if test.exists() else []
    try:
        for download, source, target in given:
            atomic.sweep_partials(target)
            if source is not None:
                fetch(download, Path(source), target=target, any_digest=any_digest)
        return _complete(root, home, boundaries)
    except OSError as error:  # no room, no permission
        raise InputError(f"{root}: cannot be made ready ({error}); fix that and repeat") from error


def _complete(root, home, boundaries):
    lacking = {}
    for download, folder in ((VOC, home), (SBD, boundaries)):
        if paths := [path for part in download.parts if not (path := folder / part).exists()]:
            lacking[download] = paths
    if VOC in lacking:
        return Report(root, lacking, {}, Counter(), 0, [])
    if SBD in lacking:
        boundaries = None
    devkit = Devkit(home)
    lists = _write_lists(devkit, boundaries)
    masked = {each for split, ids in lists.items() if split != "test" for each in ids}
    if absent := [each for each in sorted(masked) if not devkit.image_path(each).exists()]:
        raise InputError(
            f"{home / 'JPEGImages'}: {len(absent):,} of {len(masked):,} listed photos are missing, "
            f"first {absent[0]}.jpg; take them out of {VOC.archive} again with --voc"
        )
    masks = _write_masks(devkit, sorted(masked), boundaries)
    if "train_aug" in lists and not masks["missing"]:
        lacking.pop(SBD, None)  # everything made of it exists
    photos = sorted(path.stem for path in (home / "JPEGImages").glob("*.jpg"))
    if not (home / "image_labels.csv").exists():
        boxed = [each for each in photos if (home / "Annotations" / f"{each}.xml").exists()]
        labels = {}
        for photo_id in progress(boxed, "image labels"):
            labels[photo_id] = devkit.boxed_labels(photo_id)
        write_labels(home, labels, classes=devkit.classes)
    labelled = Devkit(home).labelled()  # a new one, to read what was written
    unlabelled = sorted({*photos} - labelled, key=lambda each: (each not in masked, each))
    counts = {split: len(ids) for split, ids in lists.items()}
    return Report(root, lacking, counts, masks, len(labelled), unlabelled)


def _write_lists(devkit, boundaries):
    """Write ``train_aug.txt``, unless SBD's folder is None; all lists by name, if available."""
    folder = devkit.root / "ImageSets" / "Segmentation"
    path = folder / "train_aug.txt"
    there = {path.stem for path in folder.glob("*.txt")} | {"train", "val"}
    lists = {split: devkit.ids(split) for split in EXPECTED if split in there}
    if boundaries is not None:
        sbd = [each for split in ("train", "val") for each in read_ids(boundaries / f"{split}.txt")]
        union = sorted({*lists["train"], *sbd} - {*lists["val"]})
        if {*lists.setdefault("train_aug", union)} != {*union}:
            raise InputError(
                f"{path}: expected the {len(union):,} photos of VOC's and SBD's lists less val but "
                f"found {len(lists['train_aug']):,}, not the same; delete it to have it made"
            )
    for split, ids in lists.items():
        if len(ids) != EXPECTED[split]:
            raise InputError(
                f"{folder / split}.txt: expected {EXPECTED[split]:,} ids but found {len(ids):,}; "
                "take VOC's and SBD's lists out of their archives again with --voc and --sbd"
            )
    if "train_aug" in lists and not path.exists():
        atomic.write_text(path, "\n".join(lists["train_aug"]) + "\n")
    return lists


def _write_masks(devkit, ids, boundaries):
    """Write ``SegmentationClassAug/<id>.png`` for ids without a readable one: VOC's official mask
    or else SBD's. Returns how many masks are of each origin.
    """
    origins = Counter()
    for photo_id in progress(ids, "masks", unit="mask"):
        official = devkit.root / "SegmentationClass" / f"{photo_id}.png"
        path = devkit.mask_path(photo_id)
        with suppress(InputError):  # missing, cut short, or not a mask of VOC's
            read_mask(path, num_classes=len(VOC_CLASSES))
            origins["kept"] += 1
            continue
        if official.exists():
            origins["VOC"] += 1
            save_labels(path, read_mask(official, num_classes=len(VOC_CLASSES)))
        elif boundaries is not None:
            origins["SBD"] += 1
            save_labels(path, read_sbd_mask(boundaries / "cls" / f"{photo_id}.mat"))
        else:
            origins["missing"] += 1
    return origins


def read_sbd_mask(path: Path) -> np.ndarray:
    """SBD's mask of a photo as uint8 (H, W): 0 background, 1 to 20 VOC's classes. Raises InputError
    if the file is missing, not a .mat file, or without such a mask.
    """
    content = read_bytes(path, "SBD's mask (--sbd brings it)", most=MAT_BYTES)
    try:
        mask = read_field(content, "GTcls", field="Segmentation")
        if mask.ndim != 2 or mask.dtype.kind not in "iu":
            raise Fault(f"has {mask.dtype} of shape {mask.shape}")
        if (wrong := mask[(mask < 0) | (mask > len(VOC_CLASSES))]).size:
            raise Fault(f"has value {wrong[0]}")
    except Fault as fault:
        raise InputError(
            f"{path}: expected a .mat file with GTcls.Segmentation, whole numbers 0 to "
            f"{len(VOC_CLASSES)} of shape (H, W), but it {fault}; delete it and give --sbd again"
        ) from None
    return mask.astype(np.uint8)


def table(report: Report) -> str:
    """A report as text: what is there, what is missing and where to get it, what comes next."""
    lines = []
    if report.lists:
        there = report.masks.total() - report.masks["missing"]
        rows = [*report.lists.items(), ("masks", there), ("image labels", report.labelled)]
        lines += [f"{name:13}{count:>7,}" for name, count in rows]
        origins = ", ".join(f"{count:,} {origin}" for origin, count in report.masks.items())
        lines[-2] += f"  in SegmentationClassAug: {origins}"
    if report.unlabelled:
        some = ", ".join(report.unlabelled[:5]) + (", ..." if report.unlabelled[5:] else "")
        lines.append(
            f"{len(report.unlabelled):,} photos have no image labels: {some}; to use them, put "
            "their files into Annotations/ and delete image_labels.csv"
        )
    for download, paths in report.lacking.items():
        option = "--voc" if download is VOC else "--sbd"
        lines += [f"missing: {path}" for path in paths]
        lines.append(f"  {option} {download.archive} brings that; get it from {download.where}")
    if not report.lacking:
        lines.append(
            f"Next: an experiment with `dataset: voc` and `data_root: {report.root.resolve()}`; "
            "its first stage checks every file"
        )
    return "\n".join(lines)
