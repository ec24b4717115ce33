"""What a completed stage left in its folder: its record, its files, and whether they are intact."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

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
# fields of a completed stage's record that must be present
RECORD: dict[str, Any] = dict.fromkeys(("stage", "fingerprint", "data_digest"), str)
RECORD |= dict.fromkeys(("parameters", "inputs", "metrics"), dict) | {"ended": float | int}


def completion(folder: Path | str) -> dict | None:
    """A completed stage's record; None if it has not completed or the record is damaged."""
    try:
        record = json.loads(read_text(Path(folder) / COMPLETE, "a stage's record"))
    except (OSError, ValueError, RecursionError):  # also an InputError
        return None
    fits = isinstance(record, dict) and all(isinstance(record.get(k), v) for k, v in RECORD.items())
    if not fits:
        return None
    inputs = record["inputs"].values()  # names of folders
    return record if all(isinstance(name, str) and "/" not in name for name in inputs) else None


def completed(folder: Path | str) -> dict:
    """The record of a stage that is known to have completed."""
    record = completion(folder)
    assert record is not None, folder
    return record


def completed_in(folder: Path | str, where: str) -> dict:
    """The record of the completed, undamaged stage in a folder that a person gave as the parameter
    ``where``, or InputError.
    """
    record, fault = completion(folder), damage(folder)
    if record is None or fault:
        found = f"{folder} holds no completed stage{fault and f' ({fault})'}"
        raise InputError(f"{where}: {found}; run it first")
    return record


def inventory(folder: Path | str) -> dict:
    """``{"files": count, "digest": of names and sizes}`` of a stage's results in its folder."""
    lines = []
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.name.startswith(".") and name not in BESIDE:
            lines.append(f"{name} {path.stat().st_size}\n")
    return {"files": len(lines), "digest": _digest(lines)}


def _digest(lines):
    return hashlib.blake2b("".join(lines).encode(), digest_size=8).hexdigest()


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
    stats = [(path.relative_to(folder), path.stat()) for path in files]
    state = _digest(f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in stats)
    marker = folder / CHECKED
    if marker.exists() and marker.read_text(encoding="utf-8") == state:
        return ""
    for path in files:
        if not atomic.is_whole(path):
            return f"{path.relative_to(folder)} is damaged"
    with suppress(OSError):  # a folder without write permission
        marker.write_text(state, encoding="utf-8")
    return ""
