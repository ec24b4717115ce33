"""Every command in the README and in docs/ does what it says, page by page, in a folder of its own.

Experiments are planned, not run: that names, types and files fit is what a page can get wrong.
"""

import re
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wsss import cli, models
from wsss.datasets import Devkit
from wsss.datasets.voc import VOC_CLASSES
from wsss.io import artifacts, atomic
from wsss.lab import paths, stages

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_ELSEWHERE = {  # their files are large or their work is long; their own tests run them
    ("weights", "show"),
    ("weights", "convert"),
    ("data", "voc12"),
    ("data", "small"),
    ("reproduce",),
    ("bench",),
    ("auto",),
}


def commands(page):
    """The commands of a page's bash blocks as lists of words, comments and settings left out."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s&&\s", line):
                words = shlex.split(part, comments=True)
                while words and re.match(r"[A-Z_]+=", words[0]):
                    words = words[1:]
                if words:
                    found.append(words)
    return found


def inline(page):
    """The commands of this project that stand in a page's text."""
    texts = re.findall(r"`(wsss [^`\n]+)`", page.read_text())
    return [shlex.split(text) for text in texts if not re.search(r"\.\.\.|[A-Z]{3,}\b|<", text)]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Files of small random networks of VOC's classes, by kind."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("networks")
    shape = {"output_stride": 8}
    built = {
        "cam": (models.build_cam("small", 20, **shape), {}),
        "affinity": (models.build_affinity("small", reduced=[4, 4], **shape), {"reduced": [4, 4]}),
        "segmentation": (
            models.build_segmentation("small", 21, channels=8, dilation=24, **shape),
            {"channels": 8, "dilation": 24},
        ),
    }
    for kind, (network, more) in built.items():
        models.save_network(
            folder / f"{kind}.pt",
            network,
            kind=kind,
            classes=VOC_CLASSES,
            backbone="small",
            **shape,
            **more,
        )
    return folder


@pytest.fixture
def project(tmp_path, monkeypatch, networks, tiny_shapes):
    """A project's folder with what the pages speak of: photos, tags, completed stages."""
    for name in ("notebooks", "experiments"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "Makefile").symlink_to(ROOT / "Makefile")
    data = Devkit(tiny_shapes)
    small = data.ids("train")[:4]
    for place, id in enumerate(small):
        path = tmp_path / "photos" / ("garden" if place % 2 else "") / f"IMG_{place}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.image(id)).save(path)
    (tmp_path / "photos" / "tags.csv").write_text(
        "id,labels\nIMG_0,cat;chair\ngarden/IMG_1.jpg,dog\nIMG_2,dog;cat\ngarden/IMG_3,chair\n"
    )
    artifacts.save_labels(tmp_path / "corrected" / "IMG_0.png", np.zeros((96, 96)))
    voc = tmp_path / "VOCdevkit" / "VOC2012"
    (voc / "JPEGImages").mkdir(parents=True)
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    Image.fromarray(data.image(small[0])).save(voc / "JPEGImages" / "2008_000001.jpg")
    (voc / "ImageSets" / "Segmentation" / "test.txt").write_text("2008_000001\n")
    (tmp_path / "data" / "voc12").parent.mkdir()
    (tmp_path / "data" / "voc12").symlink_to(tiny_shapes)
    (tmp_path / "data" / "shapes").symlink_to(tiny_shapes)
    run = "0123456789ab"
    parameters = {"scales": [1.0], "flip": False, "steps": 8, "crf_steps": 1, "data_root": "x"}
    uses = {"infer_cam": ["train_cam"], "random_walk": ["infer_cam", "train_affinity"]}
    names = ("train_cam", "infer_cam", "train_affinity", "random_walk", "train_segmentation")
    for stage in names:
        record = {
            "stage": stage,
            "fingerprint": run,
            "inputs": {name: run for name in uses.get(stage, ())},
            "parameters": parameters,
            **{"data_digest": "d", "metrics": {}, "ended": 0},
        }
        folder = tmp_path / "outputs" / stage / run
        atomic.save_json(folder / "complete.json", record)
        file = networks / f"{stage.removeprefix('train_')}.pt"
        if file.exists():
            (folder / "weights.pt").write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return tmp_path


def do(words, project):
    """Run one command of a page, or what of it can be run here."""
    if words[0] == "wsss":
        rest = words[1:]
        cli.parser().parse_known_args(rest)  # leaves the test where it does not fit
        if rest[0] == "run" and "--dry-run" not in rest:
            rest.append("--dry-run")
        if not {tuple(rest[:1]), tuple(rest[:2])} & RUN_ELSEWHERE:
            assert cli.main(rest) == 0, words
    elif words[0] == "make":
        targets = set(re.findall(r"^([a-z]+):", (project / "Makefile").read_text(), re.M))
        assert words[1] in targets, words
    elif words[0] == "papermill":
        stage = next(s for s in stages.read_stages().values() if s.path.name in words[1])
        stage.resolve({name: False for name in words[words.index("-p") + 1 :: 3]})
    elif words[:2] == ["jupyter", "lab"]:
        assert (project / words[2]).exists(), words
    elif words[0] == "mlflow":  # servers, which other tests start; here, that options are right
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of its own type hints, when imported
            from mlflow.cli import cli as command
        rest = words[1:]
        while rest and rest[0] in getattr(command, "commands", {}):
            command, rest = command.commands[rest[0]], rest[1:]
        command.make_context(words[0], rest)
    else:
        assert words[0] in KNOWN, f"{words}: no test runs it"


# other programs; test_mlflow_model sends what curl would, test_postgres and test_recipes do those
# of servers
KNOWN = {"apt-get", "chmod", "conda", "curl", "echo", "export", "jq", "kubectl", "pip", "ray"}
KNOWN |= {"sbatch", "source", "ssh", "sudo"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_pages_commands_do_what_they_say(page, project):
    for words in commands(page):
        do(words, project)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_pages_text_names_commands_and_files_that_are_there(page):
    for words in inline(page):
        if len(words) > 1 and words[1] != "run":
            choices = next(a for a in cli.parser()._actions if a.choices).choices
            assert words[1] in choices, words
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
