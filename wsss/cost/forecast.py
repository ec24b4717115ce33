"""What an experiment will cost: hours, disk and memory of each stage for photos that are not there
yet, scaled from what completed runs took here; and what gives way first.
"""

from typing import NamedTuple

import numpy as np

from wsss import datasets
from wsss.cost import disk_space, timings
from wsss.errors import InputError
from wsss.io import text
from wsss.io.artifacts import IGNORE

# Calls to the file system that name a file or flush it, for each file that a stage writes, counted
# with strace: 1 to see whether it is there, 10 to write it safely, 4 when the stage completes, 4
# when the next one asks whether all is whole.
CALLS = 19
READS = 2  # of them for each file that a stage reads
# stage to how many files it reads of each photo, or for each crop: the photo, its maps, its labels
READ = {"dataset": 2, "train_cam": 1, "infer_cam": 1, "affinity_labels": 2, "train_affinity": 2}
READ |= {"random_walk": 2, "train_segmentation": 2, "evaluate": 1}
LISTED = 620  # bytes of memory for each file while a folder is listed, measured with tracemalloc
# bytes of memory for each photo that is scored, its id and its counts, while all are written; of
# the walk those before dense CRF are still there
SCORED = {"infer_cam": 1400, "random_walk": 2000, "evaluate": 1400}
FAR = 100  # times what was measured, from where a second of noise is minutes


class Asked(NamedTuple):
    """What is planned for."""

    photos: int  # to train on; other lists grow alike
    classes: int
    cpus: int
    gpus: int


class Forecast(NamedTuple):
    """What a stage will take; None where nothing tells."""

    name: str
    sizes: tuple  # numbers of photos that it was measured on
    work: float | None  # seconds that more processors shorten
    rest: float | None  # seconds that they do not
    bound: str  # what the work is bound by: CPUs or GPUs
    disk: int  # bytes
    files: int | None
    calls: int | None  # to the file system
    entries: int | None  # of its record, each a request to the tracking server or more
    memory: int | None  # bytes, of all its processes
    notes: tuple = ()

    @property
    def seconds(self):
        return None if self.work is None else self.work + self.rest


def scaled(points, wanted):
    """What ``wanted`` takes, by the line through what was measured.

    Args:
        points: ``(size, cost)`` pairs. Of several at one size the least counts, since others were
            disturbed. One size gives an upper bound: all of the cost is taken to grow with the
            size. Of more than two, the line of least squares; a cost that fell with the size is
            taken to stay as it is.
        wanted: a size.
    """
    least = {size: min(cost for other, cost in points if other == size) for size, _ in points}
    if len(least) == 1:
        ((size, cost),) = least.items()
        return cost * (max(1.0, wanted / size) if size else 1.0)
    sizes, costs = np.array(list(least.items()), float).T
    slope = max(0.0, np.cov(sizes, costs, bias=True)[0, 1] / sizes.var())
    return max(0.0, float(costs.mean() + slope * (wanted - sizes.mean())))


def forecast(planned, data, asked, found=None):
    """A ``Forecast`` for each stage.

    Args:
        planned: from ``pipeline.plan``.
        data: the open dataset; photos are taken to be like its own.
        asked: an ``Asked``.
        found: what ``measured.find`` gives, which is asked where this is None.

    Raises:
        InputError: more classes than label maps can tell apart, or no photos to train on.
    """
    if asked.classes >= IGNORE:
        raise InputError(
            f"{asked.classes} classes: expected at most {IGNORE - 1}, since a label map "
            "has a byte a pixel; give fewer"
        )
    found = timings.find(planned, data) if found is None else found
    values = {item.name: item.values for item in planned}
    times = asked.photos / trained_on(planned, data)
    joined = {i.name: disk_space.joined_bytes(i.values, planned, asked.classes) for i in planned}
    return [
        _stage(item.name, values, data, asked, times, found[item.name], joined[item.name])
        for item in planned
    ]


def trained_on(planned, data):
    """The number of photos that an experiment trains on as it is."""
    for item in planned:
        if "train_split" in item.values:
            return len(data.ids(item.values["train_split"]))
    raise InputError("no stage of this experiment has photos to train on; name another experiment")


