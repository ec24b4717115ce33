"""Sound files of every kind that is read, spoilt at random: a reader returns, or raises InputError.

    python -m tests.fuzz --seconds 60 --seed 0

Anything else (another exception, a crash, ten seconds, gigabytes, a message that does not name the
file) is a find: it is printed with its seed, and the file is kept to look at.
``tests/test_fuzz.py`` runs a few spoilt files of each kind.
"""

import argparse
import contextlib
import faulthandler
import gzip
import io
import json
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from PIL import Image

from tests import samples
from tests.spoiling import spoilt, spoilt_inside
from wsss import models
from wsss.datasets import Devkit, Folder
from wsss.datasets.annotations import formats
from wsss.datasets.photos import photo_size, read_photo
from wsss.datasets.prepare import archives
from wsss.datasets.prepare.unpack import Download, fetch
from wsss.datasets.prepare.voc12 import read_sbd_mask
from wsss.datasets.tags import read_tags
from wsss.datasets.voc import read_ids, read_mask
from wsss.errors import InputError
from wsss.io import artifacts
from wsss.lab import plan, results
from wsss.lab.run import grid
from wsss.photos.evaluation import load_confusions

SECONDS = 10.0  # of one file; the machine may be busy
BYTES = 3 << 30  # of memory beyond what the process has when it starts


class Kind(NamedTuple):
    """Files of one kind.

    Attributes:
        name: of the file, which may lie in folders.
        sound: bytes of files that are right.
        read: the reader, of a path.
        inner: ``zip``, ``gzip`` or ``png`` where checksums are put right after the spoiling, so
            that it reaches what they protect.
    """

    name: str
    sound: list
    read: object
    inner: str = ""


class TooSlow(BaseException):
    """Beyond ``SECONDS``; no reader may catch it."""


def _photo(path):
    read_photo(path, long_side=64)
    photo_size(path)


def _members(path):
    with path.open("rb") as file, contextlib.suppress(tarfile.TarError):  # what this one raises
        for _, content in archives.members(file, count=50, size=2**20):
            if content:
                content.read()


DOWNLOAD = Download("a.tar", "", "top", ("top",), "nowhere")


def _download(path):
    target = path.parent / "target"
    fetch(DOWNLOAD, path, target=target, any_digest=True)
    shutil.rmtree(target, ignore_errors=True)


def _network(path):
    models.load_state(path)
    models.open_network(path)


def _annotation(path):
    (path.parents[1] / "JPEGImages").mkdir(exist_ok=True)
    Devkit(path.parents[1]).boxed_labels(path.stem)


def _labels(path):
    (path.parent / "JPEGImages").mkdir(exist_ok=True)
    with contextlib.suppress(KeyError):
        Devkit(path.parent).labelled()


def _experiment(path):
    experiment = plan.read_experiment(path)
    with contextlib.suppress(InputError):  # which names what is wrong in it
        grid.combinations(experiment)


def _description(path):
    if not (path.parent / "photos").is_dir():
        (path.parent / "photos").mkdir()
        for name in "ab":
            samples.photo().save(path.parent / "photos" / f"{name}.png")
    data = Folder.open(path)
    with contextlib.suppress(InputError):  # which names the list
        data.ids("all")


def _corrections(path):
    folder = path.parent
    (folder / "SegmentationClass").mkdir(exist_ok=True)
    Image.new("RGB", (30, 20), (1, 2, 3)).save(folder / "SegmentationClass" / "a.png")
    formats.read_corrections(folder, samples.CLASSES, ids=["a"])


def _overrides(path):
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    try:
        plan.parse_overrides(filter(None, text.split("\n")))
    except InputError as fault:
        raise InputError(f"{path}: {fault}") from None


