"""Whether this machine has what the demo and the experiments need, and what to do where not.

Each check asks one thing and returns a ``Line``. What it needs is imported inside, so that a
package that is missing or broken stops that check alone.
"""

import operator
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

WIDTH = 110  # characters of a line
OK, NOTE, MISSING = "ok", "note", "MISSING"  # a note is nothing that the demo needs

SERVER_SECONDS = 3  # that a tracking server may take to answer
DEMO_BYTES = 500 * 2**20  # the demo's outputs, its record and a margin
# of a photo of 500 x 375: activation maps of one or two classes 24 KiB each, probabilities 80, and
# four label maps of 3 to 10
PHOTO_BYTES = 150 * 2**10
LITTLE_MEMORY = 4 * 2**30  # a stage's process takes one or two GB, each of its workers about one


SIGNS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


class Line(NamedTuple):
    """What a check found: its subject, a mark (``ok``, ``note``, ``MISSING``), and a text that ends
    with the mend where one is due.
    """

    subject: str
    mark: str
    text: str


def examine():
    """All checks' lines, in order; one that raises becomes a line with its reason."""
    lines = []
    for subject, (check, needed) in CHECKS.items():
        try:
            mark, text = check()
        except Exception as error:
            reason = " ".join(str(error).split()) or "no reason given"
            mark, text = MISSING if needed else NOTE, f"{type(error).__name__}: {reason}"
            if isinstance(error, ImportError):
                text += "; install again: make install"
        lines.append(Line(subject, mark, text))
    return lines


def report(lines):
    """The lines as text, none longer than 110 characters: what is too long goes on below."""
    found = []
    for subject, mark, text in lines:
        found += textwrap.wrap(
            f"{mark:8}{subject:10}{text}",
            WIDTH,
            subsequent_indent=" " * 18,
            break_on_hyphens=False,
        )
    return "\n".join(found)


def python():
    """Whether Python is of a version that the package wants."""
    wanted = metadata.metadata("wsss")["Requires-Python"]
    version = ".".join(map(str, sys.version_info[:3]))
    if _fits(version, wanted):
        return OK, f"{version} in {sys.prefix}"
    return MISSING, f"{version}, but wsss wants {wanted}: make install PYTHON=python3.12"


def packages():
    """Whether what ``pyproject.toml`` lists is installed, in versions within its bounds.

    What is for an engine or a format that not everybody wants may be absent, but not too old.
    """
    found, count = {}, 0
    for requirement in metadata.requires("wsss"):
        wanted, _, marker = requirement.partition(";")
        name, bounds = re.match(r"([\w.-]+)(?:\[.*\])?\s*(.*)", wanted).groups()
        extra = "".join(re.findall(r"extra == ['\"](.+)['\"]", marker))
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            if extra not in ("", "dev"):
                continue
            version = None
        count += 1
        if version is None or not _fits(version, bounds):
            text = f"{name} {version or 'is not there'} (wants {bounds.strip()})"
            found.setdefault(extra, []).append(text)
    if "" in found:
        return MISSING, f"{', '.join(found[''])}: make install"
    if "dev" in found:
        return NOTE, f"for tests and style only: {', '.join(found['dev'])}: make install"
    if found:
        extra, texts = next(iter(found.items()))
        return NOTE, f"for {extra} only: {', '.join(texts)}: pip install -e '.[{extra}]'"
    return OK, f"{count} packages, all within the bounds of pyproject.toml"


def compiler():
    """Whether there is a C++ compiler, which only the installation of pydensecrf2 needs."""
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return OK, shutil.which(name)
    mend = "install g++ or clang++ (Debian: apt install g++)"
    if find_spec("pydensecrf"):
        return NOTE, f"no C++ compiler; pydensecrf2 is built already. To build it again: {mend}"
    return MISSING, f"no C++ compiler, and pydensecrf2 is not built yet: {mend}"