def _stage(name, everything, data, asked, times, found, joined):
    values = everything[name]
    photos = round(times * len(disk_space.photos_of(name, values, data)))
    chosen, notes = _chosen(found, asked)
    if not chosen:
        size = disk_space.stage_bytes(name, values, data, times=times, classes=asked.classes)
        nothing = (None,) * 4
        size += joined + disk_space.PICTURES
        return Forecast(name, (), None, None, "", size, *nothing, tuple(notes))
    sizes = tuple(sorted({each.photos for each in chosen}))
    if len(sizes) == 1 and photos > sizes[0]:
        notes.append(f"measured at one size, {sizes[0]:,} photos: its hours are an upper bound")
    growth = timings.class_growth(name, everything, data, asked.classes, chosen[0].classes)
    if growth != 1:
        notes.append(
            f"measured with {chosen[0].classes} classes; a step or a photo with {asked.classes} "
            f"takes {growth:.2f} times as long, timed now"
        )
    if not chosen[0].gpu and values.get("processes", 0) and asked.cpus > values["processes"]:
        notes.append(f"processes={values['processes']} keeps its work from using all CPUs")
    units = timings.units_of(values, photos)
    quicker = [_quicker(name, values, each, asked) for each in chosen]
    pace = [
        (each.units, each.work / ratio) for each, (ratio, _) in zip(chosen, quicker, strict=True)
    ]
    work = growth * scaled(pace, units)
    files = _files(name, values, chosen, photos)
    listed = [(each.photos, each.entries - _passes(each.values)) for each in chosen]
    return Forecast(
        name,
        sizes,
        work,
        # of the start the least, since what others took longer for was chance
        min(each.start for each in chosen)
        + scaled([(each.photos, each.rest) for each in chosen], photos),
        quicker[0][1],
        _disk(name, values, data, asked, times, chosen, photos, work),
        files,
        CALLS * files + READS * READ.get(name, 0) * units,
        round(max(entries for _, entries in listed) + _passes(values)),
        _memory(name, values, data, asked, chosen, photos, files),
        tuple(notes),
    )


def _chosen(found, asked):
    """The measurements to scale from, of one kind of machine and one number of classes, and what
    is to be said about them.
    """
    for gpu in (True, False) if asked.gpus else (False,):
        kind = [each for each in found if each.gpu == gpu]
        if kind:
            nearest = min((each.classes for each in kind), key=lambda c: abs(c - asked.classes))
            told = "measured without a GPU, which tells nothing of one: hours are of CPUs alone"
            notes = [told] if asked.gpus and not gpu and _uses_gpu(kind[0].values) else []
            return [each for each in kind if each.classes == nearest], notes
    only = "measured on a GPU, which tells nothing of CPUs: give --gpus, or measure here"
    return [], [only] if found else []


def _uses_gpu(values):
    """Whether a stage runs a network: all but those that only look at what is there."""
    return "flip" in values or "epochs" in values


def _quicker(name, values, measurement, asked):
    """``(ratio, what bounds it)``: how many times as quick a stage's work will be as it was."""
    cores = timings.busy(values, asked.cpus) / measurement.cores
    ratios = {"CPUs": cores}
    if measurement.gpu and _uses_gpu(values):
        ratios = {"GPUs": asked.gpus}
        if values.get("crf_steps"):  # one photo's network beside another's dense CRF
            ratios["CPUs"] = cores
    bound = min(ratios, key=ratios.get)
    return ratios[bound], bound


def _passes(values):
    return values.get("epochs", 0) * values.get("members", 1)


def _files(name, values, chosen, photos):
    """Their number: by the line through several sizes, or so many more of each photo."""
    points = [(each.photos, each.files) for each in chosen]
    if len({size for size, _ in points}) > 1:
        return round(scaled(points, photos))
    more = max(0, photos - chosen[0].photos)
    return chosen[0].files + len(disk_space.kinds(name, values)) * more


def _disk(name, values, data, asked, times, chosen, photos, work):
    """Bytes: of networks as calculated, of all else as measured."""
    if name in disk_space.NETWORKS:
        seconds = work / values.get("members", 1)
        due = int(seconds / max(1e-6, 60 * values["checkpoint_minutes"]))
        networks = disk_space.stage_bytes(
            *(name, values, data),
            classes=asked.classes,
            checkpoints=min(disk_space.CHECKPOINTS, due),
        )
        return networks + max(each.bytes for each in chosen)
    points = [(each.photos, each.bytes) for each in chosen]
    if len({size for size, _ in points}) > 1:
        return round(scaled(points, photos))
    of_one = disk_space.stage_bytes(name, values, data, times=times) / max(1, photos)
    return round(chosen[0].bytes + of_one * max(0, photos - chosen[0].photos))


