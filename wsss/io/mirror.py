"""Files of machines that see no folder in common: an object store, or whatever else fsspec has an
address for, holds them under the paths that they have on the machine that asks.

That machine brings there what a job names and fetches what came of it. The others work in a folder
of their own, into which they fetch what they read, and from which they hand on what they write.
"""

import os
import pickle
import shutil
import tempfile
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from wsss.errors import InputError, masked, reason
from wsss.runtime.processes import is_running
from wsss.runtime.progress import progress

VARIABLE = "WSSS_MIRROR"  # the address, for notebooks' kernels and processes that load photos
SCRATCH = "WSSS_SCRATCH"  # the folder of a process that works from the mirror
TRANSFERS = 16  # files under way at once: an object store takes its time for each


def address():
    """The mirror's address, or None."""
    return os.environ.get(VARIABLE)


def choose(address):
    """Have this process and those that it starts use a mirror, or none.

    Raises:
        InputError: the address means nothing, or cannot be written to.
    """
    if not address:
        os.environ.pop(VARIABLE, None)
        return
    os.environ[VARIABLE] = address
    with _answering():
        files, root = opened()
        trial = f"{root}/.tried-{uuid.uuid4().hex}"
        if _is_folder(files):  # a bucket is not for us to make
            files.makedirs(root, exist_ok=True)
        files.pipe_file(trial, b"")
        files.rm_file(trial)


def opened():
    """fsspec's file system of the mirror, and the path of the mirror in it."""
    import fsspec  # slow to import, for something that few use

    files, root = fsspec.url_to_fs(address(), use_listings_cache=False)
    return files, root.rstrip("/")


@contextmanager
def _answering():
    try:
        yield
    except Exception as error:  # whatever the library of the address's kind raises
        raise InputError(
            f"{masked(address())}: expected a place that can be read and written by fsspec "
            f"({type(error).__name__}: {reason(error)}); check the address and this machine's "
            "credentials"
        ) from None


SCRATCHES = "wsss-mirror-"  # what folders' names begin with, the process's number behind it
_scratch = None  # the temporary folder, which goes when the process does, unless it is killed


def work_from(address):
    """Have this process, and those that it starts, read and write the files of a mirror, or those
    of this machine where the address is None.
    """
    global _scratch
    if not address:
        for name in (VARIABLE, SCRATCH):
            os.environ.pop(name, None)
        return
    if _scratch is None:
        for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCHES}*"):
            number = folder.name.removeprefix(SCRATCHES).partition("-")[0]
            if number.isdigit() and not is_running(int(number)):
                shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        _scratch = tempfile.TemporaryDirectory(prefix=f"{SCRATCHES}{os.getpid()}-")
    os.environ |= {VARIABLE: address, SCRATCH: _scratch.name}


def forget():
    """Free the room of what this process has fetched and handed on."""
    for folder in Path(os.environ[SCRATCH]).iterdir() if SCRATCH in os.environ else ():
        shutil.rmtree(folder)


def place(path):
    """Where a file of this path is on this machine: at the path, unless this process works from
    the mirror.
    """
    scratch = os.environ.get(SCRATCH)
    if scratch is None or Path(path).is_relative_to(scratch):
        return Path(path)
    return Path(scratch, _key(path))


def beside(path):
    """Where this thread of this process writes what then becomes ``path``."""
    return path.with_name(f".{path.name}.{threading.get_native_id()}.{os.getpid()}.partial")


def local(path):
    """``place``, to read from: fetched, if it is not there yet and the mirror has it.

    Raises:
        InputError: the mirror does not answer.
    """
    here = place(path)
    if here != Path(path) and not here.exists():
        files, root = opened()
        with _answering():
            _fetch(files, f"{root}/{_key(path)}", here)
    return here


def hand_on(path):
    """Have the mirror hold what was just written to ``place(path)``.

    Raises:
        InputError: the mirror does not take it.
    """
    here = place(path)
    if here != Path(path):
        files, root = opened()
        with _answering():
            _bring(files, here, f"{root}/{_key(path)}")


def paths_in(value):
    """All ``Path`` objects in a value that can be pickled."""
    found = set()

    class Finder(pickle.Pickler):
        def persistent_id(self, part):
            if isinstance(part, Path):
                found.add(part)

    with open(os.devnull, "wb") as nowhere:
        Finder(nowhere).dump(value)
    return found


def bring(paths):
    """Have the mirror hold what is in these files and folders, where it has none of the same name
    and size.

    Raises:
        InputError: the mirror does not take it.
    """
    with _answering():
        files, root = opened()
        there = _sizes(files, root, paths)
        missing = [
            path for path, size in _files(paths) if there.get(f"{root}/{_key(path)}") != size
        ]
        _each(lambda path: _bring(files, path, f"{root}/{_key(path)}"), missing, "bring")


def fetch(paths):
    """Have these folders hold what the mirror holds of them, where they have no file of the same
    name and size.

    Raises:
        InputError: the mirror does not answer.
    """
    with _answering():
        files, root = opened()
        here = {f"{root}/{_key(path)}": size for path, size in _files(paths)}
        keys = {f"{root}/{_key(path)}": Path(os.path.abspath(path)) for path in paths}
        missing = []
        for name, size in _sizes(files, root, paths).items():
            if here.get(name) != size:
                key = max((key for key in keys if f"{name}/".startswith(f"{key}/")), key=len)
                missing.append((name, keys[key] / name[len(key) :].lstrip("/")))
        _each(lambda pair: _fetch(files, *pair), missing, "fetch")


def _each(transfer, items, label):
    with ThreadPoolExecutor(TRANSFERS) as pool:
        for _ in progress(pool.map(transfer, items), label, total=len(items), unit="file"):
            pass


def _key(path):
    return Path(os.path.abspath(path)).as_posix().lstrip("/")


def _files(paths):
    """Files at paths and below, with their sizes; hidden ones left out."""
    for path in paths:
        if path.is_file():
            yield path, path.stat().st_size
        for folder, _, names in os.walk(path, followlinks=True):
            for name in names:
                file = Path(folder, name)
                if not name.startswith(".") and file.is_file():
                    yield file, file.stat().st_size


def _sizes(files, root, paths):
    """Names in the mirror of what it holds of some paths, with sizes; hidden ones left out."""
    found = {}
    for path in paths:
        for name, about in files.find(f"{root}/{_key(path)}", detail=True).items():
            if not name.rpartition("/")[2].startswith("."):
                found[name] = about["size"]
    return found


def _is_folder(files):
    return getattr(files, "local_file", False)


def _bring(files, here, name):
    if _is_folder(files):  # where half a file would bear its name
        folder = name.rpartition("/")[0]
        files.makedirs(folder, exist_ok=True)
        partial = f"{folder}/.{uuid.uuid4().hex}.partial"
        files.put_file(str(here), partial)
        files.mv(partial, name)
    else:
        files.put_file(str(here), name)


def _fetch(files, name, here):
    here.parent.mkdir(parents=True, exist_ok=True)
    partial = beside(here)
    try:
        files.get_file(name, str(partial))
        os.replace(partial, here)
    except FileNotFoundError:
        pass  # who reads it will say so
    finally:
        partial.unlink(missing_ok=True)
