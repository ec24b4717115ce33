"""Which MLflow run records a folder, and how much of its journal the store has.

``delivered.json`` holds, per ``mlflow_store.identity``, a ``run_id`` and an ``offset``: the place
in the journal behind the last entry that this store took.
"""

import json
import re
from contextlib import suppress
from pathlib import Path

from wsss.errors import InputError
from wsss.io import atomic
from wsss.io.locks import lock_of
from wsss.lab import results
from wsss.lab.record import journal, mlflow_store

MARK = "wsss.journal"  # tag of a run: its journal; a copy of the folder has the same
HOME = "wsss.folder"  # tag of a run: the folder that it records
NOTHING = {"run_id": None, "offset": 0}


def run_of(folder: Path | str) -> str | None:
    """The id of a folder's MLflow run; the one of most entries if the store does not answer."""
    return _state(folder)["run_id"]


def waiting(folder: Path | str) -> bool:
    """Whether a journal has entries that are not in the store yet, as far as ``run_of`` knows."""
    return next(journal.entries(folder, _state(folder)["offset"]), None) is not None


def _state(folder):
    found = states(folder)
    try:
        return found.get(mlflow_store.identity(), NOTHING)
    except InputError:
        return max(found.values(), key=lambda state: state["offset"], default=NOTHING)


def states(folder: Path | str) -> dict[str, dict]:
    """A folder's ``delivered.json``. One of before stores had an identity is under ""."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # missing or damaged
        found = json.loads((Path(folder) / results.DELIVERED).read_text(encoding="utf-8"))
        size = (Path(folder) / results.JOURNAL).stat().st_size
        return {
            store: {"run_id": state["run_id"], "offset": min(int(state["offset"]), size)}
            for store, state in ({"": found} if "offset" in found else found).items()
            if state["run_id"]
        }
    return {}


def note(folder: Path, state: dict) -> None:
    """Keep what the store has of a folder's journal."""
    atomic.save_json(folder / results.DELIVERED, states(folder) | {mlflow_store.identity(): state})


def open_run(folder: Path) -> dict:
    """What the store has of a folder's journal; both may have moved. It gets a new run if it has
    none, or that of a folder that this is a copy of; InputError if the journal lost its beginning.
    """
    found, store = states(folder), mlflow_store.identity()
    for state in (found.get(store, NOTHING), *found.values()):
        run = state["run_id"] and mlflow_store.find_run(state["run_id"])
        if run and _is_home(folder, run):
            if store not in found:
                note(folder, state)
            return state
    if not (entry := journal.beginning(folder)):
        raise InputError(f"{folder}: its {results.JOURNAL} has lost its beginning; run it again")
    client, experiment = mlflow_store.client(), mlflow_store.experiment_id(entry["experiment"])
    mark = re.sub(r"['\\]", "_", f"{folder.name}-{entry['time']}")  # quoted in a filter
    with lock_of(folder, "run"):  # delivery of a child may create it too
        for run in client.search_runs([experiment], f"tags.`{MARK}` = '{mark}'"):
            if _is_home(folder, run):  # of an interrupted delivery
                return NOTHING | {"run_id": run.info.run_id}
        tags = entry["tags"] | {MARK: mark, HOME: str(folder.resolve())}
        parent = entry["parent"] and named(folder, entry["parent"])
        if parent and journal.beginning(parent):  # it may have been removed
            tags["mlflow.parentRunId"] = open_run(parent)["run_id"]
        about = {"run_name": entry["name"], "start_time": entry["time"], "tags": tags}
        return NOTHING | {"run_id": client.create_run(experiment, **about).info.run_id}


def _is_home(folder, run):
    """Whether a run records this folder, which may have been elsewhere, and not its original."""
    here, begun = str(folder.resolve()), journal.beginning(folder)
    home = run.data.tags.get(HOME)
    if home and begun and journal.beginning(home) == begun and not folder.samefile(home):
        return False
    if home != here:
        mlflow_store.client().set_tag(run.info.run_id, HOME, here)
    return True


def named(folder: Path, path: str) -> Path:
    """A folder under ``outputs/`` that a journal names, where the journal's own is now."""
    here = folder.absolute().parents[1].joinpath(*Path(path).parts[-2:])
    return here if here.exists() else Path(path)