def _memory(name, values, data, asked, chosen, photos, files):
    """Bytes of all processes at once: as measured, and what one keeps of each further file and of
    each further photo that has a mask.
    """
    known = [each for each in chosen if each.memory]
    if not known:
        return None

    def kept(photos, files):
        return LISTED * files + SCORED.get(name, 0) * share * photos

    scored = data.masked(disk_space.photos_of(name, values, data)) if name in SCORED else []
    share = len(scored) / max(1, len(disk_space.photos_of(name, values, data)))
    most = max(known, key=lambda each: each.photos)
    more = kept(photos, files) - kept(most.photos, most.files)
    workers = values.get("workers", 0)
    if "processes" in values:
        workers = timings.busy(values, asked.cpus)
        workers = 0 if workers == 1 else workers  # it does the work itself
    return round(most.memory["process"] + max(0, more) + workers * most.memory["worker"])


def limits(planned, data):
    """Numbers of photos from which something is refused: tuples of the number, what gives way, and
    what to do.
    """
    values = {name: value for item in planned for name, value in item.values.items()}
    ids, found = data.ids(values["train_split"]), []
    if isinstance(data, datasets.Devkit):  # whose lists are files
        line = np.mean([len(id.encode()) + 1 for id in ids])
        size = f"{text.MOST_BYTES / 2**20:.0f} MiB"
        told = f"the id list of {values['train_split']} passes {size}"
        mend = "split the photos into lists, with a run for each"
        found.append((int(text.MOST_BYTES / line), told, mend))
    return found


def told(command, planned, data, asked, forecasts):
    """A plan as Markdown: a table, what it rests on, what takes most of it and what gives way.

    Args:
        command: the experiment's file and the changes to it, as given to ``wsss run``.
        planned: from ``pipeline.plan``.
        data: the open dataset.
        asked: an ``Asked``.
        forecasts: from ``forecast``.
    """
    header = ("stage", "measured on", "hours", "in one process", "bound by", "disk, GiB")
    header += ("files", "calls/s", "entries", "memory, GiB")
    rows = [_row(each) for each in forecasts]
    known = [each for each in forecasts if each.seconds is not None]
    unknown = [each.name for each in forecasts if each.seconds is None]
    seconds, rest = sum(each.seconds for each in known), sum(each.rest for each in known)
    rows.append(
        [
            *("all", "", _figure(seconds / 3600), _figure(rest / 3600), ""),
            _figure(sum(each.disk for each in forecasts) / 2**30),
            f"{sum(each.files for each in known):,}",
            *("", f"{sum(each.entries for each in known):,}", ""),
        ]
    )
    parts = [
        f"{asked.photos:,} photos to train on, where there are {trained_on(planned, data):,} now; "
        f"{asked.classes} classes, {asked.cpus} CPUs, {asked.gpus} GPUs. Computed, not measured:",
        text.markdown_table(header, rows),
    ]
    lines = [f"- {each.name}: {note}" for each in forecasts for note in each.notes]
    if unknown:
        run = f"wsss run {command} --until {unknown[-1]}"
        lines.append(f"- nothing measured of {', '.join(unknown)}: `{run}` measures it")
    most = max((each.sizes[-1] for each in known), default=asked.photos)
    if asked.photos > FAR * most:
        lines.append(
            f"- {asked.photos / most:,.0f} times what was measured: noise is multiplied "
            "as often; measure on more photos"
        )
    parts += ["\n".join(lines)] if lines else []
    if known:
        parts.append(f"{_bottleneck(known)}\n{_record(known)}")
    parts += [
        f"Breaks from {count:,} photos on: {what}; {mend}."
        for count, what, mend in limits(planned, data)
        if count <= asked.photos
    ]
    return "\n\n".join(parts)


def _row(each):
    if each.seconds is None:
        return [each.name, "", *("?",) * 3, _figure(each.disk / 2**30), *("?",) * 4]
    return [
        each.name,
        ", ".join(f"{size:,}" for size in each.sizes),
        _figure(each.seconds / 3600),
        _figure(each.rest / 3600),
        each.bound if each.work > each.rest else "one process",
        _figure(each.disk / 2**30),
        f"{each.files:,}",
        _figure(each.calls / each.seconds),
        f"{each.entries:,}",
        _figure(each.memory / 2**30) if each.memory else "?",
    ]


def _figure(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _bottleneck(known):
    """What takes the largest part of the time, in a sentence."""
    shares = [(each.work, f"the work of {each.name} on {each.bound}") for each in known]
    shares += [
        (each.rest, f"what {each.name} does in one process, whatever the number of CPUs")
        for each in known
    ]
    most, what = max(shares)
    share = 100 * most / sum(each.seconds for each in known)
    return f"Bottleneck: {what}, {share:.0f} % of the time of what is measured."


def _record(known):
    """How busy the tracking server is, in a sentence."""
    fastest = max(known, key=lambda each: each.entries / each.seconds)
    rate = _figure(fastest.entries / fastest.seconds)
    return f"The record gets {rate} entries a second at most, from {fastest.name}."