def kinds():
    """Every ``Kind``, by name."""
    photo = samples.photo()
    encoded = samples.encoded
    tar = samples.tar({"top/a.txt": b"one", "top/b/c.txt": b"two" * 300})
    mask = encoded(samples.mask(), "PNG")
    return {
        "jpeg": Kind("a.jpg", [encoded(photo, "JPEG"), samples.turned()], _photo),
        "png": Kind("a.png", [encoded(photo, "PNG"), encoded(photo.convert("P"), "PNG")], _photo),
        "png inside": Kind("a.png", [encoded(photo.convert("RGBA"), "PNG")], _photo, "png"),
        "webp": Kind("a.webp", [encoded(photo, "WEBP")], _photo),
        "tiff": Kind("a.png", [encoded(photo, "TIFF")], _photo),
        "gif": Kind("a.jpg", [encoded(photo, "GIF")], _photo),
        "mask": Kind("a.png", [mask], lambda path: read_mask(path, num_classes=20)),
        "mask inside": Kind("a.png", [mask], lambda path: read_mask(path, num_classes=20), "png"),
        "maps": Kind("a.npz", [samples.cams()], artifacts.load_cams),
        "maps inside": Kind("a.npz", [samples.cams()], artifacts.load_cams, "zip"),
        "marginals": Kind("a.npz", [samples.marginals()], artifacts.load_marginals, "zip"),
        "confusions": Kind("a.npz", [samples.confusions()], load_confusions, "zip"),
        "params": Kind("a.params", samples.params(), models.load_state),
        "caffe": Kind("a.caffemodel", samples.caffe(), models.load_state),
        "checkpoint": Kind("a.pt", [samples.network()], _network),
        "checkpoint inside": Kind("a.pt", [samples.network()], _network, "zip"),
        "old checkpoint": Kind("a.pth", [samples.old_checkpoint()], models.load_state),
        "mat": Kind("a.mat", [samples.mat(True), samples.mat(False)], read_sbd_mask),
        "tar": Kind("a.tar", [tar], _members),
        "tgz": Kind("a.tgz", [gzip.compress(tar)], _members, "gzip"),
        "download": Kind("a.tar", [tar], _download),
        "download packed": Kind("a.tgz", [gzip.compress(tar)], _download),
        "download inside": Kind("a.tgz", [gzip.compress(tar)], _download, "gzip"),
        "csv": Kind("t.csv", [samples.CSV], read_tags),
        "labels": Kind("image_labels.csv", [samples.VOC_CSV], _labels),
        "json": Kind("t.json", [json.dumps(samples.TAGS).encode()], read_tags),
        "coco": Kind("t.json", [json.dumps(samples.COCO).encode()], read_tags),
        "labelme": Kind(
            "a.json",
            [samples.labelme()],
            lambda path: formats.read_correction(path, samples.CLASSES),
        ),
        "cvat": Kind("labelmap.txt", [samples.LABELMAP], _corrections),
        "xml": Kind("Annotations/a.xml", [samples.XML], _annotation),
        "experiment": Kind("e.yaml", [yaml.safe_dump(samples.EXPERIMENT).encode()], _experiment),
        "description": Kind("d.yaml", [yaml.safe_dump(samples.DESCRIPTION).encode()], _description),
        "overrides": Kind("o.txt", [b"random_walk.beta=4\na.b=[1, {c: d}]\n"], _overrides),
        "ids": Kind("train.txt", [b"2007_000001\n2007_000002 1\r\n"], read_ids),
        "record": Kind(
            "complete.json",
            [json.dumps(samples.RECORD).encode()],
            lambda path: (results.completion(path.parent), results.damage(path.parent)),
        ),
    }


def made(kind, random):
    """One spoilt file."""
    content = kind.sound[random.integers(len(kind.sound))]
    if kind.inner:
        return spoilt_inside(random, content, kind.inner)
    return spoilt(random, content, kind.sound)


def fault_of(kind, path):
    """What is wrong with how a reader takes a file, or None."""
    before, began = _peak(), time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            kind.read(path)
        fault = None
    except InputError as error:
        fault = None if path.name in str(error) else f"a message without the file: {error}"
    except TooSlow:
        fault = "too slow"
    except Exception:
        fault = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if time.monotonic() - began > SECONDS:
        fault = "too slow"
    if _peak() - before > BYTES // 3 * 2:
        fault = f"{(_peak() - before) >> 20} MiB of memory"
    return fault


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@contextlib.contextmanager
def bounds():
    """What readers are held to: an alarm, and on Linux a limit of memory."""

    def ring(number, frame):
        raise TooSlow

    handler = signal.signal(signal.SIGALRM, ring)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, handler)


def trial(name, kind, seed, number, folder):
    """Spoil a file and have it read: what is wrong with that, or None. The file stays if the
    process dies.

    Returns:
        ``(path, fault)``.
    """
    path = folder / name.replace(" ", "_") / kind.name
    path.parent.mkdir(parents=True, exist_ok=True)
    words = [seed, number, *name.encode()]
    path.write_bytes(made(kind, np.random.default_rng(words)))
    return path, fault_of(kind, path)


def run(seconds, seed, *, only=None, start=0, out=Path("outputs/fuzz")):
    """Spoil files of all kinds in turn until the time is over; returns the number of finds."""
    torch.set_num_threads(1)
    faulthandler.enable()
    found, number = {}, start
    chosen = {name: kind for name, kind in kinds().items() if only in (None, name)}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, bounds():
        while time.monotonic() - began < seconds:
            for name, kind in chosen.items():
                path, fault = trial(name, kind, seed, number, Path(folder))
                if not fault:
                    continue
                last = fault.strip().splitlines()[-1]
                if (name, last[:40]) in found:
                    continue
                found[name, last[:40]] = True
                out.mkdir(parents=True, exist_ok=True)
                kept = out / f"{name.replace(' ', '_')}-{seed}-{number}{path.suffix}"
                shutil.copy(path, kept)
                print(f"find: {name}, seed {seed}, number {number}, kept as {kept}\n{fault}")
            number += 1
    print(f"{number - start} files of each of {len(chosen)} kinds, seed {seed}: {len(found)} finds")
    return len(found)


def main():
    grammar = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    grammar.add_argument("--seconds", type=float, default=60, help="how long (60)")
    grammar.add_argument("--seed", type=int, default=0, help="of all files (0)")
    grammar.add_argument("--only", help="one kind")
    grammar.add_argument("--start", type=int, default=0, help="the number of the first file (0)")
    given = grammar.parse_args()
    return 1 if run(given.seconds, given.seed, only=given.only, start=given.start) else 0


if __name__ == "__main__":
    sys.exit(main())
