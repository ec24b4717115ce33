"""Digests of files by contents, remembered as long as a file stays as it is: its inode, size, and
times of modification and of status change, of which the last cannot be set back. They are kept in
the user's cache folder, by device and inode.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from pathlib import Path

import platformdirs

from wsss.io import mirror

SETTLED = 2 * 10**9  # nanoseconds; a file changed later may change again within a tick of its clock
MEMORY = platformdirs.user_cache_path("wsss") / "contents.sqlite"
BATCH = 100  # files whose states are in memory at a time


def digest(path: Path | str) -> str:
    """Sixteen hexadecimal digits of a file's contents; OSError if it cannot be read."""
    return digests([path])[0]


def digests(paths: Iterable[Path | str]) -> list[str]:
    """``digest`` of each file. Unchanged files are not read again, others by several threads."""
    waiting, found = iter(paths), []
    while batch := list(islice(waiting, BATCH)):
        began = time.time_ns()
        files = [mirror.download_file(path) for path in batch]
        states = [_state(file) for file in files]
        known = _recall(states)
        unread = {s: file for s, file in zip(states, files, strict=True) if s not in known}
        with ThreadPoolExecutor() as pool:
            known |= zip(unread, pool.map(_read, unread.values()), strict=True)
        stayed = [state for state, file in unread.items() if state == _state(file)]
        _remember({s: known[s] for s in stayed if s[-1] + SETTLED < began})
        found += [known[state] for state in states]
    return found


def of_folder(folder: Path | str, *, without: Container[str] = ()) -> dict[str, str]:
    """Name from the folder on to ``digest`` of the files in it and below, linked folders too, but
    for hidden ones and those of the names ``without``.
    """
    found, seen = [], set()
    for place, inner, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # a link led back here
            inner.clear()
            continue
        seen.add(real)
        inner[:] = [each for each in inner if each[0] != "."]
        inside = f"{Path(place).relative_to(folder).as_posix()}/".removeprefix("./")
        found += [f"{inside}{name}" for name in names if name[0] != "."]
    found = sorted(name for name in found if name not in without)
    return dict(zip(found, digests(Path(folder, name) for name in found), strict=True))


def manifest(contents: Mapping[str, str]) -> dict:
    """``{"files": count, "digest": of names and contents}`` of what ``of_folder`` found."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(contents.items()))
    state = hashlib.blake2b(lines.encode(errors="surrogateescape"), digest_size=8)
    return {"files": len(contents), "digest": state.hexdigest()}


def _state(path):
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=8)).hexdigest()


def _memory():
    MEMORY.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(MEMORY, timeout=5)
    database.execute(
        "CREATE TABLE IF NOT EXISTS contents (device INTEGER, inode TEXT, state TEXT, digest TEXT, "
        "PRIMARY KEY (device, inode)) WITHOUT ROWID"
    )
    return database


def _row(state):
    return state[0], str(state[1]), " ".join(map(str, state[2:]))  # an inode may have 64 bits


def _recall(states):
    """The states that files were in before, to their digests."""
    found = {}
    select = "SELECT digest FROM contents WHERE device = ? AND inode = ? AND state = ?"
    with suppress(sqlite3.Error, OSError), closing(_memory()) as database:  # else all are read
        for state in states:
            if row := database.execute(select, _row(state)).fetchone():
                found[state] = row[0]
    return found


def _remember(digests):
    rows = [(*_row(state), digest) for state, digest in digests.items()]
    with suppress(sqlite3.Error, OSError), closing(_memory()) as database, database:
        database.executemany("INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?)", rows)
