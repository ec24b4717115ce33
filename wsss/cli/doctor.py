"""``wsss doctor``: what this machine lacks for the demo and the experiments, and the fix.

Each check imports what it needs inside, so that a missing or broken package stops that check alone.
"""

import os
import shutil
import sqlite3
import sys
import textwrap
from contextlib import closing
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from wsss.cli.command import add_command, say_next
from wsss.errors import InputError, masked
from wsss.lab import paths

WIDTH = 110  # characters of a line
OK, NOTE, MISSING = "ok", "note", "MISSING"  # the demo runs despite a note
LOCK_SECONDS = 3  # that another process may hold the tracking store
DEMO_BYTES = 500 * 2**20  # the demo's outputs, its record and a margin
# per photo of 500 x 375: activation maps of one or two classes 24 KiB each, probabilities 80, and
# four label maps of 3 to 10
PHOTO_BYTES = 150 * 2**10
LITTLE_MEMORY = 4 * 2**30  # a stage's process takes one or two GB, each of its workers about one


def python() -> tuple[str, str]:
    from packaging.specifiers import SpecifierSet

    wanted = metadata.metadata("wsss")["Requires-Python"]
    version = ".".join(map(str, sys.version_info[:3]))
    if version in SpecifierSet(wanted):
        return OK, f"{version} in {sys.prefix}"
    return MISSING, f"{version}, but wsss needs {wanted}: make install PYTHON=python3.12"


def packages() -> tuple[str, str]:
    """Packages of an extra other than ``dev`` may be absent, but not too old."""
    from packaging.requirements import Requirement

    faults, count = {}, 0  # by extra, "" for packages that everybody needs
    for requirement in map(Requirement, metadata.requires("wsss") or ()):
        extra = str(requirement.marker or "").partition("extra == ")[2].strip('"')
        installed = metadata.distributions(name=requirement.name)
        version = next((found.version for found in installed), None)
        if version is None and extra not in ("", "dev"):
            continue
        count += 1
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            found = f"{requirement.name} {version or 'is not installed'}"
            faults.setdefault(extra, []).append(f"{found} (needs {requirement.specifier})")
    if not faults:
        return OK, f"{count} packages, all within the bounds of pyproject.toml"
    extra = min(faults)
    fix = "make install" if extra in ("", "dev") else f"pip install -e '.[{extra}]'"
    text = f"{', '.join(faults[extra])}: {fix}"
    return (NOTE, f"for {extra} only: {text}") if extra else (MISSING, text)


def compiler() -> tuple[str, str]:
    if path := shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"):
        return OK, path
    fix = "install g++ or clang++ (Debian: apt install g++)"
    if find_spec("pydensecrf"):
        return NOTE, f"no C++ compiler; pydensecrf2 is built already. To build it again: {fix}"
    return MISSING, f"no C++ compiler, and pydensecrf2 is not built yet: {fix}"


def dense_crf() -> tuple[str, str]:
    """Run pydensecrf on 2 x 2 pixels; a build for another numpy fails only when it computes."""
    import numpy as np

    from wsss.crf import CrfParams, DenseCRF

    given = np.full((2, 2, 2), [[[0.9]], [[0.1]]], np.float32)
    found = DenseCRF(np.zeros((2, 2, 3), np.uint8), CrfParams()).infer(given, 2)
    if found.shape == given.shape and np.allclose(found.sum(0), 1) and (found[0] > 0.5).all():
        return OK, "pydensecrf computes"
    fix = "pip install --force-reinstall --no-binary :all: --no-deps pydensecrf2"
    return MISSING, f"pydensecrf gives wrong probabilities; build it again: {fix}"


def torch_device() -> tuple[str, str]:
    import torch

    from wsss.runtime.devices import pick_device, precision

    device = pick_device()
    short = str(precision(device)).removeprefix("torch.")
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        return OK, f"{torch.__version__} on {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, {short}"
    units = "with" if short == "bfloat16" else "without"
    return OK, f"{torch.__version__}, no GPU (the demo needs none), cores {units} bfloat16 units"