def dense_crf():
    """Whether pydensecrf computes, on 2 x 2 pixels; a build for another numpy fails only there."""
    import numpy as np

    from wsss.crf import CrfParams, DenseCRF

    given = np.array([0.9, 0.1], np.float32)[:, None, None].repeat(2, 1).repeat(2, 2)
    found = DenseCRF(np.zeros((2, 2, 3), np.uint8), CrfParams()).infer(given, 2)
    if found.shape == given.shape and np.allclose(found.sum(0), 1) and (found[0] > 0.5).all():
        return OK, "pydensecrf computes"
    return MISSING, (
        "pydensecrf gives wrong probabilities; build it again: "
        "pip install --force-reinstall --no-binary :all: --no-deps pydensecrf2"
    )


def torch_device():
    """Torch, what networks run on, and in which precision."""
    import torch

    from wsss.runtime.devices import pick_device, precision

    device = pick_device()
    short = str(precision(device)).removeprefix("torch.")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        memory = properties.total_memory / 2**30
        return OK, f"{torch.__version__} on {properties.name}, {memory:.0f} GiB, {short}"
    units = "with" if short == "bfloat16" else "without"
    return OK, f"{torch.__version__}, no GPU (the demo needs none), cores {units} bfloat16 units"


def machine():
    """Cores that this process may use, and memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    if limit.exists() and limit.read_text().strip().isdigit():
        memory = min(memory, int(limit.read_text()))
    text = f"{cores} cores, {memory / 2**30:.1f} GiB of memory"
    if memory < LITTLE_MEMORY:
        return NOTE, f"{text}, which is little: run with processes=1 and workers=0 for each stage"
    return OK, text


def disk():
    """Room for outputs, and for how many photos that is."""
    from wsss.lab import paths

    root = paths.outputs_root()
    there = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    text = f"{free / 2**30:.1f} GiB for {root}, enough for {free // PHOTO_BYTES:,} photos as VOC's"
    if free < DEMO_BYTES:
        return MISSING, (
            f"{text}; the demo wants {DEMO_BYTES // 2**20} MiB: make room, or set WSSS_OUTPUTS to "
            "a folder elsewhere"
        )
    if not os.access(there, os.W_OK):
        return MISSING, f"{there} cannot be written: set WSSS_OUTPUTS to a folder of yours"
    return OK, text


def tracking_store():
    """Whether runs can be recorded: in a file that can be written, or a server that answers."""
    from wsss.lab.record import mlflow_store

    uri = mlflow_store.tracking_uri()
    parts = urlsplit(uri)
    if uri.startswith("sqlite:///"):
        fault = _sqlite_fault(Path(uri.removeprefix("sqlite:///")))
    elif parts.scheme in ("http", "https"):
        uri = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # without a password
        try:
            with urlopen(f"{uri.rstrip('/')}/health", timeout=SERVER_SECONDS):
                fault = None
        except HTTPError as answer:
            return NOTE, f"{uri} answers with {answer.code}: see that it is MLflow and lets you in"
        except OSError as error:
            fault = f"does not answer ({getattr(error, 'reason', error)})"
    elif parts.scheme.startswith(("postgresql", "mysql", "mssql")):
        return NOTE, f"a database by {parts.scheme}, not asked whether it answers"
    else:
        fault = "is no store for runs"
    if fault:
        mend = (
            "mend it, or set MLFLOW_TRACKING_URI to another, such as sqlite:////home/me/mlflow.db"
        )
        return MISSING, f"{uri} {fault}: {mend}"
    return OK, uri


def _sqlite_fault(path):
    if not path.exists():  # the first run makes it
        folder = path.absolute().parent
        writable = folder.is_dir() and os.access(folder, os.W_OK)
        return None if writable else "cannot be made, as its folder is not there or not yours"
    try:
        with closing(sqlite3.connect(path, timeout=SERVER_SECONDS)) as store:
            store.execute("BEGIN IMMEDIATE")  # a lock to write, given back on closing
    except sqlite3.Error as error:
        return f"cannot be written ({error})"
    return None


def data():
    """Which of the datasets that experiments name are there."""
    from wsss import datasets
    from wsss.errors import InputError
    from wsss.lab import paths

    there, generated, lacking = set(), set(), {}
    for name, settings in _experiments():
        root, kind = settings.get("data_root"), str(settings.get("dataset"))
        if root and kind.startswith("shapes"):
            generated.add(root)
        elif root:
            try:
                datasets.open(kind, paths.from_root(root))
                there.add(root)
            except InputError:
                lacking.setdefault(root, []).append(name)
    text = ", ".join(sorted(there)) or "none"
    text += f"; generated when wanted: {', '.join(sorted(generated))}"
    if lacking:
        return NOTE, f"{text}; {_for_whom(lacking)}: README.md says how to get them (Data)"
    return OK, text


def weights():
    """Which of the weight files that experiments name are there."""
    from wsss.lab import paths

    there, lacking = set(), {}
    for name, settings in _experiments():
        for path in (settings.get("weights"), settings.get("checkpoint")):
            if path in (None, "", "download"):
                continue
            if paths.from_root(path).exists():
                there.add(path)
            else:
                lacking.setdefault(path, []).append(name)
    text = ", ".join(sorted(there)) or "none"
    if lacking:
        return NOTE, f"{text}; {_for_whom(lacking)}: README.md says whose they are"
    return OK, text


def _experiments():
    """Pairs of an experiment's name and each block of settings in it."""
    import yaml

    from wsss.lab import paths

    found = []
    for path in sorted((paths.project_root() / "experiments").glob("*.yaml")):
        waiting = [yaml.safe_load(path.read_text())]
        while waiting:
            settings = waiting.pop()
            found.append((path.stem, settings))
            waiting += [inner for inner in settings.values() if isinstance(inner, dict)]
    return found


