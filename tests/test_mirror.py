"""Files of machines that share no folder: workers read what the driver uploads, and the driver
downloads what they write.
"""

import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from wsss import cli, datasets
from wsss.cluster import object_store
from wsss.datasets.photos import photo_size, read_photo, read_png
from wsss.errors import InputError
from wsss.io import artifacts, atomic, mirror, text
from wsss.train import checkpoints


@pytest.fixture(autouse=True)
def none_chosen(monkeypatch):
    for name in (object_store.ADDRESS, object_store.SCRATCH, mirror.MIRROR):
        monkeypatch.setenv(name, "")  # restored after the test
        monkeypatch.delenv(name)


@pytest.fixture
def chosen(tmp_path):
    """The folder of a mirror that is in use."""
    object_store.choose(f"file://{tmp_path / 'mirror'}")
    return tmp_path / "mirror"


@pytest.fixture
def elsewhere(tmp_path):
    """A function that makes this process a worker on a machine that does not have some folder."""

    def become(folder):
        shutil.move(folder, tmp_path / "out of sight")
        (tmp_path / "scratch").mkdir(exist_ok=True)
        os.environ[object_store.SCRATCH] = str(tmp_path / "scratch")
        os.environ[mirror.MIRROR] = object_store.__name__

    return become


def save_photo(path):
    pixels = np.arange(24 * 20 * 3, dtype=np.uint8).reshape(24, 20, 3)
    Image.fromarray(pixels).save(path)


