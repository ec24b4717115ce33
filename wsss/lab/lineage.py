"""Which completed runs build on which, and which differ in seeds alone."""

from pathlib import Path

from wsss.errors import InputError
from wsss.lab import paths, results, stages

# parameters that define no other experiment; they may change rounding or dropout's draws
IRRELEVANT = ("checkpoint_minutes", "workers", "processes", "train_processes")


def completed_runs(folder: Path) -> list[tuple[Path, dict]]:
    """``(folder, record)`` of the completed runs in a stage's folder, the newest first."""
    runs = [marker.parent for marker in sorted(folder.glob(f"*/{results.COMPLETE}"))]
    found = [(run, record) for run in runs if (record := results.completion(run))]
    return sorted(found, key=lambda each: each[1]["ended"], reverse=True)


def input_record(folder: Path, where: str, stage: stages.Stage, *, data_digest: str) -> dict:
    """The record of the completed run of a stage in a folder that the parameter ``where`` names;
    InputError for no such run, or one on other data whose results do not fit this.
    """
    record = results.completed_in(folder, where)
    if record["stage"] != stage.name:
        found = f"{folder} is a {record['stage']}"
        raise InputError(f"{where}: expected a completed {stage.name} but {found}; give another")
    if not (stage.portable or stages.same_data(record["data_digest"], data_digest)):
        fault = f"expected a run on this data ({data_digest}) but {folder} is on other data"
        raise InputError(f"{where}: {fault} ({record['data_digest']}); run {stage.name} on this")
    return record


def answered(name: str, question: str) -> dict | None:
    """The record of a stage's newest run that answered a ``Stage.question``, by any code."""
    runs = completed_runs(paths.outputs_root() / name)
    return next((record for _, record in runs if record.get("question") == question), None)


def changed_code(record: dict, code: dict[str, str]) -> list[str]:
    """The files, ``notebook`` for cells, in which a run's code differs from ``Stage.code``."""
    names = {name for name, _ in record.get("code", {}).items() ^ code.items()}
    return sorted("notebook" if name == "cells" else name for name in names)


def upstream(record: dict, name: str) -> dict | None:
    """The record of a stage that a completed one builds on; None if it does without, or its folder
    is gone.
    """
    fingerprint = record["inputs"].get(name)
    return results.completion(paths.stage_folder(name, fingerprint)) if fingerprint else None


def outdated(folder: Path | str) -> str:
    """The stage whose results are not those any more that a completed stage was built on; empty if
    there is none. Stages whose folder is gone are passed over.
    """
    record = results.completed(folder)
    for name, built_on in record.get("built_on", {}).items():
        above = upstream(record, name)
        if above and above.get("inventory") != built_on:
            return name
    return ""


def siblings(folder: Path | str) -> list[Path]:
    """The folders of the completed runs that differ from one run in nothing but seeds, its own and
    of stages before it: the newest per combination of seeds, sorted by seeds.
    """
    folder = Path(folder)
    family = results.completed(folder).get("family")
    found: dict[tuple, Path] = {}
    for other, record in completed_runs(folder.parent):
        if other == folder or (family and record.get("family") == family):
            found.setdefault(tuple(_seeds(record)), other)
    return [found[seeds] for seeds in sorted(found)]


def _seeds(record):
    """The seeds of a completed stage and of those that it builds on."""
    above = [upstream(record, name) for name in sorted(record["inputs"])]
    own = [record["parameters"]["seed"]] if "seed" in record["parameters"] else []
    return own + [seed for each in above if each for seed in _seeds(each)]