def _for_whom(lacking):
    """What is not there, and which experiments want it."""
    parts = []
    for path, names in lacking.items():
        first, *others = sorted(set(names))
        parts.append(f"{path} (for {first}{f' and {len(others)} more' if others else ''})")
    return f"not there: {', '.join(parts)}"


def browser():
    """Whether there is the browser that some tests drive."""
    path = shutil.which("chromium")
    if path is None:
        return NOTE, "no chromium, so tests in a browser are skipped (Debian: apt install chromium)"
    return OK, f"{path}, for tests"


def git():
    """Whether runs will say which commit made them."""
    from wsss.lab import paths

    if shutil.which("git") is None:
        return NOTE, "no git, so runs cannot say which commit made them: install git"
    command = ["git", "-C", str(paths.project_root()), "rev-parse", "--short", "HEAD"]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        return NOTE, "not a git repository, so runs cannot say what made them: clone it with git"
    return OK, f"at {answer.stdout.strip()}"


def _fits(version, bounds):
    """Whether a version such as 3.17.0 is within bounds such as ``>=3.7,<4``."""
    return all(
        SIGNS[sign](_release(version), _release(bound))
        for sign, bound in re.findall(r"(>=|<=|==|!=|>|<)\s*([\d.]+)", bounds)
    )


def _release(version):
    """A version's numbers, trailing zeros left out, as 4 and 4.0 are the same."""
    numbers = [int(number) for number in re.match(r"\d+(\.\d+)*", version)[0].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


CHECKS = {  # by subject: the check, and whether the demo cannot do without
    "python": (python, True),
    "packages": (packages, True),
    "compiler": (compiler, True),
    "dense CRF": (dense_crf, True),
    "torch": (torch_device, True),
    "machine": (machine, False),
    "disk": (disk, True),
    "tracking": (tracking_store, True),
    "data": (data, False),
    "weights": (weights, False),
    "browser": (browser, False),
    "git": (git, False),
}
