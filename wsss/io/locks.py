"""Locks that let one process at a time work in a folder, released whenever that process ends."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


def lock_of(folder: Path | str, what: str = "work", *, is_singleton: bool = False) -> FileLock:
    """A folder's lock, a file beside it: the folder itself may be removed and created again. A
    singleton is one for the whole process, which may take it again and again.
    """
    path = Path(folder).parent / f".{Path(folder).name}.{what}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, thread_local=False, is_singleton=is_singleton)


def acquire(lock: FileLock, seconds: float) -> bool:
    """Whether a lock could be taken within some seconds."""
    with suppress(Timeout):
        lock.acquire(timeout=seconds)
    return lock.is_locked


@contextmanager
def held(folder: Path | str, what: str, seconds: float = 0) -> Iterator[bool]:
    """Hold a folder's lock within the block; yields False if another process has it."""
    lock = lock_of(folder, what)
    try:
        yield acquire(lock, seconds)
    finally:
        lock.release()
