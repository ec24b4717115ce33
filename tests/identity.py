"""Changes one thing at random between two runs of a tiny chain, again and again: no figure may be
of what was before, and no stage may run again that does not depend on the change.

    python -m tests.identity --changes 200 --seed 0

The lab, its fingerprints and the datasets are the real ones. A stage's work is to hash what it
reads, in this process, in place of papermill: whatever it reads shows in its figures. After each
change the figures and files are compared with those of a run from nothing, and the stages that ran
with those that a plain list of what each of them reads, below, says should.
"""

import argparse
import hashlib
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import nbformat
import numpy as np
from PIL import Image

from wsss import datasets
from wsss.io import contents
from wsss.lab import plan, results
from wsss.lab.project import Project
from wsss.lab.run import driver
from wsss.lab.run.notebook import Machine
from wsss.runtime.progress import Screen

CLASSES = ("cat", "dog", "owl")
PYPROJECT = """
[tool.wsss.stages]
package = "toy"
files = ["weights"]
unseen = ["dataset", "data_root"]
portable = ["learn", "teach"]
"""
CODE = {
    "base": "SALT = 0\ndef number(*things):\n    from hashlib import md5\n"
    "    return int(md5(repr((SALT, things)).encode()).hexdigest()[:8], 16)\n",
    "learning": "from toy.base import number\nSTEP = 0\ndef learn(*seen):\n"
    "    return number(STEP, *seen)\ndef unused():\n    return 0\n",
    "walking": "from toy.base import number\nREACH = 0\ndef walk(*seen):\n"
    "    return number(REACH, *seen)\n",
}
OPENED = """
from pathlib import Path
from wsss import datasets
from wsss.lab.record import stage_run
from toy import base{more}
data = datasets.open(dataset, data_root)
run = stage_run.start("{name}", globals(), dataset=data)
photos = {{id: (data.image(id).tobytes(), data.labels(id)) for id in data.ids("train")}}
masks = lambda: [data.mask(id).tobytes() for id in data.masked(data.ids("train"))]
read = lambda name: sorted((path.name, path.read_text()) for path in run.inputs[name].glob("*.txt"))
def each_photo(compute):
    for id, photo in photos.items():
        interrupt()
        path = run.folder / (id + ".txt")
        if not path.exists():
            path.write_text(str(compute(id, photo)))
    return sorted((path.name, path.read_text()) for path in run.folder.glob("*.txt"))
"""
DATA = 'dataset: str = ""\ndata_root: str = ""\n'
NOTEBOOKS = {  # name to parameters, modules and the cell that computes
    "learn": (
        'weights: str = ""\nrate: int = 0\nseed: int = 0\n',
        ", learning",
        """
network = learning.learn(photos, data.classes, Path(weights).read_bytes(), rate, seed, noise())
(run.folder / "network.txt").write_text(str(network))
run.complete({"loss": base.number(network)})
""",
    ),
    "see": (
        'learn_run: str = ""\n',
        "",
        """
network = read("learn")
maps = each_photo(lambda id, photo: base.number(id, photo, network))
run.complete({"score": base.number(maps, masks())})
""",
    ),
    "walk": (
        'see_run: str = ""\nbeta: int = 0\n',
        ", walking",
        """
maps = dict(read("see"))
walked = each_photo(lambda id, photo: walking.walk(photo, maps[id + ".txt"], beta))
run.complete({"score": base.number(walked, masks())})
""",
    ),
    "teach": (
        'walk_run: str = ""\ngiven_folder: str = ""\n',
        ", learning",
        """
given = [(path.name, path.read_bytes()) for path in sorted(Path(given_folder).iterdir())]
network = learning.learn(read("walk"), given, photos)
(run.folder / "network.txt").write_text(str(network))
run.complete({"loss": base.number(network)})
""",
    ),
}


