"""Everything that a person can hand over wrongly, through the command that reads it: exit code 2,
one line that names what is wrong and the mend, nothing executed, nothing left behind.

Where no command reads a file in this process, its public reader does. What is odd but sound is in
the tests of its own module.
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests import samples, test_voc12
from tests.bad_contents import Folder, Link, Pipe
from tests.bad_inputs import ALL, CASES
from wsss.cli import main
from wsss.datasets.annotations import formats
from wsss.datasets.prepare import voc12
from wsss.errors import InputError
from wsss.io import artifacts
from wsss.photos.evaluation import load_confusions

LEAST = 200  # cases; fewer would mean that a table was lost


def build(root):
    """A world: a devkit with labels, one with boxes, own photos, networks, an experiment, VOC."""
    for kit in (root / "kit", root / "boxed"):
        for id in "ab":
            write(kit / f"JPEGImages/{id}.jpg", samples.encoded(samples.photo(), "JPEG"))
            write(kit / f"SegmentationClassAug/{id}.png", samples.encoded(samples.mask(), "PNG"))
        write(kit / "ImageSets/Segmentation/train.txt", "a\nb\n")
    write(root / "kit/image_labels.csv", "id,labels\na,cat;dog\nb,dog\n")
    for id in "ab":
        write(root / f"boxed/Annotations/{id}.xml", samples.XML)
        write(root / f"own/{id}.png", samples.encoded(samples.photo(), "PNG"))
    write(root / "own/tags.csv", "id,labels\na,cat\nb,dog;cat\n")
    write(root / "own/masks/a.png", samples.encoded(samples.mask(), "PNG"))
    write(root / "own.yaml", yaml.safe_dump({"photos": "own", "classes": ["cat", "dog"]}))
    for kind in ("cam", "affinity", "segmentation"):
        write(root / f"{kind}.pt", samples.network(kind))
    common = {"dataset": "voc", "data_root": str(root / "kit")}
    write(
        root / "e.yaml",
        yaml.safe_dump({"common": common, "stages": {"dataset": {}, "train_cam": {}}}),
    )
    test_voc12.make_voc(root / "voc/VOCdevkit/VOC2012")
    test_voc12.make_sbd(root / "voc/benchmark_RELEASE/dataset")
    parameters = {"data_root": str(root / "kit")}
    write(root / "seg/weights.pt", samples.network("segmentation"))
    trained = samples.RECORD | {"stage": "train_segmentation", "parameters": parameters}
    write(root / "seg/complete.json", json.dumps(trained))
    write(root / "walk/complete.json", json.dumps(samples.RECORD))
    write(root / "cams/a.npz", samples.cams())
    write(root / "marginals/a.npz", samples.marginals())
    write(root / "confusions/val.npz", samples.confusions())
    write(root / "corrected/a.json", samples.labelme())
    write(root / "cvat/labelmap.txt", samples.LABELMAP)
    write(root / "cvat/SegmentationClass/a.png", samples.encoded(Image.new("RGB", (9, 9)), "PNG"))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


FAST = ("infer_cam.scales=[1.0]", "random_walk.steps=4", "random_walk.crf_steps=1")
BATCH = ("--processes", "1", "--out", "out")
COMMANDS = {  # what reads the files; paths are inside the world
    "devkit": ("data", "small", "--from", "kit", "--root", "out", "--long", "32"),
    "boxes": ("data", "small", "--from", "boxed", "--root", "out", "--long", "32"),
    "own": ("data", "folder", "own"),
    "description": ("data", "folder", "own.yaml"),
    "label": ("label", "own", "--cam", "cam.pt", "--affinity", "affinity.pt", *BATCH, *FAST),
    "predict": ("predict", "own", "--network", "segmentation.pt", *BATCH),
    "walk": ("label", "own", "--run", "walk", *BATCH),
    "run": ("run", "e.yaml"),
    "forecast": ("forecast", "e.yaml", "common.train_split=train", "common.val_split=train"),
    "show": ("weights", "show"),
    "convert": ("weights", "convert"),
    "voc12": ("data", "voc12", "--root", "voc", "--any-digest"),
    "archive": ("data", "voc12", "--root", "new", "--voc", "a.tar", "--any-digest"),
    "check": ("export", "voc-test", "--check", "r.tgz", "--data-root", "kit", "--split", "train"),
    "export": ("export", "voc-test", "--run", "seg", "--out", "out", "--split", "train"),
    "any": (),
}
GOES_ON = {  # where they stopped: whole files stay, and of the new ones these must not be there
    "devkit": r"/\.|partial|/b\.|ImageSets|csv$",  # without an id list it is no dataset
    "boxes": r"/\.|partial|/b\.|ImageSets|csv$",
    "voc12": r"/\.|partial|csv$",
    "archive": r"/\.|partial|escaped|after",
}
READERS = {  # what no command reads in this process
    "maps": lambda: artifacts.load_cams("cams/a.npz"),
    "marginals": lambda: artifacts.load_marginals("marginals/a.npz"),
    "confusions": lambda: load_confusions(Path("confusions/val.npz")),
    "corrections": lambda: formats.read_corrections("corrected", ("cat", "dog"), ids=["a", "b"]),
    "cvat": lambda: formats.read_corrections("cvat", ("cat", "dog"), ids=["a", "b"]),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    build(root)
    return root


@pytest.fixture
def world(tmp_path, sound, monkeypatch):
    """A copy of the sound world, which is the current folder."""
    root = tmp_path / "world"
    shutil.copytree(sound, root, copy_function=os.link)
    monkeypatch.chdir(root)
    monkeypatch.setenv("WSSS_OUTPUTS", str(root / "outputs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    for split, count in test_voc12.COUNTS.items():
        monkeypatch.setitem(voc12.EXPECTED, split, count)
    return root


def spoil(path, content):
    """Put a content at a path, not into the file that may be there: that is the sound world's."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if content is Folder:
        path.mkdir(parents=True)
    elif content is Pipe:
        os.mkfifo(path)
    elif isinstance(content, Link):
        path.symlink_to(content.target)
    elif callable(content):
        spoil(path, content(path))
    elif content is not None:
        write(path, content)


