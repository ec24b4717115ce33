"""A mirror of files for machines that share no folder: an object store, or any other storage of
fsspec, with each file under its path on the driver's machine.

The driver uploads what a job refers to and downloads the results. Each worker has a scratch folder:
it downloads a file when it first reads it, and uploads each file that it writes. All raise
InputError if the mirror does not answer or refuses a file.
"""

import os
import pickle
import shutil
import tempfile
import uuid
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from wsss.errors import InputError, masked, reason
from wsss.io import atomic
from wsss.io.mirror import MIRROR
from wsss.runtime.engine import set_variable
from wsss.runtime.processes import is_running
from wsss.runtime.progress import progress

ADDRESS = "WSSS_MIRROR"  # the mirror's address; a variable, which kernels and workers inherit
SCRATCH = "WSSS_SCRATCH"  # a worker's scratch folder, which the loaders of its photos inherit
SCRATCH_PREFIX = "wsss-mirror-"  # of scratch folders' names; the id of their process follows
TRANSFERS = 16  # files in transfer at once, since an object store has a high latency per file
_scratch = None  # the temporary folder; removed with the process, unless that is killed


def address() -> str | None:
    """The mirror's address, or None."""
    return os.environ.get(ADDRESS)


def choose(address: str | None) -> None:
    """Use a mirror, or none, from now on; raises InputError if it cannot be written."""
    set_variable(ADDRESS, address)
    if not address:
        return
    with _store() as files:
        trial = f".tried-{uuid.uuid4().hex}"
        if isinstance(files.fs, LocalFileSystem):
            files.makedirs("", exist_ok=True)  # a bucket is the user's to create
        files.pipe_file(trial, b"")
        files.rm_file(trial)


def open_store(address: str) -> DirFileSystem:
    """The place at an address as an fsspec file system."""
    files, root = fsspec.url_to_fs(address, use_listings_cache=False)
    return DirFileSystem(root.rstrip("/"), files)


@contextmanager
def _store():
    """The mirror; errors of fsspec's backends, of many types, become an InputError."""
    chosen = os.environ[ADDRESS]
    try:
        yield open_store(chosen)
    except Exception as error:
        raise InputError(
            f"{masked(chosen)}: expected a place that fsspec can read and write, got "
            f"{type(error).__name__}: {reason(error)}; check the address and this machine's "
            "credentials"
        ) from None


def work_from(address: str | None) -> None:
    """Read and write a mirror's files in this worker and its processes; None: this machine's."""
    global _scratch
    if not address:
        for variable in (ADDRESS, SCRATCH, MIRROR):
            set_variable(variable, None)
        return
    if _scratch is None:
        for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH_PREFIX}*"):
            number = folder.name.removeprefix(SCRATCH_PREFIX).partition("-")[0]
            if number.isdigit() and not is_running(int(number)):
                shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        _scratch = tempfile.TemporaryDirectory(prefix=f"{SCRATCH_PREFIX}{os.getpid()}-")
    os.environ |= {ADDRESS: address, SCRATCH: _scratch.name, MIRROR: __name__}


def clear_scratch() -> None:
    """Delete this worker's copies of files, all of which are in the mirror."""
    for folder in Path(os.environ[SCRATCH]).iterdir() if SCRATCH in os.environ else ():
        shutil.rmtree(folder)


def local_path(path: Path | str) -> Path:
    """The path of a file of the driver on this machine: in a worker, in the scratch folder."""
    scratch = os.environ.get(SCRATCH, "")
    return Path(path) if Path(path).is_relative_to(scratch) else Path(f"{scratch}/{_name(path)}")


def download_file(path: Path | str) -> Path:
    """``local_path``, with the file downloaded if it is missing and the mirror has it."""
    local = local_path(path)
    if local != Path(path) and not local.exists():
        with _store() as files:
            _get(files, path)
    return local


def upload_file(path: Path | str) -> None:
    """Upload the file at ``local_path(path)``."""
    if local_path(path) != Path(path):
        with _store() as files:
            _put(files, path)


def paths_in(value: object) -> set[Path]:
    """All ``Path`` objects in a value that can be pickled."""
    found = set()

    class Finder(pickle.Pickler):
        def persistent_id(self, part):
            if isinstance(part, Path):
                found.add(part)

    with open(os.devnull, "wb") as nowhere:
        Finder(nowhere).dump(value)
    return found


def upload(paths: Collection[Path]) -> None:
    """Upload files and folders, except files that the mirror has with the same name and size."""
    _transfer("upload", paths)


def download(paths: Collection[Path]) -> None:
    """Download files and folders, except files of the same name and size on this machine."""
    _transfer("download", paths)


def _transfer(label, paths):
    with _store() as files, ThreadPoolExecutor(TRANSFERS) as pool:
        sizes = _local_sizes(paths), _stored_sizes(files, paths)
        action, (source, target) = (_put, sizes) if label == "upload" else (_get, sizes[::-1])
        differing = [path for path, size in source.items() if target.get(path) != size]
        done = pool.map(partial(action, files), differing)
        for _ in progress(done, label, total=len(differing), unit="file"):
            pass


def _name(path):
    """A file's name in the mirror: its absolute path, without the root."""
    return Path(os.path.abspath(path)).as_posix().lstrip("/")


def _local_sizes(paths):
    """Absolute paths of this machine's files at paths and below, except hidden ones, to bytes."""
    folders = (walked for path in paths for walked in os.walk(path, followlinks=True))
    found = [*paths, *(Path(folder, name) for folder, _, names in folders for name in names)]
    files = [path for path in found if path.is_file() and not path.name.startswith(".")]
    return {Path(os.path.abspath(path)): path.stat().st_size for path in files}


def _stored_sizes(files, paths):
    """``_local_sizes`` of the mirror."""
    found = [files.find(_name(path), detail=True) for path in paths]
    sizes = {Path(f"/{name}"): info["size"] for each in found for name, info in each.items()}
    return {path: size for path, size in sizes.items() if not path.name.startswith(".")}


def _put(files, path):
    local, name = local_path(path), _name(path)
    if not isinstance(files.fs, LocalFileSystem):
        files.put_file(str(local), name)
        return
    stored = Path(files.path, name)
    stored.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(local, unfinished := stored.with_name(f".{uuid.uuid4().hex}.partial"))
    unfinished.replace(stored)


def _get(files, path):
    """Download one file, whole; a missing one is left to its reader."""
    with suppress(FileNotFoundError), atomic.write(local_path(path)) as unfinished:
        files.get_file(_name(path), str(unfinished))
