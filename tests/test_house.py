"""The rules of the house hold (CONTRIBUTING.md), and each of them sees what breaks it."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import wsss
from tests import house
from tests.house import House

HOUSE = House(house.PACKAGE)
OUTSIDE_THE_METHOD = {"mlflow", "papermill", "matplotlib", "seaborn"}
TOY = {
    "__init__.py": "def __getattr__(name):\n    from wsss.photos import jobs\n",
    "__main__.py": "from wsss.cli import main\n",
    "errors.py": "import sys\n",
    "viz.py": "import matplotlib\nfrom wsss.io import text\n",
    "affinity.py": "import io\nimport numpy\nimport torch\nfrom wsss.errors import InputError\n",
    "cam.py": "from PIL import Image\nfrom wsss import affinity\nimport wsss.runtime.devices\n",
    "runtime/devices.py": "import torch\n",
    "runtime/progress.py": "from tqdm import tqdm\n",
    "io/text.py": "from wsss.runtime.progress import progress\n",
    "models/build.py": "from . import heads\nfrom wsss.cam import cam\n",
    "models/heads.py": "",
    "train/loop.py": "from wsss.models.build import build_cam\n",
    "photos/jobs.py": "import wsss.io.text\n",
    "lab/stage.py": "from ..io.text import read\nfrom wsss.errors import InputError\n",
    "lab/record/journal.py": "import mlflow\nfrom wsss.lab import stage\n",
    "lab/run/notebook.py": 'CODE = """\n    import papermill\n"""\n',
    "apply/registry.py": "import mlflow.pyfunc\nfrom wsss.lab.record import journal\n",
    "cluster/session.py": "import ray\nfrom wsss.photos import jobs\n",
    "cli/__init__.py": "def main():\n    from wsss import viz\n    from wsss.apply import registry",
}
README = "photo -> work -> result\n"


@pytest.fixture
def build(tmp_path):
    """Build the toy with some files added or put in place of its own."""

    def write(changes=()):
        files = TOY | {f"{folder}/README.md": README for folder in house.WITH_README}
        for name, text in (files | dict(changes)).items():
            path = tmp_path / "wsss" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            for folder in path.relative_to(tmp_path).parents[:-1]:
                (tmp_path / folder / "__init__.py").touch()
        return House(tmp_path / "wsss")

    return write


@pytest.mark.parametrize("rule", house.RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule):
    faults = list(rule(HOUSE))
    assert not faults, "\n".join([rule.__doc__, *faults])


@pytest.mark.parametrize("rule", house.RULES, ids=lambda rule: rule.__name__)
def test_a_toy_keeps_the_rule(build, rule):
    assert list(rule(build())) == []


FROM_ROOT = "def build():\n    from wsss.lab.paths import from_root, project_root\n"


@pytest.mark.parametrize(
    ("rule", "changes", "fault"),
    [
        (
            house.order,
            {"models/build.py": FROM_ROOT, "lab/paths.py": ""},
            "models may not import lab: models/build.py takes from_root, project_root",
        ),
        (
            house.order,
            {"runtime/devices.py": "from wsss.io import text"},
            "runtime may not import io: runtime/devices.py takes io.text",
        ),
        (
            house.order,
            {"cam.py": "from wsss import random_walk", "random_walk.py": ""},
            "cam may not import random_walk: cam.py takes random_walk",
        ),
        (
            house.order,
            {"errors.py": "import wsss"},
            "errors may not import wsss: errors.py takes wsss",
        ),
        (
            house.order,
            {"train/checkpoints.py": "from wsss.train.loop import f", "train/loop.py": FROM_ROOT},
            "train/loop.py imports wsss.lab.paths, which does not exist",
        ),
        (
            house.order,
            {"attic/old.py": ""},
            "attic has no rank; give it one in RANKS of tests/house.py, or move it",
        ),
        (
            house.order,
            {"helper.py": ""},
            "helper has no rank; give it one in RANKS of tests/house.py, or move it",
        ),
        (
            house.order,
            {
                "io/a.py": "from wsss.io.b import f",
                "io/b.py": "def f():\n    from wsss.io import c",
                "io/c.py": "from . import a",
            },
            "circle of files: io/a.py -> io/b.py -> io/c.py -> io/a.py",
        ),
        (
            house.method,
            {"affinity.py": "def f():\n    from scipy import sparse"},
            "affinity may not import scipy: affinity.py takes scipy.sparse",
        ),
        (
            house.method,
            {"cam.py": "from wsss.io import text\n"},
            "cam may not import io: cam.py takes io.text",
        ),
        (
            house.method,
            {"cam.py": "from wsss.runtime.progress import progress\n"},
            "cam may not import runtime: cam.py takes progress",
        ),
        (
            house.lab,
            {"lab/stage.py": "from wsss import viz"},
            "lab may not import viz: lab/stage.py takes viz",
        ),
        (
            house.lab,
            {"lab/run/notebook.py": "def f():\n    from wsss.models import heads"},
            "lab/run may not import models: lab/run/notebook.py takes models.heads",
        ),
        (
            house.lab,
            {"models/heads.py": "import wsss.lab.stage"},
            "models may not import lab: models/heads.py takes lab.stage",
        ),
        (
            house.lab,
            {"photos/jobs.py": "from wsss.lab.record.journal import Journal"},
            "photos may not import lab/record: photos/jobs.py takes Journal",
        ),
        (
            house.outside,
            {"lab/stage.py": "def f():\n    import mlflow"},
            "lab may not import mlflow: lab/stage.py takes mlflow; only lab/record and apply may",
        ),
        (
            house.outside,
            {"lab/run/driver.py": 'COMMAND = ["python", "-m", "papermill"]'},
            "lab/run may not import papermill: lab/run/driver.py takes papermill; "
            "only lab/run/notebook.py may",
        ),
        (
            house.outside,
            {"train/loop.py": 'from importlib import import_module\nimport_module("ray.train")'},
            "train may not import ray: train/loop.py takes ray.train; only cluster may",
        ),
        (
            house.sizes,
            {f"io/{letter}.py": "" for letter in "abcdefgh"},
            "io/ has 9 files, at most 8",
        ),
        (house.sizes, {"io/text.py": "\n" * 351}, "io/text.py has 351 lines, at most 350"),
        (
            house.sizes,
            {"io/utils.py": ""},
            "io/utils.py: a function stands in the file of its concept; name the concept",
        ),
        (
            house.sizes,
            {"train/README.md": "a line\n" * 16},
            "train/README.md has 16 lines; write 1 to 15",
        ),
        (house.sizes, {"lab/README.md": ""}, "lab/README.md has 0 lines; write 1 to 15"),
    ],
)
def test_a_rule_sees_what_breaks_it(build, rule, changes, fault):
    assert fault in list(rule(build(changes)))


@pytest.mark.parametrize(
    ("limit", "rule", "fault"),
    [
        ("FLOORS", house.order, "7 floors, at most 6; python -m tests.house shows them"),
        ("LINES", house.sizes, "the package has 34 lines, at most 6"),
    ],
)
def test_a_house_that_grows_too_large_is_seen(build, monkeypatch, limit, rule, fault):
    monkeypatch.setattr(house, limit, 6)
    assert list(rule(build())) == [fault]


@pytest.mark.parametrize(
    ("line", "target", "taken"),
    [
        ("from wsss.io import text", "io/text.py", "io.text"),
        ("from wsss.io import read", "io/__init__.py", "read"),
        ("from wsss.io.text import read as r", "io/text.py", "read"),
        ("from wsss import io", "io/__init__.py", "io"),
        ("from wsss import __version__", "__init__.py", "__version__"),
        ("import wsss.io.text as t", "io/text.py", "io.text"),
        ("import wsss", "__init__.py", "wsss"),
        ("from . import heads", "models/heads.py", "models.heads"),
        ("from .heads import Head", "models/heads.py", "Head"),
        ("from ..io.text import read", "io/text.py", "read"),
        ("class A:\n    def f(self):\n        import wsss.viz", "viz.py", "viz"),
        ("importlib.import_module('wsss.viz')", "viz.py", "viz"),
        ("run('  sys.path = {path!r}\\n  from wsss import viz')", "viz.py", "viz"),
        ("from mlflow.entities import Metric", "mlflow", "mlflow.entities.Metric"),
    ],
)
def test_imports_are_read_in_every_form(build, line, target, taken):
    toy = build({"models/layers.py": line})
    found = [each for each in toy.imports if each.file == Path("models/layers.py")]
    assert [(str(each.target), each.taken) for each in found] == [(target, taken)]


def test_prose_and_comments_import_nothing(build):
    text = '"""An example:\n\n    import mlflow\n"""\n# import mlflow\nraise E("no import mlflow")'
    assert not [found for found in build({"viz.py": text}).imports if found.room == "viz"]


def test_floors_are_the_longest_chains(build):
    floors = build().floors()
    assert floors["errors"] == floors["runtime"] == 1
    assert (floors["affinity"], floors["cam"], floors["models"], floors["train"]) == (2, 3, 4, 5)
    assert floors["wsss"] == 4 and floors["lab/record"] == 4 and floors["__main__"] == 7


def test_the_table_can_be_read(build, monkeypatch, capsys):
    toy = build()
    monkeypatch.setattr(house, "PACKAGE", toy.root)
    assert house.main() == 0
    printed = capsys.readouterr().out
    for line in (
        "floor  room                 files  lines  longest file               imports",
        "    4  models                   3      2  build.py 2                 cam",
        "17 rooms on 7 floors, 17 arrows",
        "0 upward imports, 0 circles of files",
    ):
        assert line in printed.splitlines()
    build({"io/text.py": "import ray\nfrom wsss.photos import jobs\n"})
    assert house.main() == 1
    printed = capsys.readouterr().out
    assert "1 upward imports, 1 circles of files" in printed
    assert "    io may not import ray: io/text.py takes ray; only cluster may" in printed


def code(path):
    """The syntax tree of a file of Python or of a notebook's cells, without magics."""
    if path.suffix == ".py":
        return ast.parse(path.read_text())
    cells = nbformat.read(path, as_version=4).cells
    lines = "\n".join(c.source for c in cells if c.cell_type == "code").splitlines()
    return ast.parse("\n".join(line for line in lines if not line.lstrip().startswith(("%", "!"))))


