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
DELIVERED = "delivered.json"  # the journal's run in MLflow, and how far it is uploaded
# not results: written by the driver and the record, some after the stage's end
BESIDE = (
    *(COMPLETE, JOURNAL, DELIVERED, "run.json", "parameters.json"),
    *("papermill.log", NOTEBOOK, "executed.html"),
)
CHECKED = ".checked"  # digest of names, sizes and times of the files whose contents were checked
RECORD = {  # fields of a completed stage's record that must be present
    "stage": str,
    "fingerprint": str,
    "parameters": dict,
    "inputs": dict,
    "data_digest": str,
    "metrics": dict,
    "ended": float | int,
}


def completion(folder: Path | str) -> dict | None:
    """A completed stage's record; None if it has not completed or the record is damaged."""
    try:
        record = json.loads(read_text(Path(folder) / COMPLETE, "a stage's record"))
    except (OSError, ValueError, RecursionError):  # also an InputError
        return None
    if not isinstance(record, dict):
        return None
    if not all(isinstance(record.get(name), kind) for name, kind in RECORD.items()):
        return None
    inputs = record["inputs"].values()  # names of folders
    return record if all(isinstance(name, str) and "/" not in name for name in inputs) else None


def completed(folder: Path | str) -> dict:
    """The record of a stage that has completed."""
    record = completion(folder)
    assert record is not None, folder
    return record


def completed_in(folder: Path | str, where: str) -> dict:
    """The record of the completed, undamaged stage in a folder that a person named.

    Args:
        where: the parameter that names the folder.

    Raises:
        InputError: no completed stage, or a damaged one.
    """
    record, fault = completion(folder), damage(folder)
    if record is None or fault:
        raise InputError(
            f"{where}: {folder} holds no completed stage{fault and f' ({fault})'}; run it first"
        )
    return record


def inventory(folder: Path | str) -> dict:
    """``{"files": count, "digest": of names and sizes}`` of a stage's results in its folder."""
    state, count = hashlib.blake2b(digest_size=8), 0
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.name.startswith(".") and name not in BESIDE:
            state.update(f"{name} {path.stat().st_size}\n".encode())
            count += 1
    return {"files": count, "digest": state.hexdigest()}


def damage(folder: Path | str) -> str:
    """Why the results of a completed stage cannot be used; empty if they can, or if there are none.

    Checksums are verified once per state of the folder, since that reads every file.
    """
    folder = Path(folder)
    if not (folder / COMPLETE).exists():
        return ""
    record = completion(folder)
    if record is None:
        return f"its {COMPLETE} is cut short, or not what a stage writes"
    if "inventory" in record and record["inventory"] != inventory(folder):
        return "files are missing, cut short or of other sizes than when it completed"
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in atomic.CHECKSUMMED]
    state = hashlib.blake2b(digest_size=8)
    for path in files:
        status = path.stat()
        state.update(f"{path.relative_to(folder)} {status.st_size} {status.st_mtime_ns}".encode())
    marker = folder / CHECKED
    if marker.exists() and marker.read_text() == state.hexdigest():
        return ""
    for path in files:
        if not atomic.is_whole(path):
            return f"{path.relative_to(folder)} is damaged"
    with suppress(OSError):  # a folder without write permission
        marker.write_text(state.hexdigest())
    return ""