def tree(root):
    """Path to contents of all that lies in a folder, hidden files too."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def result_of(arguments, capsys):
    """``(exit code, lines on stderr)``, progress left out."""
    capsys.readouterr()
    try:
        code = main(list(arguments))
    except SystemExit as stop:  # of the parser
        code = stop.code
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return code, [line for line in lines if line and not re.search(r"[/?]\w*\]$", line)]


def test_the_table_is_whole():
    assert len(ALL) >= LEAST, len(ALL)
    assert len({repr(each) for each in ALL}) == len(ALL), "a case stands here twice"
    print(f"{len(ALL)} cases")


def test_the_world_is_sound(world, capsys):
    """So that it is the spoiling that is refused."""
    for command in ("devkit", "own", "description", "label", "predict", "voc12", "export"):
        assert result_of(COMMANDS[command], capsys)[0] == 0, command
        shutil.rmtree("out", ignore_errors=True)
    assert result_of((*COMMANDS["boxes"], "--root", "out2"), capsys) == (0, [])
    assert result_of((*COMMANDS["run"], "--dry-run"), capsys) == (0, [])
    assert result_of(COMMANDS["forecast"], capsys) == (0, [])
    for name, read in READERS.items():
        read(), name


PHOTOS = [
    pytest.param(each.spoil["own/b.png"], id=each.message)
    for each in CASES["own"]
    if each.spoil.get("own/b.png", Folder) is not Folder
]


@pytest.mark.parametrize("command", ["label", "predict"])
@pytest.mark.parametrize("content", PHOTOS)
def test_the_sound_photos_of_a_batch_get_done(command, content, world, capsys):
    spoil(world / "own/b.png", content)
    before = tree(world)
    code, lines = result_of(COMMANDS[command], capsys)
    assert code == 2 and len(lines) == 1 and "own/b.png: " in lines[0], lines
    new = {name: found for name, found in tree(world).items() if name not in before}
    assert {name for name, found in new.items() if found is not None} == {
        *("out/labels/a.png", "out/overlays/a.jpg", "out/making.json"),
        *("out/classes.txt", "out/faults.txt", "out/index.html"),
    }
    assert Path("out/faults.txt").read_text().count("\n") == 1


def shown(parameter):
    command, each = parameter
    return f"{command}: {next(iter(each.spoil), ' '.join(each.more)[:40])}: {each.message[:40]}"


@pytest.mark.parametrize("given", ALL, ids=shown)
def test_bad_input_is_one_line_and_leaves_nothing(given, world, capsys):
    command, (spoilt, message, more, names) = given
    for file, content in spoilt.items():
        spoil(world / file, content)
    before = tree(world)
    if command in READERS:
        with pytest.raises(InputError) as raised:
            READERS[command]()
        line = str(raised.value)
        assert "\n" not in line
    else:
        again = {text.partition("=")[0] for text in more if "=" in text}
        words = [word for word in COMMANDS[command] if word.partition("=")[0] not in again]
        code, lines = result_of((*words, *more), capsys)
        assert code == 2 and len(lines) == 1, (code, lines)
        (line,) = lines
        assert line.startswith("wsss")
    assert re.search(message, line), line
    assert (Path(next(iter(spoilt))).name if names is None else names) in line, line
    assert ";" in line, f"{line}: where is the mend?"
    after = tree(world)
    new = {name for name in after if name not in before}
    if command in GOES_ON:
        assert not [name for name in new if re.search(GOES_ON[command], name)]
        after = {name: content for name, content in after.items() if name not in new}
    assert after == before