class Chain:
    """A project in a folder, its photos in one of two layouts, and what it should compute."""

    def __init__(self, root: Path, layout: str):
        self.root, self.layout = root, layout
        self.noise, self.noises = 0, {}  # what a network owes to the machine, not to its inputs
        self.parameters = {"learn.rate": 0, "learn.seed": 0, "walk.beta": 0}
        self.done: dict[str, set] = {name: set() for name in NOTEBOOKS}
        self.photos = [f"{name}{number}" for name in "abc" for number in (1, 2)]
        self.tags = {name: {random.choice(CLASSES)} for name in self.photos}
        self.listed, self.classes = list(self.photos), list(CLASSES)
        for name, source in CODE.items():
            self.write(f"toy/{name}.py", source)
        self.write("toy/__init__.py", "")
        self.write("pyproject.toml", PYPROJECT)
        self.write("weights.bin", "0")
        self.write("given/a.txt", "0")
        for number, (name, (own, more, cell)) in enumerate(NOTEBOOKS.items(), 1):
            opened = OPENED.format(name=name, more=more)
            cells = [nbformat.v4.new_code_cell(text) for text in (DATA + own, opened, cell)]
            cells[0].metadata["tags"] = ["parameters"]
            path = root / "notebooks" / f"{number}0_{name}.ipynb"
            path.parent.mkdir(exist_ok=True)
            nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
        for name in self.photos:
            self.paint(name)
            self.paint_mask(name)
        self.write_tags()

    @property
    def data(self):
        return self.root / "photos"

    def path(self, what, name):
        voc = {"photo": "JPEGImages/{}.jpg", "mask": "SegmentationClassAug/{}.png"}
        own = {"photo": "{}.png", "mask": "masks/{}.png"}
        layout = voc if self.layout == "voc" else own
        return self.data / layout[what].format(name)

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def paint(self, name):
        path = self.path("photo", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((16, 16, 3), random.randrange(256), np.uint8)
        pixels[:4, :4] = random.randrange(256)
        Image.fromarray(pixels).save(path, format="PNG")

    def paint_mask(self, name):
        path = self.path("mask", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = np.zeros((16, 16), np.uint8)
        mask[2:9, 2:9] = random.randrange(1, 4)  # another class keeps the file's size
        Image.fromarray(mask).save(path)

    def write_tags(self):
        if self.layout == "voc":
            self.write("photos/classes.txt", "\n".join(self.classes))
            for name, tags in self.tags.items():
                boxes = "".join(f"<object><name>{tag}</name></object>" for tag in sorted(tags))
                self.write(f"photos/Annotations/{name}.xml", f"<annotation>{boxes}</annotation>")
            self.write("photos/ImageSets/Segmentation/train.txt", "\n".join(self.listed))
            return
        lines = [f"{name},{';'.join(sorted(tags))}" for name, tags in self.tags.items()]
        self.write("photos/tags.csv", "\n".join(["id,labels", *lines]))
        self.write("photos/splits/train.txt", "\n".join(self.listed))

    def reads(self) -> dict[str, str]:
        """Stage to a hash of all that its results depend on: written down here, by hand."""
        voc = self.layout == "voc"
        names = sorted(self.listed if voc else self.tags)
        classes = self.classes if voc else sorted(set().union(*self.tags.values()))
        tags = {name: sorted(self.tags[name]) for name in names}
        photos, masks = (
            {name: self.path(what, name).read_bytes() for name in names}
            for what in ("photo", "mask")
        )
        code = {name: (self.root / "toy" / f"{name}.py").read_text() for name in CODE}
        code = {
            name: source.split("def unused")[0].replace("  # why", "")
            for name, source in code.items()
        }
        learning = code["base"] + code["learning"]
        given = sorted((each.name, each.read_bytes()) for each in (self.root / "given").iterdir())
        weights = (self.root / "weights.bin").read_bytes()
        seen = photos, tags, classes, self.listed
        trained = [self.parameters[f"learn.{name}"] for name in ("rate", "seed")]
        self.network = _hash(seen, weights, trained, learning)
        learn = _hash(self.network, self.noises.setdefault(self.network, self.noise))
        see = _hash(learn, masks)
        walk = _hash(see, self.parameters["walk.beta"], code["base"] + code["walking"])
        return {"learn": learn, "see": see, "walk": walk, "teach": _hash(walk, given, learning)}

    # Changes, each to be followed by a run. Few values, so that earlier states come back.

    def change_photo(self):
        """A photo, with the times that it had."""
        path = self.path("photo", random.choice(self.photos))
        status = path.stat()
        self.paint(path.stem)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def change_mask(self):
        self.paint_mask(random.choice(self.photos))

    def change_tag(self):
        self.tags[random.choice(self.photos)] = set(random.sample(CLASSES, random.choice((1, 2))))
        self.write_tags()

    def change_class_order(self):
        random.shuffle(self.classes)
        self.write_tags()

    def change_list(self):
        self.listed = sorted(random.sample(self.photos, random.choice((4, 5, 6))))
        self.write_tags()

    def change_weights(self):
        self.write("weights.bin", random.choice("01"))

    def change_given_label(self):
        self.write(f"given/{random.choice('ab')}.txt", random.choice("01"))

    def change_parameter(self):
        self.parameters[random.choice(list(self.parameters))] = random.randrange(3)

    def change_line_of_code(self):
        name = random.choice(list(CODE))
        value, comment = random.randrange(3), random.choice(("", "  # why"))
        source = CODE[name].replace(" = 0\n", f" = {value}{comment}\n", 1)
        self.write(f"toy/{name}.py", source.replace("return 0", f"return {random.randrange(2)}"))

    def change_nothing(self):
        """Times, and the place of everything."""
        self.path("photo", self.photos[0]).touch()
        shutil.copytree(self.data, moved := self.root / "moved")
        shutil.rmtree(self.data)
        moved.rename(self.data)

    def spoil(self, outputs):
        """A file of a result, as by hand; returns the stage. A network that is made again may come
        out otherwise, as on another machine.
        """
        reads = self.reads()
        name = random.choice([name for name in NOTEBOOKS if reads[name] in self.done[name]] or [""])
        if name:
            folder = next(item.folder for item in planned(self, outputs) if item.name == name)
            path = random.choice(sorted(folder.glob("*.txt")))
            random.choice((path.unlink, lambda: path.write_text("1")))()
            if name == "learn":
                self.noise += 1
                self.noises[self.network] = self.noise
        return name


def _hash(*things):
    return hashlib.md5(repr(things).encode()).hexdigest()


def planned(chain: Chain, outputs: Path, given: dict | None = None) -> list[plan.Planned]:
    """The plan of the chain as it is now, with results in ``outputs`` and further overrides."""
    os.environ["WSSS_OUTPUTS"] = str(outputs)
    overrides: dict[str, dict] = {name: dict(values) for name, values in (given or {}).items()}
    for name, value in chain.parameters.items():
        stage, _, parameter = name.partition(".")
        overrides.setdefault(stage, {})[parameter] = value
    stages = {name: {} for name in NOTEBOOKS}
    stages["learn"] = {"weights": str(chain.root / "weights.bin")}
    stages["teach"] = {"given_folder": str(chain.root / "given")}
    common = {"dataset": chain.layout, "data_root": str(chain.data)}
    keys = {"name": "tiny", "description": "", "sweep": {}, "smoke": {}}
    experiment = keys | {"common": common, "stages": stages}
    return plan.plan(experiment, overrides, project=PROJECT)


PROJECT = Project(
    data_digest=lambda values: datasets.open(values["dataset"], values["data_root"]).digest()
)


class Uploader:
    """Uploads nothing."""

    unavailable = ""

    def __init__(self, *_, **__):
        self.watch = self.upload = lambda *_: None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def run(chain: Chain, outputs: Path, *, stop_after: int = 10**9) -> list[str]:
    """Run what is not done; returns the stages that completed. ``stop_after`` photos it is stopped
    as by Ctrl-C.
    """
    ran, left = [], [stop_after]

    def interrupt():
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    def run_stage(_, item, **__):
        if item.forced and item.folder.exists():
            shutil.rmtree(item.folder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "toy"]:
            del sys.modules[name]
        namespace = {"interrupt": interrupt, "noise": lambda: chain.noises[chain.network]}
        try:
            for cell in nbformat.read(item.stage.path, as_version=4).cells:
                exec(cell.source, namespace)
                namespace |= item.values if "parameters" in cell.metadata.get("tags", ()) else {}
        finally:
            if "run" in namespace:
                namespace["run"]._lock.release()
        ran.append(item.name)

    items = planned(chain, outputs)
    experiment = {"name": "tiny", "description": ""}
    machine = Machine(Screen(say=lambda text: None))
    with mock.patch.object(driver, "run_stage", run_stage), suppress(KeyboardInterrupt):
        driver.run(experiment, items, project=PROJECT, machine=machine)
    return ran


def found(chain: Chain, outputs: Path) -> dict:
    """Stage to its figures and the contents of its files."""
    texts = {}
    for item in planned(chain, outputs):
        assert item.done, f"{item.name} is not done after a run: {item.damage}"
        files = {path.name: path.read_text() for path in sorted(item.folder.glob("*.txt"))}
        texts[item.name] = results.completed(item.folder)["metrics"], files
    return texts


@contextmanager
def surroundings(root: Path):
    """The lab in a project's folder, without MLflow, git and lists of packages, and with a memory
    of contents in which files settle soon.
    """
    environment = {"WSSS_PROJECT": str(root), "WSSS_DRIVEN": "1", "WSSS_OUTPUTS": ""}
    nothing: Callable = lambda *_, **__: None  # noqa: E731
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch.object(sys, "path", [str(root), *sys.path]),
        mock.patch.object(sys, "dont_write_bytecode", True),
        mock.patch.object(contents, "MEMORY", root / "contents.sqlite"),
        mock.patch.object(contents, "SETTLED", 20 * 10**6),
        mock.patch.object(driver.delivery, "Uploader", Uploader),
        mock.patch.object(driver.delivery, "close_stale_runs", nothing),
        mock.patch.object(driver, "keep_notebook", nothing),
        mock.patch("wsss.lab.record.provenance.tags", dict),
        mock.patch("wsss.lab.record.provenance.write", lambda folder: []),
    ):
        yield


def check(root: Path, layout: str, *, changes: int, say: Callable = lambda text: None) -> None:
    """Change and run so often; AssertionError for a stale figure, a stage that ran needlessly, or
    one that should have run and did not.
    """
    chain, outputs = Chain(root, layout), root / "outputs"
    kinds = [name for name in dir(chain) if name.startswith("change_")] + ["spoil", "spoil"]
    if layout == "folder":
        kinds.remove("change_class_order")  # the tags' own, sorted
    with surroundings(root):
        for step in range(changes):
            kind, spoilt = random.choice(kinds) if step else "change_nothing", ""
            if kind == "spoil":
                spoilt = chain.spoil(outputs)
            else:
                getattr(chain, kind)()
            reads = chain.reads()
            due = [name for name in NOTEBOOKS if reads[name] not in chain.done[name]]
            due = [name for name in NOTEBOOKS if name in due or name == spoilt]
            stop = random.choice((10**9, 10**9, random.randrange(1, 10)))
            ran = run(chain, outputs, stop_after=stop)
            where = f"after change {step}, {kind} {spoilt}, stopped after {stop}"
            assert ran == due[: len(ran)], f"{where}: {ran} ran, {due} should"
            for name in ran:
                chain.done[name].add(reads[name])
            if len(ran) < len(due):
                assert stop < 10**9, f"{where}: {ran} ran, {due} should"
                if spoilt and spoilt not in ran:  # still spoilt
                    chain.done[spoilt].discard(reads[spoilt])
                continue
            run(chain, root / "afresh")
            assert found(chain, outputs) == found(chain, root / "afresh"), where
            shutil.rmtree(root / "afresh")
            say(f"{layout} {step}: {kind} {spoilt}: {', '.join(ran) or 'nothing'} ran")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    for layout in ("voc", "folder"):
        with tempfile.TemporaryDirectory() as root:
            check(Path(root), layout, changes=arguments.changes // 2, say=print)
    print(f"{arguments.changes} changes: no stale figure, no needless run")


if __name__ == "__main__":
    main()
