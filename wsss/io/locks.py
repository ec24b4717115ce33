"""One process at a time works in a folder: a lock that goes with the process that held it, however
it ended.
"""

from pathlib import Path

from filelock import FileLock, Timeout


def lock_of(folder, what="work"):
    """The lock of a folder, beside it, since the folder itself may be removed and made anew."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.parent / f".{folder.name}.{what}.lock", thread_local=False)


def acquire(lock, seconds):
    """Whether a lock could be taken within some seconds."""
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    return True
