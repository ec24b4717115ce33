"""Completed runs, and the one that a person names."""

import time
from pathlib import Path
from typing import NamedTuple

from wsss.errors import InputError
from wsss.lab import lineage, paths, results
from wsss.lab.record import journal
from wsss.lab.stages import same_data

LATEST = "latest"
SHORTEST = 4  # characters of the beginning of an id
MOST = 6  # runs that a message lists
UNITS = {"d": 86400, "h": 3600, "min": 60, "s": 1}  # in seconds


class Completed(NamedTuple):
    """A completed run of a stage."""

    stage: str
    folder: Path
    record: dict  # of ``results.completion``
    experiments: list[str]  # those that made or reused it
    ids: list[str]  # its fingerprint, and the MLflow runs of itself and of these experiments

    def __str__(self):
        about = ", ".join([*self.experiments, f"{age(self.record['ended'])} ago"])
        return f"{self.stage} {paths.shown(self.folder)} ({about})"


def completed(stage: str = "") -> list[Completed]:
    """The completed runs of a stage, or of all stages, the newest first."""
    from wsss.lab.record.mlflow_runs import runs_of  # slow to import

    used: dict[Path, list] = {}  # folder to (name, MLflow runs) of the experiments that used it
    for path in sorted(paths.outputs_root().glob(f"runs/*/{results.JOURNAL}")):
        experiment = _experiment(path.parent), runs_of(path.parent)
        for entry, _ in journal.entries(path.parent):
            if entry["kind"] == "stage":
                folder = paths.stage_folder(entry["name"], Path(entry["folder"]).name)
                used.setdefault(folder, []).append(experiment)
    found = []
    for place in sorted(paths.outputs_root().glob(stage or "*")):
        for folder, record in lineage.completed_runs(place):
            makers = [(_experiment(folder), runs_of(folder)), *used.get(folder, ())]
            names = [name for name in dict.fromkeys(name for name, _ in makers) if name]
            ids = [folder.name, *sorted(set().union(*(run_ids for _, run_ids in makers)))]
            found.append(Completed(place.name, folder, record, names, ids))
    return sorted(found, key=lambda run: run.record["ended"], reverse=True)


def _experiment(folder):
    """The experiment that a folder's journal began in; empty without a journal."""
    begun = (entry for entry, _ in journal.entries(folder) if entry["kind"] == "run")
    return next((entry["experiment"] for entry in begun), "")


def find(given: str | Path, stage: str = "", *, data_digest: str = "") -> Path:
    """The folder of a completed run, of any stage if ``stage`` is empty.

    Args:
        given: its folder, the beginning of its fingerprint or of the id of its MLflow run or of its
            experiment's, the name of an experiment (whose newest run is taken), or ``latest``.
        data_digest: of the data that ``latest`` is restricted to; empty for any.

    Raises:
        InputError: there is none, or several; lists those that could be meant.
    """
    text, what, fault = str(given), f"one completed {stage or 'stage'}", "there is none"
    for folder in (Path(text), paths.from_root(text)):
        if (folder / results.COMPLETE).exists():
            record = results.completion(folder)
            if not record or stage in ("", record["stage"]):
                return folder.absolute()
            fault = f"this is one of {record['stage']}"
    runs = completed(stage)
    if text == LATEST:
        what += " on this data" if data_digest else ""
        found = [run for run in runs if same_data(run.record["data_digest"], data_digest)][:1]
    else:
        named = [run for run in runs if text in run.experiments][:1]
        begun = [run for run in runs if any(each.startswith(text) for each in run.ids)]
        found = named + [run for run in begun if run not in named and len(text) >= SHORTEST]
    if len(found) == 1:
        return found[0].folder
    listed = found or runs
    ways = "its folder, 4 characters or more of its id, its experiment, or 'latest'"
    expected = f"expected {what} ({ways}) but {fault}; there are"
    if found:
        expected = f"expected {what} but {len(found)} begin so; give more characters of one of"
    if not listed:
        raise InputError(f"{text}: {expected} none in {paths.outputs_root()}: `wsss run` first")
    more = f"; and {len(listed) - MOST} more" if len(listed) > MOST else ""
    raise InputError(f"{text}: {expected}: {'; '.join(map(str, listed[:MOST]))}{more}")


def age(ended: float) -> str:
    """How long ago a time (seconds since 1970) was, such as ``3 h``."""
    seconds = max(0.0, time.time() - ended)
    unit, length = next(pair for pair in UNITS.items() if seconds >= pair[1] or pair[1] == 1)
    return f"{seconds / length:.0f} {unit}"
