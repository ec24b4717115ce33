"""Costs that completed runs recorded, from which ``forecast`` predicts those of larger runs."""

from typing import NamedTuple

from wsss import datasets
from wsss.cost import disk_space
from wsss.errors import InputError
from wsss.lab import lineage, stages
from wsss.lab.record import journal
from wsss.lab.run.notebook import seconds_of

# parameters in which compared runs may differ: they set the amount of work or take no time
FREE = (
    *disk_space.LISTS,
    *("data_root", "weights", "corrected_folder", "tuning_photos", "model_name"),
    *("seed", "epochs", "soup_size", *lineage.IRRELEVANT),
)


class Measurement(NamedTuple):
    """The cost of a completed run of a stage."""

    values: dict  # of its parameters
    photos: int  # that it worked on
    start: float  # seconds before the stage began: processes, imports
    work: float  # seconds of work on photos, which more processors shorten
    rest: float  # all other seconds, in one process: figures, scores, checks
    cores: int  # that it could use
    gpu: bool  # whether it used one
    bytes: int  # on the disk, without the networks of stages that train
    files: int
    bulk_bytes: int  # of these, in the folders that hold files of each photo
    bulk_files: int
    memory: dict[str, int]  # from ``devices.peak_memory``


def find(planned: list, data: datasets.Dataset) -> dict[str, list[Measurement]]:
    """The completed runs of each stage of ``lab.plan.plan`` on the same data, with the same
    parameters but for ``FREE`` ones; the newest first.

    Interrupted runs, whose record covers only the last attempt, runs started by hand and runs
    without such a record are left out.
    """
    digest, found = data.digest(), {item.name: [] for item in planned}
    for item in planned:
        for folder, record in lineage.completed_runs(item.folder.parent):
            values, manifest = record["parameters"], record.get("manifest", ())
            same = stages.same_data(record["data_digest"], digest)
            if not same or _compared(values) != _compared(item.values):
                continue
            if any(entry["kind"] == "resumed" for entry, _ in journal.entries(folder)):
                continue
            skipped = ".pt" if item.name in disk_space.NETWORKS else None
            files = [path for path in disk_space.files_of(folder) if path.suffix != skipped]
            bulk = [path for path in files if path.relative_to(folder).parts[0] in manifest]
            try:
                usage, machine = record["usage"], record["machine"]
                measurement = Measurement(
                    values=values,
                    photos=len(disk_space.photos_of(item.name, values, data=data)),
                    start=seconds_of(folder) - usage["seconds"],
                    work=usage["work_seconds"],
                    rest=usage["seconds"] - usage["work_seconds"],
                    cores=machine["cores"],
                    gpu=machine["gpu"],
                    bytes=disk_space.taken(files),
                    files=len(files),
                    bulk_bytes=disk_space.taken(bulk),
                    bulk_files=len(bulk),
                    memory=record["memory"],
                )
            except (InputError, KeyError, TypeError):  # no such record, or a damaged one
                continue
            if measurement.start >= 0:
                found[item.name].append(measurement)
    return found


def _compared(values):
    return {k: v for k, v in values.items() if k not in FREE and not k.endswith("_run")}
