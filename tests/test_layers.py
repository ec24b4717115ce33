"""Which module may import what (CONTRIBUTING.md), read from the source without running it."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORD = ("store", "delivery", "recorded", "registry", "serving")
METHOD = ("cam", "affinity", "random_walk", "crf", "geometry", "metrics", "synthesis")
OUTSIDE_THE_METHOD = {"mlflow", "papermill", "matplotlib", "seaborn"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted((ROOT / "wsss").rglob("*.py"))}


def imports(module):
    """Dotted names imported anywhere in a module; ``from a import b`` gives a and a.b."""
    path = FILES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def reached(module):
    """Packages from outside that a module imports itself or through other modules of wsss."""
    seen, waiting, outside = set(), [module], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for target in imports(name) | {
            name.rpartition(".")[0] or "wsss"
        }:  # a package's __init__ runs too
            if target.split(".")[0] != "wsss":
                outside.add(target.split(".")[0])
            elif target in FILES:
                waiting.append(target)
    return outside


def importers(package):
    return {
        module for module in FILES if package in {name.split(".")[0] for name in imports(module)}
    }


@pytest.mark.parametrize(
    "module",
    [name for name in FILES if name.startswith("wsss.models")]
    + [f"wsss.{name}" for name in METHOD],
)
def test_the_method_stands_alone(module):
    assert not reached(module) & OUTSIDE_THE_METHOD


@pytest.mark.parametrize("module", METHOD)
def test_the_method_asks_nothing_else_of_the_package(module):
    found = imports(f"wsss.{module}")
    own = {name for name in found if name in FILES} - {"wsss"}
    assert own <= {f"wsss.{name}" for name in (*METHOD, "errors", "runtime.devices")}
    others = {name.split(".")[0] for name in found} - {"wsss"} - sys.stdlib_module_names
    assert others <= {"numpy", "torch", "pydensecrf", "PIL"}


def test_imports_are_followed():
    assert "numpy" in reached("wsss.random_walk") | reached("wsss.crf")
    assert {"mlflow", "torch"} <= reached("wsss.cli")


def test_only_the_record_imports_mlflow():
    assert importers("mlflow") == {f"wsss.{name}" for name in RECORD}


@pytest.mark.parametrize("module", RECORD)
def test_mlflow_reports_nothing(module):
    """Whichever module comes first: what MLflow is told after its import is too late."""
    code = (
        f"import wsss.{module}\nfrom mlflow.telemetry.client import get_telemetry_client\n"
        "assert get_telemetry_client() is None"
    )
    kept = {"PATH", "HOME", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT"}
    environment = {name: value for name, value in os.environ.items() if name in kept}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_what_is_served_keeps_no_record():
    """A served model runs where there is neither a store nor a repository."""
    reads = {name.split(".")[-1] for name in imports("wsss.apply.mlflow_model")}
    assert not reads & ({*RECORD, "tracking"} - {"serving"})
    assert not reached("wsss.apply.mlflow_model") & {"papermill", "matplotlib", "seaborn"}


def test_only_execution_starts_papermill():
    assert importers("papermill") == set()  # but in the process that it starts
    named = {name for name, path in FILES.items() if "import papermill" in path.read_text()}
    assert named == {"wsss.lab.run.notebook"}


def test_no_file_of_odds_and_ends():
    assert not [
        name
        for name in FILES
        if name.split(".")[-1] in {"utils", "util", "helpers", "common", "misc"}
    ]
