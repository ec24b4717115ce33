"""Which completed runs build on which, which differ in seeds alone, and which is the latest."""

from pathlib import Path

from wsss.errors import InputError
from wsss.lab import paths, results, stages


def last_ended(name):
    """When the newest completed run of a stage ended, in seconds; 0 without any."""
    folder = paths.outputs_root() / name
    records = (results.completion(marker.parent) for marker in folder.glob(f"*/{results.COMPLETE}"))
    return max((record["ended"] for record in records if record), default=0.0)


def upstream(record, name):
    """What the stage called ``name`` wrote that a completed stage builds on, or None where its
    folder is gone or elsewhere, or where it does without that stage.
    """
    fingerprint = record["inputs"].get(name)
    return results.completion(paths.stage_folder(name, fingerprint)) if fingerprint else None


# those that make no other experiment, though the last bits of sums, or other draws of dropout,
# might show them
IRRELEVANT = (*stages.UNSEEN, "workers", "processes", "train_processes")


def _family(record):
    """What a completed stage and those it builds on have in common with runs of other seeds, and
    the seeds.
    """
    kept, seeds = {}, []
    for name, value in record["parameters"].items():
        if name == "seed":
            seeds.append(value)
        elif name not in IRRELEVANT and name[:-4] not in record["inputs"]:
            kept[name] = value
    families = {}
    for name, fingerprint in sorted(record["inputs"].items()):
        above = upstream(record, name)
        families[name], more = _family(above) if above else (fingerprint, [])
        seeds += more
    return [record["stage"], kept, record["data_digest"], families], seeds


def siblings(folder):
    """The completed runs of a stage that differ from one of them only in the seeds, of this stage
    and of those before it: their folders, by seeds, the newest of each.
    """
    folder = Path(folder)
    family, _ = _family(results.completion(folder))
    found = {}
    for marker in sorted(folder.parent.glob("*/complete.json")):
        record = results.completion(marker.parent)
        theirs, seeds = _family(record) if record else (None, None)
        if theirs == family:
            mine = found.get(tuple(seeds))
            if mine is None or record["ended"] > mine[0]:
                found[tuple(seeds)] = record["ended"], marker.parent
    return [found[seeds][1] for seeds in sorted(found)]


def latest(name, data_digest):
    """The folder of the stage's newest completed run on data with this digest."""
    best = None
    for marker in (paths.outputs_root() / name).glob("*/complete.json"):
        record = results.completion(marker.parent)
        if (
            record
            and record["data_digest"] == data_digest
            and (best is None or record["ended"] > best[0])
        ):
            best = record["ended"], marker.parent
    if best is None:
        raise InputError(
            f"{name}: no completed run on this data ({data_digest}) under "
            f"{paths.outputs_root()}; run the notebook of {name} first"
        )
    return best[1]
