"""Completed runs, and the one that a person names."""

import time
from pathlib import Path
from typing import NamedTuple

from wsss.errors import InputError
from wsss.lab import lineage, paths, results
from wsss.lab.record import journal
from wsss.lab.stages import same_data

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
    from wsss.lab.record.mlflow_runs import states  # slow to import

    used: dict[Path, list[Path]] = {}  # folder to those of the experiments that used it
    for path in sorted(paths.outputs_root().glob(f"runs/*/{results.JOURNAL}")):
        for entry, _ in journal.entries(path.parent):
            if entry["kind"] == "stage":
                folder = paths.stage_folder(entry["name"], Path(entry["folder"]).name)
                used.setdefault(folder, []).append(path.parent)
    found = []
    for place in sorted(paths.outputs_root().glob(stage or "*")):
        for folder, record in lineage.completed_runs(place):
            makers = [folder, *used.get(folder, ())]
            names = dict.fromkeys(journal.beginning(each).get("experiment") for each in makers)
            runs = {state["run_id"] for each in makers for state in states(each).values()}
            ids = [folder.name, *sorted(runs)]
            found.append(Completed(place.name, folder, record, [*filter(None, names)], ids))
    return sorted(found, key=lambda run: run.record["ended"], reverse=True)


def find(given: str | Path, stage: str = "", *, data_digest: str = "") -> Path:
    """The folder of a completed run, of any stage if ``stage`` is empty, given by its folder, the
    beginning of its fingerprint or of the id of its MLflow run or of its experiment's, the name of
    an experiment (whose newest run is taken), or ``latest``, perhaps on data of a digest.
    InputError, with those that could be meant, if there is none or several.
    """
    text, what, fault = str(given), f"one completed {stage or 'stage'}", "there is none"
    for folder in (Path(text), paths.from_root(text)):
        if (folder / results.COMPLETE).exists():
            record = results.completion(folder)
            if not record or stage in ("", record["stage"]):
                return folder.absolute()
            fault = f"this is one of {record['stage']}"
    runs = completed(stage)
    if text == "latest":
        what += " on this data" if data_digest else ""
        found = [run for run in runs if same_data(run.record["data_digest"], data_digest)][:1]
    else:
        named = [run for run in runs if text in run.experiments][:1]
        begun = [run for run in runs if any(each.startswith(text) for each in run.ids)]
        found = named + [run for run in begun if run not in named and len(text) >= SHORTEST]
    if len(found) == 1:
        return found[0].folder
    ways = "its folder, 4 characters or more of its id, its experiment, or 'latest'"
    expected = f"expected {what} ({ways}) but {fault}; there are"
    if found:
        expected = f"expected {what} but {len(found)} begin so; give more characters of one of"
    if not runs:
        raise InputError(f"{text}: {expected} none in {paths.outputs_root()}: `wsss run` first")
    listed = [*map(str, found or runs)]
    listed[MOST:] = [f"and {len(listed) - MOST} more"] if len(listed) > MOST else []
    raise InputError(f"{text}: {expected}: {'; '.join(listed)}")


def age(ended: float) -> str:
    """How long ago a time (seconds since 1970) was, such as ``3 h``."""
    seconds = max(0.0, time.time() - ended)
    unit, length = next(pair for pair in UNITS.items() if seconds >= pair[1] or pair[1] == 1)
    return f"{seconds / length:.0f} {unit}"
