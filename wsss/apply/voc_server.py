"""Predict and pack label maps for the PASCAL VOC evaluation server, and check any archive for it.

The server has the masks of VOC 2012's test photos, which are not public. It takes the indices of
palette PNGs as class numbers, and fails at the first map of another size or with a value above 20.
"""

import gzip
import tarfile
import warnings
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from wsss import models
from wsss.crf import CrfParams
from wsss.datasets.photos import photo_digests
from wsss.datasets.prepare import archives
from wsss.datasets.voc import VOC_CLASSES, Devkit
from wsss.errors import InputError
from wsss.io import artifacts, atomic, contents
from wsss.lab import paths, results
from wsss.photos import map_photos
from wsss.photos.segmentation import segment_job

VOC_ONLY = PurePosixPath("results/VOC2012/Segmentation/comp5_test_cls")
OTHER_DATA = VOC_ONLY.with_name("comp6_test_cls")  # for training on more than VOC's own photos

# Bounds: VOC's largest photo has 250,000 pixels.
MEMBER_BYTES = 2**22  # of a label map's file
PIXELS = 2**24  # of a label map whose photo is missing

FAULTS = {  # fault and fix, in the order of the report
    "unsafe": ("unsafe members", "pack only plain files and folders, with relative names"),
    "outside": (f"members outside {VOC_ONLY} or {OTHER_DATA.name}", "put only label maps there"),
    "both": ("label maps in both folders", "keep one of them"),
    "missing": ("missing label maps", "predict every photo of the id list"),
    "extra": ("members that are not on the id list", "leave them out"),
    "duplicate": ("label maps packed twice", "pack each once"),
    "unreadable": ("unreadable label maps", "write them again as PNG"),
    "mode": ("label maps that are not palette PNGs (mode P)", "save class numbers with a palette"),
    "size": ("label maps of a wrong size", "predict at the photo's own size"),
    "values": ("label maps with values above 20", "give every pixel a class or background"),
    # the server accepts these, but the score may suffer
    "palette": (
        "label maps with another palette than VOC's",
        "the server reads indices, not colours: check that the indices are class numbers",
    ),
    "unsized": ("label maps of unknown size", "their photos are not in the data root"),
}
WARNINGS = ("palette", "unsized")


class Report(NamedTuple):
    """The result of a check."""

    count: int  # label maps in the archive
    faults: list[str]
    warnings: list[str]  # of what the server accepts


def export(
    run: Path,
    out: Path,
    *,
    data_root: Path | None = None,
    split: str = "test",
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    crf: bool = False,
) -> Report:
    """Predict the photos of an id list and pack ``out/results.tgz``; label maps that exist are kept
    unless their photo changed, palette PNGs of the photo's size, uint8 (H, W), values 0 to 20. They
    go under comp6: comp5 excludes training on other photos, ImageNet's included. Raises InputError
    for no such run, list or photo, or if ``out`` holds anything but this export.

    Args:
        run: folder of a completed train_segmentation.
        out: folder for ``results/``, the archive, and ``export.json``, the settings.
        data_root: the devkit folder with the photos; None takes the run's own.
        scales, flip, crf: see ``segment``; the CRF's parameters are the paper's.
    """
    run, out = Path(run), Path(out)
    if not (record := results.completion(run)):
        fault = results.damage(run) or "expected the folder of a completed train_segmentation"
        raise InputError(f"{run}: {fault}; run its stage again, or give another --run")
    network = models.open_network(run, "segmentation").network
    data = Devkit(data_root or paths.from_root(str(record["parameters"].get("data_root"))))
    ids = data.ids(split)
    names = [OTHER_DATA / f"{photo_id}.png" for photo_id in ids]
    photos = [data.image_path(photo_id) for photo_id in ids]
    made_from = dict(zip(map(str, names), map(photo_digests(photos).get, photos), strict=True))
    making = {"split": split, "scales": scales, "flip": flip, "crf": crf}
    making["weights"] = contents.digest(run / "weights.pt")
    atomic.claim(out / "export.json", making, made_from=made_from)
    settings = {"scales": scales, "flip": flip, "crf": CrfParams() if crf else None}
    job = segment_job(data, network, folder=out / OTHER_DATA, **settings)
    map_photos.infer(ids, job, label="predict")
    pack(out / "results.tgz", out, names=names)
    return check(out / "results.tgz", data.root, split=split)