def test_what_imports_the_package_finds_it():
    """In the package, notebooks, benchmarks and tests, and in code that these hold in strings."""
    root = house.PACKAGE.parent
    toys = {root / "tests" / name for name in ("test_house.py", "test_words.py")}
    patterns = ("wsss/**/*.py", "benchmarks/*.py", "tests/**/*.py", "notebooks/*.ipynb")
    lost = []
    for path in sorted({path for pattern in patterns for path in root.glob(pattern)} - toys):
        file = path.relative_to(root)
        for module, name in house.imports(code(path), ".".join(file.parent.parts)):
            target, _ = HOUSE.target(module, name)
            missing = target == Path("__init__.py") and name and not hasattr(wsss, name)
            if missing or str(target).startswith("wsss."):
                lost.append(f"{file} imports {name} of {module}")
    assert not lost, "\n".join(lost)


# --- what a module imports in turn ---


def test_imports_are_followed(build):
    toy = build({"models/__init__.py": "from wsss import viz"})
    assert toy.reached("train/loop.py") == {
        *map(Path, ("__init__.py", "train/__init__.py", "viz.py", "errors.py")),
        *map(Path, ("models/__init__.py", "models/build.py", "models/heads.py", "cam.py")),
        *map(Path, ("affinity.py", "io/__init__.py", "io/text.py")),
        *map(Path, ("runtime/__init__.py", "runtime/devices.py", "runtime/progress.py")),
        *("numpy", "torch", "PIL", "matplotlib", "tqdm", "sys", "io"),
    }


