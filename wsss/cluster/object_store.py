"""A mirror of files for machines that share no folder: an object store, or any other place that
fsspec has an address for. It holds each file under the path that the file has on the driver.

The driver uploads what a job refers to and downloads the results. Each worker has a scratch folder:
it downloads a file when it first reads it, and uploads each file that it has written.
"""

import os
import pickle
import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from wsss.errors import InputError, masked, reason
from wsss.io.atomic import temp_path
from wsss.io.mirror import MIRROR
from wsss.runtime.engine import set_variable
from wsss.runtime.processes import is_running
from wsss.runtime.progress import progress

ADDRESS = "WSSS_MIRROR"  # the mirror's address; a variable, so that kernels and workers have it
SCRATCH = "WSSS_SCRATCH"  # a worker's scratch folder, for the processes that load its photos
SCRATCH_PREFIX = "wsss-mirror-"  # of scratch folders' names, before the number of their process
TRANSFERS = 16  # files in transfer at once: an object store takes long to answer for each
_scratch = None  # the temporary folder; removed with the process, unless that is killed


def address() -> str | None:
    """The mirror's address, or None."""
    return os.environ.get(ADDRESS)


def choose(address: str | None) -> None:
    """Use a mirror in this process and those that it starts, or none.

    Raises:
        InputError: not an address, or not writable.
    """
    set_variable(ADDRESS, address)
    if not address:
        return
    with _errors_named():
        files, root = open_store()
        trial = f"{root}/.tried-{uuid.uuid4().hex}"
        if _is_folder(files):  # a bucket must exist: creating one is the user's decision
            files.makedirs(root, exist_ok=True)
        files.pipe_file(trial, b"")
        files.rm_file(trial)


def open_store():
    """The mirror's fsspec file system, and its root path in there."""
    import fsspec  # slow to import

    files, root = fsspec.url_to_fs(address(), use_listings_cache=False)
    return files, root.rstrip("/")


@contextmanager
def _errors_named():
    """Turn what fsspec's backends raise, which is of many kinds, into an InputError."""
    try:
        yield
    except Exception as error:
        raise InputError(
            f"{masked(address())}: expected a place that fsspec can read and write, got "
            f"{type(error).__name__}: {reason(error)}; check the address and this machine's "
            "credentials"
        ) from None


def work_from(address: str | None) -> None:
    """Have this process, a worker, and those that it starts read and write files of a mirror, or of
    this machine where the address is None.
    """
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
    """The path in the scratch folder for a file of the driver."""
    scratch = os.environ[SCRATCH]
    return Path(path) if Path(path).is_relative_to(scratch) else Path(scratch, _key(path))


def download_file(path: Path | str) -> Path:
    """``local_path``, with the file downloaded if it is not there yet and the mirror has it.

    Raises:
        InputError: the mirror does not answer.
    """
    local = local_path(path)
    if local != Path(path) and not local.exists():
        with _errors_named():
            files, root = open_store()
            _get(files, f"{root}/{_key(path)}", local)
    return local


def upload_file(path: Path | str) -> None:
    """Upload the file at ``local_path(path)``.

    Raises:
        InputError: the mirror does not accept it.
    """
    local = local_path(path)
    if local != Path(path):
        with _errors_named():
            files, root = open_store()
            _put(files, local, f"{root}/{_key(path)}")


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
    """Upload files and folders, but for files that the mirror has with the same name and size.

    Raises:
        InputError: the mirror does not accept them.
    """
    with _errors_named():
        files, root = open_store()
        stored = _stored_sizes(files, root, paths)
        missing = [
            (path, name)
            for path, size in _local_sizes(paths)
            if stored.get(name := f"{root}/{_key(path)}") != size
        ]
        _transfer(lambda pair: _put(files, *pair), missing, "upload")


def download(paths: Collection[Path]) -> None:
    """Download what the mirror has of files and folders, but for files that are here with the same
    name and size.

    Raises:
        InputError: the mirror does not answer.
    """
    with _errors_named():
        files, root = open_store()
        local = {f"{root}/{_key(path)}": size for path, size in _local_sizes(paths)}
        missing = [
            (name, Path("/", name.removeprefix(f"{root}/")))
            for name, size in _stored_sizes(files, root, paths).items()
            if local.get(name) != size
        ]
        _transfer(lambda pair: _get(files, *pair), missing, "download")


def _transfer(action: Callable, pairs: list, label: str) -> None:
    with ThreadPoolExecutor(TRANSFERS) as pool:
        for _ in progress(pool.map(action, pairs), label, total=len(pairs), unit="file"):
            pass


def _key(path):
    """A file's name in the mirror: its absolute path without the first slash."""
    return Path(os.path.abspath(path)).as_posix().lstrip("/")


def _local_sizes(paths: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    """Files at paths and below, with sizes in bytes; hidden ones are left out."""
    for path in paths:
        if path.is_file():
            yield path, path.stat().st_size
        for folder, _, names in os.walk(path, followlinks=True):
            for name in names:
                file = Path(folder, name)
                if not name.startswith(".") and file.is_file():
                    yield file, file.stat().st_size


def _stored_sizes(files, root: str, paths: Iterable[Path]) -> dict[str, int]:
    """Names of the mirror's files at paths and below, to sizes in bytes; without hidden ones."""
    return {
        name: info["size"]
        for path in paths
        for name, info in files.find(f"{root}/{_key(path)}", detail=True).items()
        if not name.rpartition("/")[2].startswith(".")
    }


def _is_folder(files):
    return getattr(files, "local_file", False)


def _put(files, local: Path, name: str) -> None:
    """Upload one file; it appears in the mirror as a whole."""
    if _is_folder(files):
        folder = name.rpartition("/")[0]
        files.makedirs(folder, exist_ok=True)
        partial = f"{folder}/.{uuid.uuid4().hex}.partial"
        files.put_file(str(local), partial)
        files.mv(partial, name)
    else:  # an object store does so by itself
        files.put_file(str(local), name)


def _get(files, name: str, local: Path) -> None:
    """Download one file; it appears here as a whole. A missing one is left to its reader."""
    local.parent.mkdir(parents=True, exist_ok=True)
    partial = temp_path(local)
    try:
        files.get_file(name, str(partial))
        os.replace(partial, local)
    except FileNotFoundError:
        pass
    finally:
        partial.unlink(missing_ok=True)