def machine() -> tuple[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    if limit.exists() and (most := limit.read_bytes().strip()).isdigit():
        memory = min(memory, int(most))
    text = f"{cores} cores, {memory / 2**30:.1f} GiB of memory"
    if memory < LITTLE_MEMORY:
        return NOTE, f"{text}, which is little: set processes=1 and workers=0 for each stage"
    return OK, text


def disk() -> tuple[str, str]:
    root = paths.outputs_root()
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    text = f"{free / 2**30:.1f} GiB for {root}, enough for {free // PHOTO_BYTES:,} photos as VOC's"
    if free < DEMO_BYTES:
        fix = "free some, or set WSSS_OUTPUTS to another folder"
        return MISSING, f"{text}; the demo needs {DEMO_BYTES // 2**20} MiB: {fix}"
    if not os.access(existing, os.W_OK):
        return MISSING, f"{existing} cannot be written: set WSSS_OUTPUTS to a folder of yours"
    return OK, text


def tracking_store() -> tuple[str, str]:
    """Check that runs can be recorded in a file, or that a server answers."""
    from wsss.lab.record import mlflow_store

    uri = mlflow_store.tracking_uri()
    if uri.startswith(("postgresql", "mysql", "mssql")):
        return NOTE, f"{uri}: not checked whether this database answers"
    try:
        path = mlflow_store.sqlite_file()
        if path is None:
            mlflow_store.identity()
        elif path.exists():
            with closing(sqlite3.connect(path, timeout=LOCK_SECONDS)) as store:
                store.execute("BEGIN IMMEDIATE")  # a lock to write, released on closing
        elif not os.access(path.absolute().parent, os.W_OK | os.X_OK):
            raise OSError("its folder is missing or not yours")
    except (OSError, sqlite3.Error) as fault:
        return MISSING, mlflow_store.unreachable(fault)
    except InputError as fault:
        return MISSING, str(fault)
    return OK, uri


def data() -> tuple[str, str]:
    """Find the datasets and weight files that experiments name."""
    from wsss import datasets, models
    from wsss.lab import plan

    generated, users = set(), {}  # (path, kind of dataset; empty for a file) to experiments
    for file in sorted((paths.project_root() / "experiments").glob("*.yaml")):
        given = plan.read_experiment(file)
        for block in (given["common"], *given["stages"].values(), *given["smoke"].values()):
            values = block or {}
            named = {values.get("weights"): "", values.get("checkpoint"): ""}
            named[values.get("data_root")] = str(values.get("dataset"))
            for path in named.keys() - {None, "", "download"}:
                if named[path].startswith("shapes"):
                    generated.add(path)
                else:
                    users.setdefault((path, named[path]), set()).add(file.stem)
    present, missing = [], []
    for (path, kind), experiments in sorted(users.items()):
        try:
            place = paths.from_root(path)
            datasets.open(kind, place) if kind else models.expect_file(place)
            present.append(path)
        except InputError:
            first, *others = sorted(experiments)
            missing.append(f"{path} (for {first}{f' and {len(others)} more' if others else ''})")
    text = f"{', '.join(present) or 'none'}; generated when needed: {', '.join(sorted(generated))}"
    if not missing:
        return OK, text
    return NOTE, f"{text}; missing: {', '.join(missing)}: README.md says how to get them (Data)"


def browser() -> tuple[str, str]:
    if path := shutil.which("chromium"):
        return OK, f"{path}, for tests"
    return NOTE, "no chromium, so tests in a browser are skipped (Debian: apt install chromium)"


def git() -> tuple[str, str]:
    if shutil.which("git") is None:
        return NOTE, "no git, so runs cannot record their commit: install git"
    from wsss.lab.record import provenance

    if number := provenance.commit():
        return OK, f"at {number[:7]}"
    return NOTE, "not a git repository, so runs cannot record their commit: clone it with git"


# Checks by subject; each returns (mark, text), which ends with the fix where one is due.
NEEDED = {"python": python, "packages": packages, "compiler": compiler, "dense CRF": dense_crf}
NEEDED |= {"torch": torch_device, "disk": disk, "tracking": tracking_store}  # by the demo
USEFUL = {"machine": machine, "data": data, "browser": browser, "git": git}


def _doctor(arguments):
    """Report what is missing on this machine.

    Checks Python, packages, compiler, dense CRF, torch, memory, disk, tracking store, data,
    weights, browser and git. Changes nothing. Exit code 1 if the demo cannot run.

    example: wsss doctor
    """
    missing = 0
    for subject, check in (NEEDED | USEFUL).items():
        try:
            mark, text = check()
        except Exception as error:
            mark = MISSING if subject in NEEDED else NOTE
            text = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason given'}"
            if isinstance(error, ImportError):
                text += "; install again: make install"
        missing += mark == MISSING
        line = masked(f"{mark:8}{subject:10}{text}")
        print(textwrap.fill(line, WIDTH, subsequent_indent=" " * 18, break_on_hyphens=False))
    if missing:
        print(f"\n{missing} missing: fix that before you run the demo")
    else:
        say_next("wsss run experiments/shapes.yaml    # the demo")
    return int(missing > 0)


def add(commands):
    add_command(commands, "doctor", _doctor)