def pack(archive: Path, root: Path, *, names: Iterable[PurePosixPath]) -> None:
    """Write files ``root/<name>`` and the folders above them as a tar.gz, whole or not at all.
    Equal files give equal bytes: members are sorted by name, with time 0 and owner 0.
    """
    files = set(names)
    folders = {folder for name in files for folder in name.parents[:-1]}
    with (
        atomic.write(archive) as partial,
        partial.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name in sorted(files | folders):
            member, content = tarfile.TarInfo(str(name)), b""
            if name in folders:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            else:
                content = (root / name).read_bytes()
            member.size = len(content)
            tar.addfile(member, BytesIO(content))


def check(archive: Path, data_root: Path, *, split: str = "test") -> Report:
    """Check an archive for the server, tar or tar.gz from any program, without unpacking it; one
    without faults can be scored. ``data_root`` is the devkit folder with the id list; sizes are
    compared with the photos there. Raises InputError for no such archive, devkit or id list, or a
    photo that cannot be read.
    """
    data = Devkit(data_root)
    ids = set(data.ids(split))
    if not Path(archive).is_file():
        raise InputError(f"{archive}: no such archive; give the path of a .tgz or .tar")
    found, seen = {}, set()  # names by key of FAULTS; paths of label maps
    faults, notes, most = [], [], 2 * len(ids) + 100
    try:
        with Path(archive).open("rb") as file:
            for member, content in archives.members(file, count=most, size=MEMBER_BYTES):
                for key, name in _member(member, content, data, ids, seen):
                    found.setdefault(key, []).append(name)
        found["missing"] = sorted(ids - {path.stem for path in seen})
    except tarfile.TarError as error:
        faults.append(f"not readable as tar or tar.gz to its end ({error}); pack it again")
    folders = sorted({path.parent.name for path in seen})
    found["both"] = folders if len(folders) > 1 else []
    for key, (what, fix) in FAULTS.items():
        if names := found.get(key):
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            line = f"{what} ({len(names)}): {', '.join(names[:3])}{more}; {fix}"
            (notes if key in WARNINGS else faults).append(line)
    if data.classes != tuple(VOC_CLASSES):
        notes.append(f"{data.root} has other classes than VOC's, by which the server scores")
    return Report(len(seen), faults, notes)


def _member(member, content, data, ids, seen):
    """Faults of a member, as pairs of a key and a name; adds its path to ``seen``."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not (content or member.isdir()):
        return [("unsafe", repr(member.name))]
    if member.isdir() and any(folder.is_relative_to(path) for folder in (VOC_ONLY, OTHER_DATA)):
        return []
    if path.parent not in (VOC_ONLY, OTHER_DATA):
        return [("outside", repr(member.name))]
    if member.isdir() or path.suffix != ".png" or path.stem not in ids:
        return [("extra", repr(path.name))]
    if path in seen:
        return [("duplicate", path.stem)]
    seen.add(path)
    photo = data.image(path.stem).shape[1::-1] if data.image_path(path.stem).exists() else None
    return [(key, f"{path.stem}{detail}") for key, detail in _label_map(content.read(), photo)]


def _label_map(content, photo):
    """Faults of a PNG's bytes, as pairs of a key and what to add to the name; ``photo`` is the
    photo's size (W, H), or None without it.
    """
    faults = []
    try:
        with (
            warnings.catch_warnings(action="error"),  # such as Pillow's about huge pictures
            Image.open(BytesIO(content), formats=["PNG"]) as image,  # reads the header only
        ):
            size = f"{image.width}x{image.height}"
            if image.mode != "P":
                faults.append(("mode", f" is {image.mode}"))
            if photo and image.size != photo:
                faults.append(("size", f" is {size}, its photo {photo[0]}x{photo[1]}"))
            if not photo and image.width * image.height > PIXELS:
                faults.append(("size", f" is {size}, more than a photo of VOC's"))
            if faults:
                return faults
            labels, palette = np.array(image), bytes(image.getpalette("RGB") or ())
    except UnidentifiedImageError:
        return [("unreadable", " (no PNG)")]
    except Exception as error:  # Pillow raises many kinds for a damaged file
        return [("unreadable", f" ({error})")]
    if not photo:
        faults.append(("unsized", ""))
    wrong = np.unique(labels[labels > len(VOC_CLASSES)])
    if wrong.size:
        faults.append(("values", f" has {', '.join(map(str, wrong[:-4:-1]))}"))
    # a shorter palette must have the colours of the values that occur
    colours, known = palette[: 3 * (len(VOC_CLASSES) + 1)], artifacts.voc_palette().tobytes()
    if len(palette) <= 3 * int(labels.max()) or not known.startswith(colours):
        faults.append(("palette", ""))
    return faults
