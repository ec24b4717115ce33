"""Files that stages hand on: whole or not there, and told apart from damaged ones; a photo whose
file was damaged is computed again.
"""

import os
import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from wsss import models
from wsss.apply import label_photos
from wsss.crf import CrfParams
from wsss.datasets.photos import read_photo, read_png
from wsss.datasets.voc import Devkit
from wsss.io import artifacts, atomic
from wsss.photos import jobs
from wsss.photos.map_photos import infer
from wsss.photos.segmentation import segment_job
from wsss.synthesis import Walk


def written(folder, kind):
    """A file as the stages write it."""
    random = np.random.default_rng(0)
    path = folder / kind
    if kind == "cams.npz":
        artifacts.save_cams(path, [3, 20], cams=random.random((2, 9, 8), np.float32))
    elif kind == "marginals.npz":
        low, high = random.random((2, 2, 9, 8))
        artifacts.save_marginals(path, [3], low=low, high=high)
    elif kind == "labels.png":
        artifacts.save_labels(path, random.integers(0, 21, (30, 40)))
    else:
        models.save_state({"a": torch.rand(70), "b": torch.arange(9)}, path, description={"k": 1})
    return path


@pytest.mark.parametrize("kind", ["cams.npz", "marginals.npz", "labels.png", "weights.pt"])
def test_a_file_cut_or_zeroed_anywhere_is_not_whole(tmp_path, kind):
    path = written(tmp_path, kind)
    assert atomic.is_whole(path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert not atomic.is_whole(path), f"cut to {length} of {len(content)} bytes"
    for start in (0, len(content) // 3, len(content) // 2):  # a block that never reached the disk
        for end in (len(content), start + len(content) // 3):
            path.write_bytes(content[:start] + bytes(end - start) + content[end:])
            assert not atomic.is_whole(path), f"bytes {start} to {end} of {len(content)} zeroed"
    path.write_bytes(content)
    assert atomic.is_whole(path)
    path.unlink()
    assert not atomic.is_whole(path)


def test_any_bit_of_an_array_counts(tmp_path):
    """What the checksums are for: damage that leaves the format as it is."""
    numbers = np.random.default_rng(1).random(500, np.float32)
    torch.save({"a": torch.from_numpy(numbers)}, tmp_path / "a.pt")
    np.savez(tmp_path / "a.npz", numbers)
    for path in (tmp_path / "a.pt", tmp_path / "a.npz"):
        content = bytearray(path.read_bytes())
        place = bytes(content).index(numbers.tobytes())
        for offset in (0, 777, 1999):
            content[place + offset] ^= 4
            path.write_bytes(content)
            assert not atomic.is_whole(path)
            content[place + offset] ^= 4


def test_too_many_open_files_are_not_blamed_on_a_file(tmp_path):
    """Else a sound photo is to be replaced, and a whole checkpoint deleted."""
    kinds = ("cams.npz", "marginals.npz", "labels.png", "weights.pt")
    cams, marginals, labels, weights = (written(tmp_path, kind) for kind in kinds)
    Image.new("RGB", (20, 20)).save(photo := tmp_path / "photo.jpg")
    reads = [
        *((read_photo, photo), (read_png, labels), (models.load_state, weights)),
        *((artifacts.load_cams, cams), (artifacts.load_marginals, marginals)),
        *((atomic.is_whole, path) for path in (cams, labels, weights)),
    ]
    for read, path in reads:
        read(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for read, path in reads:
        with pytest.raises(RuntimeError) as raised:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            try:
                read(path)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "Too many open files" in str(raised.value), (read, path)
        assert "raise the limit (ulimit -n)" in str(raised.value)


def test_contents_reach_the_disk_before_their_name(tmp_path, monkeypatch):
    """Else a loss of power leaves the name with nothing behind it."""
    done = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor):
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def noted_replace(source, target):
        done.append(f"{source} becomes {target}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    target = tmp_path / "sub" / "x"
    with atomic.write(target) as partial:
        partial.write_text("all of it")
    assert done == [str(partial), f"{partial} becomes {target}", str(target.parent)]
    assert [path.name for path in target.parent.iterdir()] == ["x"]


def test_threads_that_write_the_same_file_do_not_take_it_from_each_other(tmp_path):
    both = threading.Barrier(2)

    def write(text):
        with atomic.write(tmp_path / "x") as partial:
            partial.write_text(text)
            both.wait(10)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, ["one", "two"]))
    assert (tmp_path / "x").read_text() in ("one", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_killed_writers_left_is_swept(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / "sub").mkdir()
    stale = [
        tmp_path / "sub" / f".a.png.{gone.pid}.partial",
        tmp_path / f".b.pt.77.{os.getpid()}.partial",  # numbers come again, in a container at once
    ]
    kept = [
        tmp_path / f".c.npz.{os.getppid()}.partial",  # is being written
        tmp_path / "d.partial",
        tmp_path / ".progress.partial",
        tmp_path / "e.png",
    ]
    for path in stale + kept:
        path.touch()
    atomic.sweep_partials(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
    atomic.sweep_partials(tmp_path / "none")


@pytest.fixture(scope="module")
def made(tiny_shapes, tmp_path_factory):
    """Every job over three photos: name to the job and the files of each photo."""
    folder, data = tmp_path_factory.mktemp("jobs"), Devkit(tiny_shapes)
    classes = len(data.classes)
    torch.manual_seed(0)
    cam = models.build_cam("small", classes).eval()
    walk = Walk(steps=4, crf_steps=1)
    affinity = models.build_affinity("small", reduced=(8, 8, 8)).eval()
    network = models.build_segmentation("small", classes + 1, channels=8, dilation=8).eval()
    cams = folder / "cams"
    settings = {"alpha_low": 4, "alpha_high": 16, "crf": CrfParams(), "crf_steps": 1}
    settings |= {"folder": folder / "regions", "marginals": folder / "marginals"}
    found = {
        "cam": (
            jobs.cam_job(data, cam, folder=cams, scales=(1.0,), flip=False),
            [cams / "{}.npz"],
        ),
        "regions": (
            jobs.affinity_label_job(data, cams, **settings),
            [folder / "regions/{}.png", folder / "marginals/{}.npz"],
        ),
        "walk": (
            jobs.walk_job(data, cams, network=affinity, folder=folder, walk=walk),
            [folder / "walk/{}.png", folder / "labels/{}.png"],
        ),
        "segment": (
            segment_job(data, network, folder=folder / "predictions"),
            [folder / "predictions/{}.png"],
        ),
        "label": (
            label_photos.predict_job(data, network, folder=folder / "own"),
            [folder / "own/labels/{}.png"],
        ),
    }
    ids = data.ids("val")[:3]
    for job, _ in found.values():
        assert infer(ids, job, label="t", processes=1) == 3
    return ids, found


@pytest.mark.parametrize("name", ["cam", "regions", "walk", "segment", "label"])
def test_a_photo_whose_file_is_damaged_is_computed_again(made, name):
    ids, found = made
    job, files = found[name]
    assert infer(ids, job, label="t", processes=1) == 0
    for pattern in files:
        path = pattern.with_name(pattern.name.format(ids[1]))
        before = path.read_bytes()
        for damaged in (b"", before[: len(before) // 2], before[:-1], bytes(len(before))):
            path.write_bytes(damaged)
            assert infer(ids, job, label="t", processes=1) == 1
            assert path.read_bytes() == before
        path.unlink()
        assert infer(ids, job, label="t", processes=1) == 1
        assert path.read_bytes() == before
