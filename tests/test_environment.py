"""The two lists of dependencies agree, and hold what the code imports."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements):
    return {canonical(re.match(r"[\w.-]+", text)[0]) for text in requirements}


def imported(folder):
    """Top-level names of what a folder's files import, less the standard library and each other."""
    found = set()
    own = {path.stem for path in (ROOT / folder).glob("*.py")}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - own - {"wsss", "benchmarks", "tests"}


def test_conda_lists_what_pyproject_lists():
    (pip,) = (entry["pip"] for entry in CONDA if isinstance(entry, dict))
    wanted = ["-e .[dev]", *PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    assert sorted(pip) == sorted(wanted)


def test_conda_has_the_same_python_and_a_compiler():
    assert "python" + PROJECT["requires-python"] in CONDA
    for package in ("cxx-compiler", "make", "pip"):
        assert package in CONDA


def test_what_the_code_imports_is_declared():
    owners = packages_distributions()
    extras = PROJECT["optional-dependencies"]
    declared = names(PROJECT["dependencies"])
    for folder, allowed in {
        # where an extra is missing, one line says so
        "wsss": declared | names(extras["onnx"]) | names(extras["cluster"]),
        "benchmarks": declared,
        "tests": declared | names(extras["dev"]) | names(extras["cluster"]),
    }.items():
        used = imported(folder)
        assert "numpy" in used, f"found no imports in {folder}/: has the reading of imports broken?"
        undeclared = {
            name
            for name in used
            if not allowed & {canonical(owner) for owner in owners.get(name, (name,))}
        }
        assert not undeclared, (
            f"{folder}/ imports {sorted(undeclared)}, which pyproject.toml does not list"
        )