@pytest.mark.parametrize(
    "file",
    [file for file in HOUSE.lines if house.room(file).split("/")[0] in {*house.METHOD, "models"}],
    ids=str,
)
def test_the_method_and_its_networks_stand_alone(file):
    assert not HOUSE.reached(file) & OUTSIDE_THE_METHOD


def test_what_is_served_keeps_no_record():
    """A served model runs where there is neither a store nor a repository."""
    reached = HOUSE.reached("apply/mlflow_model.py")
    assert not reached & {"papermill", "matplotlib", "seaborn"}
    files = [str(file) for file in reached if isinstance(file, Path) and file.parts[0] == "lab"]
    assert not files


@pytest.mark.parametrize(
    "module",
    sorted(
        {
            ".".join(("wsss", *found.file.with_suffix("").parts))
            for found in HOUSE.imports
            if found.target == "mlflow"
        }
    ),
)
def test_mlflow_reports_nothing(module):
    """Whichever module comes first: settings made after its import come too late."""
    code = (
        f"import {module}\nfrom mlflow.telemetry.client import get_telemetry_client\n"
        "assert get_telemetry_client() is None"
    )
    kept = {"PATH", "HOME", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT"}
    environment = {name: value for name, value in os.environ.items() if name in kept}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_help_waits_for_no_heavy_package():
    heavy = ("numpy", "torch", "pandas", "scipy", *OUTSIDE_THE_METHOD)
    code = f"import sys, wsss.cli\nprint(*sys.modules.keys() & {{*{heavy}}})"
    assert not subprocess.check_output([sys.executable, "-c", code], text=True).split()


# --- the front door ---


@pytest.mark.parametrize("name", wsss.__all__)
def test_every_name_at_the_front_door_is_the_one_of_its_module(name):
    found = getattr(wsss, name)
    assert found is getattr(sys.modules[found.__module__], name)
    assert not (house.PACKAGE / f"{name}.py").exists(), "a name must not hide a module"


def test_the_front_door_names_what_type_checkers_and_fingerprints_see():
    tree = ast.parse((house.PACKAGE / "__init__.py").read_text())
    named = {name for module, name in house.imports(tree, "wsss") if module.startswith("wsss.")}
    assert named == set(wsss.__all__)
    with pytest.raises(AttributeError, match="module 'wsss' has no attribute 'utils'"):
        _ = wsss.utils


def test_the_front_door_opens_without_torch():
    code = "import sys, wsss\nprint(*sys.modules.keys() & {'torch', 'numpy', 'mlflow'})"
    assert not subprocess.check_output([sys.executable, "-c", code], text=True).split()
