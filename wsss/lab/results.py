"""What a completed stage left in its folder: its record, its files, and whether they are intact."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from wsss.errors import InputError
from wsss.io import atomic
from wsss.io.text import read_text

COMPLETE = "complete.json"
NOTEBOOK = "executed.ipynb"
JOURNAL = "record.jsonl"
DELIVERED = "delivered.json"  # the journal's run in MLflow, and how much of it MLflow has
# what the driver and the record keep beside a stage's results, some of it after its end
BESIDE = (
    *(COMPLETE, JOURNAL, DELIVERED, "run.json", "parameters.json"),
    *("papermill.log", NOTEBOOK, "executed.html"),
)


RECORD = {  # what a stage writes when it completes, with the types
    "stage": str,
    "fingerprint": str,
    "parameters": dict,
    "inputs": dict,
    "data_digest": str,
    "metrics": dict,
    "ended": float | int,
}


def completion(folder):
    """What a stage wrote when it completed, or None where it did not; ``damage`` tells where that
    is cut short or is something else.
    """
    try:
        record = json.loads(read_text(Path(folder) / COMPLETE, "a stage's record"))
    except (OSError, ValueError, RecursionError):  # also an InputError
        return None
    fits = isinstance(record, dict) and all(
        isinstance(record.get(name), kind) for name, kind in RECORD.items()
    )
    # inputs name folders
    fits = fits and all(
        isinstance(name, str) and "/" not in name for name in record["inputs"].values()
    )
    return record if fits else None


def inventory(folder):
    """``{"files": count, "digest": of names and sizes}`` of a stage's results in its folder."""
    state, count = hashlib.blake2b(digest_size=8), 0
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.name.startswith(".") and name not in BESIDE:
            state.update(f"{name} {path.stat().st_size}\n".encode())
            count += 1
    return {"files": count, "digest": state.hexdigest()}


def damage(folder):
    """What keeps the results of a stage that had completed from being used, or nothing."""
    if not (Path(folder) / COMPLETE).exists():
        return ""
    record = completion(folder)
    if record is None:
        return f"its {COMPLETE} is cut short, or not what a stage writes"
    if "inventory" in record and record["inventory"] != inventory(folder):
        return "files of it are missing, cut short or of other sizes than when it completed"
    return _damaged_contents(Path(folder))


CHECKED = ".checked"  # beside a stage's results: which state of them had sound contents


def _damaged_contents(folder):
    """The first file whose checksums do not fit its contents, in words, or nothing; looked for once
    for each state of the folder, since that reads all of it.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in atomic.CHECKSUMMED]
    state = hashlib.blake2b(digest_size=8)
    for path in files:
        about = path.stat()
        state.update(f"{path.relative_to(folder)} {about.st_size} {about.st_mtime_ns}".encode())
    marker = folder / CHECKED
    if marker.exists() and marker.read_text() == state.hexdigest():
        return ""
    for path in files:
        if not atomic.is_whole(path):
            return f"{path.relative_to(folder)} of it is damaged"
    with suppress(OSError):  # a folder that is not ours to write
        marker.write_text(state.hexdigest())
    return ""


def completed_in(folder, where):
    """What the completed stage in a folder wrote.

    Args:
        where: the parameter that names the folder.

    Raises:
        InputError: none there, or its files are not those that it completed with.
    """
    record, fault = completion(folder), damage(folder)
    if record is None or fault:
        raise InputError(
            f"{where}: {folder} holds no completed stage{fault and f' ({fault})'}; run it first"
        )
    return record