KINDS = {  # file to what makes it, and what reads it
    "photo.png": (save_photo, read_photo),
    "size.png": (save_photo, photo_size),
    "mask.png": (lambda p: artifacts.save_labels(p, np.eye(9)), read_png),
    "list.txt": (lambda p: p.write_text("a\nb"), lambda p: text.read_text(p, "a list")),
    "maps.npz": (
        lambda p: artifacts.save_cams(p, [2], cams=np.full((1, 3, 4), 0.5)),
        lambda p: artifacts.load_cams(p)[1],
    ),
    "counts.npz": (
        lambda p: np.savez(p, counts=np.arange(6).reshape(1, 2, 3)),
        lambda p: artifacts.read_arrays(p, counts=("i", 3))["counts"],
    ),
    "whole.npz": (lambda p: np.savez(p, a=1), atomic.is_whole),
    "checkpoint.pt": (
        lambda p: checkpoints.save(p, {"network": {"a": torch.arange(3)}}),
        lambda p: checkpoints.newest(p, "cpu")["network"]["a"],
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_workers_read_what_is_uploaded(tmp_path, chosen, elsewhere, name):
    make, read = KINDS[name]
    path = tmp_path / "data" / "inner" / name
    path.parent.mkdir(parents=True)
    make(path)
    expected = read(path)
    object_store.upload([tmp_path / "data"])
    elsewhere(tmp_path / "data")
    np.testing.assert_equal(np.asarray(read(path)), np.asarray(expected))
    assert not path.exists()  # the copy is in the scratch folder


def test_what_workers_write_is_downloaded(tmp_path, chosen, elsewhere):
    folder = tmp_path / "outputs"
    folder.mkdir()
    artifacts.save_labels(folder / "old.png", np.eye(9))
    elsewhere(folder)
    artifacts.save_labels(folder / "a" / "new.png", np.eye(5))
    assert atomic.is_whole(folder / "a" / "new.png") and not folder.exists()
    object_store.work_from(None)  # the driver again
    object_store.choose(f"file://{chosen}")
    object_store.download([folder])
    assert read_png(folder / "a" / "new.png").shape == (5, 5)
    assert [path.name for path in folder.rglob("*.png")] == ["new.png"]


def test_room_is_freed(tmp_path, chosen, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(object_store, "_scratch", None)
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = tmp_path / "temporary" / f"{object_store.SCRATCH_PREFIX}{ended.pid}-x"
    others = tmp_path / "temporary" / f"{object_store.SCRATCH_PREFIX}{os.getppid()}-x"
    left.mkdir(parents=True)
    others.mkdir()
    (chosen / "a").mkdir(parents=True)
    (chosen / "a" / "list.txt").write_text("x")
    object_store.work_from(object_store.address())
    assert not left.exists() and others.exists()  # one was killed, one works on
    assert text.read_text("/a/list.txt", "a list") == "x"
    copy = mirror.local_path("/a/list.txt")
    assert copy.exists() and copy.is_relative_to(tmp_path / "temporary")
    object_store.clear_scratch()
    assert not copy.exists()
    assert text.read_text("/a/list.txt", "a list") == "x"
    object_store._scratch.cleanup()


def test_only_what_differs_is_transferred(tmp_path, chosen):
    for name in ("same", "grown", "new"):
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_text("old")
    (tmp_path / "data" / ".hidden").write_text("a lock")
    copy = chosen / str(tmp_path / "data").lstrip("/")
    copy.mkdir(parents=True)
    (copy / "same").write_text("OLD")  # of the same name and size, taken for the same
    (copy / "grown").write_text("o")
    object_store.upload([tmp_path / "data"])
    found = {path.name: path.read_text() for path in copy.iterdir()}
    assert found == {"same": "OLD", "grown": "old", "new": "old"}
    (copy / "grown").write_text("grown")
    (copy / "later").write_text("x")
    object_store.download([tmp_path / "data"])
    found = {path.name: path.read_text() for path in (tmp_path / "data").iterdir()}
    assert found == {
        "same": "old",
        "grown": "grown",
        "new": "old",
        "later": "x",
        ".hidden": "a lock",
    }


def test_without_a_mirror_files_are_where_they_are(tmp_path):
    assert object_store.address() is None
    path = tmp_path / "x"
    assert mirror.download_file(path) == mirror.local_path(path) == path


@dataclass
class Naming:
    dataset: object
    folder: Path
    more: tuple


def test_paths_are_found_wherever_they_are_named(tiny_shapes):
    data = datasets.open("shapes", tiny_shapes)
    found = object_store.paths_in(Naming(data, Path("a"), ({"b": Path("c")}, torch.zeros(2))))
    assert found == {data.root, Path("a"), Path("c")}


def test_a_dataset_that_is_sent_has_its_tags(tmp_path, tiny_shapes, chosen, elsewhere):
    shutil.copytree(tiny_shapes, tmp_path / "data")
    data = datasets.open("voc", tmp_path / "data")
    object_store.upload([data.root])
    (id, *_) = data.ids("train")
    sent = pickle.dumps(data)
    expected = data.labels(id), data.image(id), data.mask(id)
    elsewhere(tmp_path / "data")
    data = pickle.loads(sent)
    np.testing.assert_equal((data.labels(id), data.image(id), data.mask(id)), expected)


@pytest.mark.parametrize(
    "address", ["nothing://bucket/x", "file:///proc/none/x", "http://127.0.0.1:1/x"]
)
def test_a_wrong_address_is_one_line(address):
    with pytest.raises(InputError, match="expected a place that fsspec can read") as error:
        object_store.choose(address)
    assert "\n" not in str(error.value)


def test_a_mirror_needs_a_cluster(capsys):
    experiment = str(Path(__file__).parents[1] / "experiments" / "shapes.yaml")
    assert cli.main(["run", experiment, "--mirror", "s3://b"]) == 2
    assert "--mirror s3://b: is a Ray cluster's; add --engine ray" in capsys.readouterr().err


@pytest.fixture
def bucket(monkeypatch):
    """The address of a bucket of an object store on this machine that speaks S3."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: make cluster")
    pytest.importorskip("moto", reason="moto is not installed: make cluster")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"),
        ("AWS_ACCESS_KEY_ID", "me"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # of another server's
        fsspec.filesystem("s3").mkdir("photos")
        yield "s3://photos/wsss"
    finally:
        server.kill()
        server.wait()


@pytest.mark.cluster
def test_an_object_store_takes_a_folders_place(bucket, tmp_path, elsewhere):
    object_store.choose(bucket)
    folder = tmp_path / "data"
    for number in range(40):
        artifacts.save_cams(folder / f"{number}.npz", [1 + number], cams=np.full((1, 2, 2), 0.5))
    object_store.upload([folder])
    elsewhere(folder)
    for number in range(40):
        assert artifacts.load_cams(folder / f"{number}.npz")[0] == [1 + number]
    checkpoints.save(folder / "checkpoint.pt", {"network": {"a": torch.arange(3)}})
    assert not atomic.is_whole(folder / "none.npz")
    object_store.work_from(None)
    object_store.choose(bucket)
    object_store.download([folder])
    assert len(list(folder.glob("*.npz"))) == 40 and os.listdir(folder).count("checkpoint.pt") == 1


@pytest.mark.cluster
def test_a_bucket_that_is_not_there_is_one_line(bucket):
    with pytest.raises(InputError, match=r"s3://none/x: expected a place .* credentials"):
        object_store.choose("s3://none/x")
