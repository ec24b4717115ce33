"""Which completed runs build on which, which differ in seeds alone, and which is the latest."""

from pathlib import Path

from wsss.errors import InputError
from wsss.lab import paths, results, stages

# parameters that define no other experiment; they may change rounding or dropout's draws
IRRELEVANT = (*stages.UNSEEN, "workers", "processes", "train_processes")


def completed_runs(folder: Path) -> list[tuple[Path, dict]]:
    """``(folder, record)`` of the completed runs in a stage's folder, the newest first."""
    runs = [marker.parent for marker in sorted(folder.glob(f"*/{results.COMPLETE}"))]
    found = [(run, record) for run in runs if (record := results.completion(run))]
    return sorted(found, key=lambda each: each[1]["ended"], reverse=True)


def latest(name: str, data_digest: str) -> Path:
    """The folder of the stage's newest completed run on data with this digest."""
    for folder, record in completed_runs(paths.outputs_root() / name):
        if record["data_digest"] == data_digest:
            return folder
    missing = f"no completed run on this data ({data_digest}) under {paths.outputs_root()}"
    raise InputError(f"{name}: {missing}; run the notebook of {name} first")


def answered(name: str, question: str) -> dict | None:
    """The record of a stage's newest completed run that answered a question (``Stage.question``),
    perhaps with other code.
    """
    runs = completed_runs(paths.outputs_root() / name)
    return next((record for _, record in runs if record.get("question") == question), None)


def changed_code(record: dict, code: dict[str, str]) -> list[str]:
    """The files, ``notebook`` for its cells, in which the code of a completed run differs from
    today's (``Stage.code``), sorted.
    """
    names = {name for name, _ in record.get("code", {}).items() ^ code.items()}
    return sorted("notebook" if name == "cells" else name for name in names)


def upstream(record: dict, name: str) -> dict | None:
    """The record of the stage called ``name`` that a completed stage builds on; None if it does
    without that stage, or its folder is gone.
    """
    fingerprint = record["inputs"].get(name)
    return results.completion(paths.stage_folder(name, fingerprint)) if fingerprint else None


def siblings(folder: Path | str) -> list[Path]:
    """The folders of the completed runs that differ from one run in nothing but seeds, of the stage
    itself and of those before it: the newest per combination of seeds, sorted by seeds.
    """
    folder = Path(folder)
    family, _ = _family(results.completed(folder))
    found: dict[tuple, Path] = {}
    for other, record in completed_runs(folder.parent):
        others, seeds = _family(record)
        if others == family:
            found.setdefault(tuple(seeds), other)
    return [found[seeds] for seeds in sorted(found)]


def _family(record):
    """What a completed stage and its inputs share with runs of other seeds, and the seeds."""
    kept, seeds = {}, []
    for name, value in record["parameters"].items():
        if name == "seed":
            seeds.append(value)
        elif name not in IRRELEVANT and name.removesuffix("_run") not in record["inputs"]:
            kept[name] = value
    families = {}
    for name, fingerprint in sorted(record["inputs"].items()):
        above = upstream(record, name)
        families[name], more = _family(above) if above else (fingerprint, [])
        seeds += more
    return [record["stage"], kept, record["data_digest"], families], seeds
