"""What a completed stage left in its folder: its record, its files, and whether they are intact."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from wsss.errors import InputError
from wsss.io import contents
from wsss.io.text import read_text

COMPLETE = "complete.json"
NOTEBOOK = "executed.ipynb"
JOURNAL = "record.jsonl"
DELIVERED = "delivered.json"  # the journal's run in MLflow, and how far it is uploaded
CONTENTS = "contents.json"  # name to digest of each file of the results
# not results: written by the driver and the record, some after the stage's end
BESIDE = COMPLETE, CONTENTS, JOURNAL, DELIVERED, "run.json", "parameters.json"
BESIDE += "papermill.log", NOTEBOOK, "executed.html"
# fields of a completed stage's record that must be present
RECORD: dict[str, Any] = dict.fromkeys(("stage", "fingerprint", "data_digest"), str)
RECORD |= dict.fromkeys(("parameters", "inputs", "metrics"), dict) | {"ended": float | int}


def completion(folder: Path | str) -> dict | None:
    """A completed stage's record; None if it has not completed or the record is damaged."""
    record: Any = None
    with suppress(OSError, ValueError, RecursionError):  # also an InputError
        record = json.loads(read_text(Path(folder) / COMPLETE, "a stage's record"))
    fits = isinstance(record, dict) and all(isinstance(record.get(k), v) for k, v in RECORD.items())
    # inputs are names of folders
    fits = fits and all(isinstance(n, str) and "/" not in n for n in record["inputs"].values())
    return record if fits else None


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


def files(folder: Path | str) -> dict[str, str]:
    """Name to digest of a stage's results in its folder."""
    return contents.of_folder(folder, without=BESIDE)


def changed(folder: Path | str) -> list[str]:
    """The names of a completed stage's results that are missing, new or of other contents than when
    it completed, sorted; ``complete.json`` if its record is damaged, and empty if there is none.
    """
    folder = Path(folder)
    if not (folder / COMPLETE).exists():
        return []
    record = completion(folder)
    if record is None:
        return [COMPLETE]
    now, then = files(folder), {}
    if record.get("inventory") in (None, contents.manifest(now)):
        return []
    with suppress(OSError, ValueError):  # also an InputError
        then = json.loads(read_text(folder / CONTENTS, "a list of files"))
    if not isinstance(then, dict) or contents.manifest(then) != record["inventory"]:
        return [CONTENTS]
    return sorted({name for name, _ in then.items() ^ now.items()})


def damage(folder: Path | str) -> str:
    """Why the results of a completed stage cannot be used; empty if they can or there are none."""
    names = changed(folder)
    if not names:
        return ""
    if names == [COMPLETE]:
        return f"its {COMPLETE} is cut short, or not what a stage writes"
    more = f" and {len(names) - 1} more" if names[1:] else ""
    return f"{names[0]}{more} changed, appeared or went missing since it completed"
