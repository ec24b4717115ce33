"""Forecast of an experiment: hours, disk and memory of each stage for more photos, from a line
through the costs of completed runs; and what breaks first.
"""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from wsss import datasets
from wsss.cost import disk_space, timings
from wsss.errors import InputError
from wsss.io import text

LISTED = 260  # bytes of memory per file while a folder is listed, measured with tracemalloc
# bytes of memory per scored photo, its id and its counts, while all of them are written; the walk
# still holds those before dense CRF
SCORED = {"infer_cam": 1400, "random_walk": 2000, "evaluate": 1400}
ALL_CLASSES = ("train_segmentation", "evaluate")  # others see only the classes of each photo
FAR = 100  # times the photos measured, from where a second of noise becomes minutes


class Scenario(NamedTuple):
    """What to forecast for."""

    photos: int  # to train on; other id lists grow alike
    classes: int
    cpus: int
    gpus: int


class Forecast(NamedTuple):
    """What a stage will take."""

    name: str
    disk: int  # bytes
    sizes: Sequence[int] = ()  # numbers of photos of the runs it rests on
    notes: Sequence[str] = ()
    work: float = 0.0  # seconds that more processors shorten
    rest: float = 0.0  # seconds in one process
    bound: str = ""  # what limits the work: CPUs or GPUs
    files: int = 0
    memory: int = 0  # bytes of all processes; 0 where it is not known


def line(points: list[tuple[float, float]], size: float) -> float:
    """The cost at a size, on the line of least squares through measured ``(size, cost)`` points.

    Only the least cost at each size counts, since noise adds to it. From one size the whole cost
    grows with the size, which is an upper bound; a falling line counts as level.
    """
    least = dict(sorted(points, reverse=True))  # the last pair of each size has its least cost
    sizes, costs = list(least), list(least.values())
    if len(sizes) == 1:
        return costs[0] * (max(1.0, size / sizes[0]) if sizes[0] else 1.0)
    slope = max(0.0, statistics.linear_regression(sizes, costs).slope)
    return max(0.0, statistics.fmean(costs) + slope * (size - statistics.fmean(sizes)))


def trained_on(planned: list, data: datasets.Dataset) -> list[str]:
    """The ids of the photos that an experiment trains on now."""
    for item in planned:
        if "train_split" in item.values:
            return data.ids(item.values["train_split"])
    raise InputError("no stage of this experiment has photos to train on; name another experiment")


def forecast(planned: list, data: datasets.Dataset, *, scenario: Scenario) -> list[Forecast]:
    """A ``Forecast`` of each stage of a plan; further photos are assumed to be like the data's own.
    Raises InputError for more classes than a label map can hold, or no photos to train on.
    """
    if scenario.classes >= datasets.IGNORE:
        fix = "since a label map has one byte per pixel; give fewer"
        expected = f"expected at most {datasets.IGNORE - 1}, {fix}"
        raise InputError(f"{scenario.classes} classes: {expected}")
    found, times = timings.find(planned, data), scenario.photos / len(trained_on(planned, data))
    given, forecasts = {"data": data, "times": times, "classes": scenario.classes}, []
    only = "measured on a GPU, which gives no hours of CPUs: give --gpus, or run it here"
    for item in planned:
        every = found[item.name]
        runs = [run for run in every if run.gpu and scenario.gpus]
        if runs := runs or [run for run in every if not run.gpu]:
            forecasts.append(_from_runs(item, runs, data, scenario, times))
        else:
            size = disk_space.planned_bytes(item, planned, **given)
            forecasts.append(Forecast(item.name, size, notes=[only] if every else []))
    return forecasts


def _from_runs(item, runs, data, scenario, times):
    """The forecast of a stage from its runs, for ``times`` as many photos as the dataset has."""
    name, values, gpu = item.name, item.values, runs[0].gpu
    ids = disk_space.photos_of(name, values, data=data)
    photos, sizes, notes = round(times * len(ids)), sorted({run.photos for run in runs}), []
    if len(sizes) == 1 and photos > sizes[0]:
        notes.append(f"measured at one size, {sizes[0]:,} photos: its hours are an upper bound")
    if scenario.gpus and not gpu and ("flip" in values or "epochs" in values):
        notes.append("measured without a GPU, so its hours are of CPUs alone")
    if not gpu and 0 < values.get("processes", 0) < scenario.cpus:
        notes.append(f"processes={values['processes']} keeps its work from using all CPUs")
    if name in ALL_CLASSES and scenario.classes > (now := len(data.classes)):
        longer = (scenario.classes + 1) / (now + 1)  # with the background
        most = f"its work takes up to {longer:.1f} times as long"
        notes.append(f"measured with {now} classes: with {scenario.classes}, {most}")
    costs = [
        (run.photos * _passes(run.values), run.work / _speed(run, values, scenario)[0])
        for run in runs
    ]
    work = line(costs, photos * _passes(values))
    # the shortest start, since noise lengthens it
    rest = min(run.start for run in runs) + line([(run.photos, run.rest) for run in runs], photos)
    largest = max(runs, key=lambda run: run.photos)
    more = max(0.0, photos / max(1, largest.photos) - 1)
    files = largest.files + round(more * largest.bulk_files)
    disk = largest.bytes + round(more * largest.bulk_bytes)
    if name in disk_space.NETWORKS:
        disk += disk_space.stage_bytes(name, values, data=data, classes=scenario.classes)
    memory = 0
    if largest.memory:
        # the first process keeps more per further file and per further photo with a mask
        masked = largest.photos * len(data.masked(ids)) / len(ids) if name in SCORED else 0
        kept = more * (LISTED * largest.bulk_files + SCORED.get(name, 0) * masked)
        workers = values.get("workers", 0)
        if "processes" in values and (workers := _busy(values, scenario.cpus)) == 1:
            workers = 0  # one process does without a pool
        memory = round(largest.memory["process"] + kept + workers * largest.memory["worker"])
    bound = _speed(runs[0], values, scenario)[1]
    return Forecast(name, disk, sizes, notes, work, rest, bound, files, memory)


def _passes(values):
    return values.get("epochs", 1) * values.get("soup_size", 1)


def _busy(values, cores):
    """Cores that a stage's work uses without a GPU: one per process, or all."""
    return min(values.get("processes") or cores, cores)


def _speed(run, values, scenario):
    """The work's speed over that of a run, and what limits it."""
    cpus = _busy(values, scenario.cpus) / _busy(run.values, run.cores), "CPUs"
    gpus = scenario.gpus, "GPUs"
    # the network of one photo runs while another is in dense CRF
    slower = min(gpus, cpus) if values.get("crf_steps") else gpus
    return slower if run.gpu else cpus


def summary(command: str, planned: list, data: datasets.Dataset, *, scenario: Scenario) -> str:
    """A ``forecast`` as Markdown: a table, what it rests on, the bottleneck and what breaks first.
    ``command`` is the experiment's file and the changes to it, as given to ``wsss run``.
    """
    forecasts = forecast(planned, data, scenario=scenario)
    known = [each for each in forecasts if each.sizes]
    work, rest = (sum(getattr(each, key) for each in known) for key in ("work", "rest"))
    disk, files = (sum(getattr(each, key) for each in forecasts) for key in ("disk", "files"))
    now = trained_on(planned, data)
    total = Forecast("all", disk, work=work, rest=rest, files=files)
    rows = [_row(each) for each in (*forecasts, total)]
    notes = [f"- {each.name}: {note}" for each in forecasts for note in each.notes]
    if unknown := [item for item, each in zip(planned, forecasts, strict=True) if not each.sizes]:
        names = ", ".join(item.name for item in unknown)
        # completed runs that do not count would be reused
        again = f" --force --from {unknown[0].name}" if any(i.done for i in unknown) else ""
        run = f"wsss run {command}{again} --until {unknown[-1].name}"
        notes.append(f"- nothing measured of {names}: `{run}` measures it")
    times = scenario.photos / max((max(each.sizes) for each in known), default=scenario.photos)
    if times > FAR:
        far = "noise is multiplied as often; measure on more photos"
        notes.append(f"- {times:,.0f} times the photos measured: {far}")
    machine = f"{scenario.classes} classes, {scenario.cpus} CPUs, {scenario.gpus} GPUs"
    parts = [
        f"{scenario.photos:,} photos to train on, where there are {len(now):,} now; {machine}. "
        "Computed, not measured:",
        text.markdown_table(rows[0], map(dict.values, rows)),
        "\n".join(notes),
    ]
    if known:
        shares = [(each.work, f"the work of {each.name} on {each.bound}") for each in known]
        shares += [(each.rest, f"what {each.name} does in one process") for each in known]
        seconds, what = max(shares)
        share = f"{100 * seconds / (work + rest):.0f} %"
        parts.append(f"Bottleneck: {what}, {share} of the time of the measured stages.")
    if isinstance(data, datasets.Devkit):  # whose id lists are files, which are read up to a size
        most = int(text.MOST_BYTES / statistics.fmean(len(id.encode()) + 1 for id in now))
        if scenario.photos >= most:
            passes = f"the id list passes {text.MOST_BYTES >> 20} MiB"
            fix = "split it into lists with a run for each"
            parts.append(f"Breaks from {most:,} photos on: {passes}; {fix}.")
    return "\n\n".join(filter(None, parts))


def _row(each):
    hours = (each.work + each.rest) / 3600
    bound = each.bound if each.work > each.rest else "one process"
    return {
        "stage": each.name,
        "measured on": ", ".join(f"{size:,}" for size in each.sizes),
        "hours": _figure(hours) if hours else "?",
        "in one process": _figure(each.rest / 3600) if hours else "?",
        "bound by": bound if hours else "?",
        "disk, GiB": _figure(each.disk / 2**30),
        "files": f"{each.files:,}" if each.files else "?",
        "memory, GiB": _figure(each.memory / 2**30) if each.memory else "?",
    }


def _figure(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
