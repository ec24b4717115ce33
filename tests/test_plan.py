"""Costs that are not measured: by hand, from records made up for it."""

import json
import tracemalloc

import numpy as np
import pytest

from wsss import cli
from wsss.cli.project import PROJECT
from wsss.cost import disk_space, timings
from wsss.cost import forecast as cost_forecast
from wsss.datasets import Devkit
from wsss.errors import InputError
from wsss.io import atomic, text
from wsss.lab import paths, plan, results, stages
from wsss.lab.record.journal import Journal
from wsss.photos.evaluation import Confusions, save_confusions

GIB = 2**30


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path


@pytest.fixture
def planned(place, tiny_shapes):
    """The built-in experiment on 12 + 6 photos."""
    return plan.plan(*experiment(tiny_shapes), project=PROJECT)


def experiment(root, **stages_values):
    path = paths.project_root() / "experiments" / "shapes.yaml"
    given = {"common": {"data_root": str(root), "processes": 0}} | stages_values
    return plan.read_experiment(path), given


def measurement(planned, name, photos, work, rest, **more):
    values = next(item.values for item in planned if item.name == name)
    given = {"classes": 5, "gpu": False, "cores": 2, "bytes": 2**20, "files": 20, "entries": 60}
    given |= {"memory": {"process": GIB, "worker": GIB // 2}, "values": values, "start": 0.0}
    given |= {"photos": photos, "units": timings.units_of(values, photos)}
    return timings.Measurement(**(given | {"work": work, "rest": rest} | more))


def forecast(planned, root, name, found, **asked):
    """One stage's forecast from some measurements of it alone."""
    asked = cost_forecast.Asked(**({"photos": 120, "classes": 5, "cpus": 2, "gpus": 0} | asked))
    everything = {item.name: found if item.name == name else [] for item in planned}
    told = cost_forecast.forecast(planned, Devkit(root), asked, everything)
    return next(each for each in told if each.name == name)


@pytest.mark.parametrize(
    "points, wanted, expected",
    [
        ([(10, 2.0), (20, 3.0)], 120, 13.0),  # 1 + 0.1 each
        ([(10, 2.0), (20, 3.0)], 10, 2.0),
        ([(10, 2.0)], 120, 24.0),  # an upper bound: all of it grows
        ([(10, 2.0)], 5, 2.0),
        ([(10, 2.0), (10, 4.0)], 20, 4.0),  # the slower one was disturbed
        ([(10, 2.0), (20, 3.0), (20, 9.0)], 120, 13.0),
        ([(10, 3.0), (20, 2.0)], 1000, 2.5),  # what fell is noise
        ([(0, 2.0)], 100, 2.0),  # nothing of it was done
        ([(10, 1.0), (20, 5.0)], 1, 0.0),  # and nothing takes less than no time
    ],
)
def test_two_sizes_give_a_line_and_one_an_upper_bound(points, wanted, expected):
    assert cost_forecast.scaled(points, wanted) == pytest.approx(expected)


def test_several_sizes_give_the_line_of_least_squares():
    sizes, costs = [100, 230, 470, 900], [7.0, 9.5, 18.0, 31.0]
    line = np.polyfit(sizes, costs, 1)
    assert cost_forecast.scaled(list(zip(sizes, costs, strict=True)), 5000) == pytest.approx(
        np.polyval(line, 5000)
    )


def test_work_is_crops_where_a_stage_trains():
    training = {"epochs": 3, "members": 2, "batch_size": 8, "checkpoint": ""}
    assert timings.units_of(training, 20) == 3 * 2 * 2 * 8  # the last, smaller batch is left out
    assert timings.units_of(training, 5) == 3 * 2 * 5
    assert timings.units_of(training | {"checkpoint": "x.pt"}, 20) == 0
    assert timings.units_of({"processes": 2}, 20) == 20


def test_work_shrinks_with_the_cpus_and_the_rest_does_not(planned, tiny_shapes):
    name = "affinity_labels"
    found = [measurement(planned, name, 10, 2.0, 5.0), measurement(planned, name, 20, 3.0, 6.0)]
    told = forecast(planned, tiny_shapes, name, found, cpus=8)
    assert told.work == pytest.approx((1 + 0.1 * 120) / 4)
    assert told.rest == pytest.approx(4 + 0.1 * 120)
    assert told.sizes == (10, 20) and told.bound == "CPUs" and not told.notes
    assert told.memory == pytest.approx(GIB + 8 * GIB // 2)  # eight workers; files as they were
    assert told.calls == cost_forecast.CALLS * 20 + cost_forecast.READS * 2 * 120


def test_the_start_takes_as_long_for_any_number_of_photos(planned, tiny_shapes):
    name = "affinity_labels"
    found = [
        measurement(planned, name, 10, 2.0, 5.0, start=7.0),
        measurement(planned, name, 20, 3.0, 6.0, start=9.0),  # disturbed
    ]
    told = forecast(planned, tiny_shapes, name, found)
    assert told.rest == pytest.approx(7 + 4 + 0.1 * 120)
    told = forecast(planned, tiny_shapes, name, found[:1])
    assert told.rest == pytest.approx(7 + 5.0 * 12)


def test_a_number_of_processes_is_kept_to(planned, tiny_shapes):
    name = "affinity_labels"
    item = next(item for item in planned if item.name == name)
    item.values["processes"] = 1
    found = [measurement(planned, name, 120, 2.0, 5.0, cores=1)]
    told = forecast(planned, tiny_shapes, name, found, cpus=8)
    assert told.work == 2.0 and told.memory == GIB
    assert told.notes == ("processes=1 keeps its work from using all CPUs",)


def test_one_size_is_called_an_upper_bound(planned, tiny_shapes):
    found = [measurement(planned, "affinity_labels", 10, 2.0, 5.0)]
    told = forecast(planned, tiny_shapes, "affinity_labels", found)
    assert told.work == pytest.approx(24) and told.rest == pytest.approx(60)
    assert "one size, 10 photos" in told.notes[0] and "upper bound" in told.notes[0]
    assert told.files == 20 + 110  # one file a photo, by the model
    data, values = Devkit(tiny_shapes), found[0].values
    each = disk_space.stage_bytes("affinity_labels", values, data) / 12
    assert told.disk == pytest.approx(2**20 + 110 * each, rel=1e-3)


def test_gpus_count_where_it_was_measured_on_one(planned, tiny_shapes):
    name, asked = "train_cam", {"gpus": 8, "cpus": 16}
    here = measurement(planned, name, 12, 8.0, 5.0)
    told = forecast(planned, tiny_shapes, name, [here], **asked)
    assert told.bound == "CPUs" and "without a GPU" in told.notes[0]
    there = measurement(planned, name, 120, 8.0, 5.0, gpu=True, cores=16)
    told = forecast(planned, tiny_shapes, name, [here, there], **asked)
    assert told.bound == "GPUs" and told.work == pytest.approx(1.0) and not told.notes
    told = forecast(planned, tiny_shapes, name, [there], cpus=16)
    assert told.seconds is None and "on a GPU" in told.notes[0]


@pytest.mark.parametrize("cpus, bound, seconds", [(16, "CPUs", 8.0), (256, "GPUs", 1.0)])
def test_a_walk_on_gpus_may_wait_for_its_crf(planned, tiny_shapes, cpus, bound, seconds):
    found = [measurement(planned, "random_walk", 120, 8.0, 5.0, gpu=True, cores=16)]
    told = forecast(planned, tiny_shapes, "random_walk", found, cpus=cpus, gpus=8)
    assert told.bound == bound and told.work == pytest.approx(seconds)


def test_networks_and_their_checkpoints_are_calculated(planned, tiny_shapes):
    item = next(item for item in planned if item.name == "train_segmentation")
    minute = 60 * item.values["checkpoint_minutes"]
    for seconds, kept in ((0.9 * minute, 0), (1.1 * minute, 1), (9 * minute, 2)):
        found = [measurement(planned, item.name, 120, seconds, 5.0)]
        told = forecast(planned, tiny_shapes, item.name, found)
        networks = disk_space.stage_bytes(
            item.name, item.values, Devkit(tiny_shapes), checkpoints=kept
        )
        assert told.disk == 2**20 + networks


def test_the_network_that_a_walk_joins_counts_where_nothing_was_measured(place, tiny_shapes):
    without, walk = ({"evaluate": {"walk_steps": n, "train_affinity_run": ""}} for n in (0, 8))
    sizes = []
    for given in (without, walk):
        items = plan.plan(*experiment(tiny_shapes, **given), project=PROJECT)
        sizes.append(forecast(items, tiny_shapes, "evaluate", []).disk)
    values = {item.name: item.values for item in items}
    networks = [
        disk_space.NETWORKS[n](values[n], 5) for n in ("train_segmentation", "train_affinity")
    ]
    weights = sum(4 * t.numel() for n in networks for t in n.state_dict().values())
    assert weights < sizes[1] - sizes[0] < 1.3 * weights


def test_classes_of_all_photos_slow_the_segmentation_network(planned, tiny_shapes, monkeypatch):
    monkeypatch.setattr(timings, "_timed", lambda name, values, data, classes: classes + 1)
    for name, growth in (("train_segmentation", 81 / 6), ("affinity_labels", 1)):
        found = [measurement(planned, name, 120, 3.0, 5.0)]
        told = forecast(planned, tiny_shapes, name, found, classes=80)
        assert told.work == pytest.approx(3.0 * growth) and told.rest == 5.0
        assert any("13.50 times as long" in note for note in told.notes) == (growth > 1)


def test_a_step_with_other_classes_is_timed(planned, tiny_shapes):
    values = {item.name: item.values for item in planned}
    for name in timings.GROW:
        assert 0 < timings.class_growth(name, values, Devkit(tiny_shapes), 80, 5) < 1000
    values["evaluate"]["walk_steps"] = 8
    assert 0 < timings.class_growth("evaluate", values, Devkit(tiny_shapes), 80, 5) < 1000
    assert timings.class_growth("train_segmentation", values, None, 5, 5) == 1
    assert timings.class_growth("train_cam", values, None, 80, 5) == 1


def test_what_is_kept_in_memory_of_each_photo(tmp_path):
    """The constants beside what Python's own account of memory says."""
    for number in range(1000):
        (tmp_path / f"COCO_train_{number:012d}.npz").touch()
    tracemalloc.start()
    try:
        results.inventory(tmp_path)
        listed = tracemalloc.get_traced_memory()[1] / 1000
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        confusions, pixels = Confusions(81), np.arange(64).reshape(8, 8)
        for number in range(1000):  # of 20 pairs of classes each
            labels = pixels % 5 + number % 60
            confusions.add(f"COCO_train_{number:012d}", labels, target=pixels // 16)
        save_confusions(tmp_path / "c.npz", confusions)
        counted = (tracemalloc.get_traced_memory()[1] - before) / 1000
    finally:
        tracemalloc.stop()
    assert 0.5 < listed / cost_forecast.LISTED < 1.5
    assert 0.8 < counted / cost_forecast.SCORED["infer_cam"] < 1.2


def test_what_gives_way_first(planned, tiny_shapes, tmp_path):
    ((most, what, _),) = cost_forecast.limits(planned, Devkit(tiny_shapes))
    assert most == 2**24 // 11 and "id list" in what  # "train_0000" and the line's end
    path = tmp_path / "ids.txt"
    path.write_text("train_0000\n" * most)
    assert text.read_text(path, "an id list")
    path.write_text("train_0000\n" * (most + 1))
    with pytest.raises(InputError, match="at most 16,777,216 bytes"):
        text.read_text(path, "an id list")


def record(item, digest, *, seconds=9.0, values=None, work=4.0, again=False):
    """A completed stage, as the driver leaves one."""
    folder = item.folder
    journal = Journal(folder)
    journal.begin("e", item.name, {"wsss.device": "x86_64 CPU, 4 cores"})
    if again:
        journal.begin("e", item.name, {})
    journal.metrics({"a": 1.0})
    cells = [("code", f"run = {timings.START}name)", 1.5), ("code", "plt.show()", 0.25)]
    cells += [("code", f"{timings.WORK[0]}ids, job)", work), ("markdown", timings.WORK[0], 100.0)]
    notebook = {
        "cells": [
            {"cell_type": kind, "source": [source], "metadata": {"papermill": {"duration": lasted}}}
            for kind, source, lasted in cells
        ]
    }
    (folder / results.NOTEBOOK).write_text(json.dumps(notebook))
    atomic.save_json(folder / "run.json", {"seconds": seconds})
    parameters = item.values | (values or {})
    about = {"stage": item.name, "fingerprint": item.fingerprint, "inputs": {}, "metrics": {}}
    about |= {"parameters": parameters, "data_digest": digest, "ended": 1.0, "memory": {}}
    atomic.save_json(folder / results.COMPLETE, about)
    (folder / "weights.pt").write_bytes(bytes(9000))
    (folder / "cams").mkdir()
    (folder / "cams" / "a.npz").write_bytes(bytes(5000))


def test_a_completed_stage_is_measured(planned, tiny_shapes):
    data = Devkit(tiny_shapes)
    item = next(item for item in planned if item.name == "infer_cam")
    record(item, data.digest())
    (found,) = timings.find(planned, data)["infer_cam"]
    assert (found.photos, found.units, found.classes, found.gpu, found.cores) == (
        *(12, 12, 5, False, 4),
    )
    assert (found.start, found.work, found.rest) == (4.75, 4.0, 0.25)  # 9 s in all
    assert found.files == 6 and found.bytes == 4 * 4096 + 8192  # the weights not among these
    assert found.entries == 2


@pytest.mark.parametrize(
    "more",
    [
        {"again": True},  # its notebook tells of its last attempt alone
        {"values": {"flip": False}},  # half the work
        {"digest": "another"},  # nobody knows how many photos there were
        {"work": 10.0},  # more than all of it
        {"work": None},
        {"values": {"data_root": "/nowhere"}},
        {"values": {"data_root": None}},
    ],
)
def test_what_was_not_the_same_is_no_measurement(planned, tiny_shapes, more):
    item = next(item for item in planned if item.name == "infer_cam")
    record(item, **({"digest": Devkit(tiny_shapes).digest()} | more))
    assert timings.find(planned, Devkit(tiny_shapes))["infer_cam"] == []


def plan_of(root, capsys, *words):
    path = str(paths.project_root() / "experiments" / "shapes.yaml")
    code = cli.main(["plan", path, f"common.data_root={root}", *words, "--cpus", "4"])
    return code, capsys.readouterr().out


def test_what_is_not_measured_is_told_with_the_command(place, tiny_shapes, capsys):
    code, said = plan_of(tiny_shapes, capsys, "--photos", "82000", "--classes", "80")
    assert code == 0 and "82,000 photos" in said and "80 classes, 4 CPUs" in said
    assert "nothing measured of dataset, train_cam" in said
    assert f"shapes.yaml common.data_root={tiny_shapes} --until report`" in said
    assert "Bottleneck" not in said  # nobody knows
    assert "Breaks" not in said
    _, said = plan_of(tiny_shapes, capsys, "--photos", "2000000", "--classes", "80")
    assert "Breaks from 1,525,201 photos on: the id list of" in said


def test_the_bottleneck_is_named(place, planned, tiny_shapes, capsys):
    data = Devkit(tiny_shapes)
    slow = {"infer_cam": 7.0, "random_walk": 8.5}
    for item in planned:
        if item.name in slow:
            record(item, data.digest(), work=slow[item.name])
    code, said = plan_of(tiny_shapes, capsys, "common.processes=0")
    assert code == 0
    assert "Bottleneck: the work of random_walk on CPUs, 47 % of the time" in said  # 8.5 of 18
    assert "The record gets 0.22 entries a second at most, from infer_cam" in said  # 2 in 9 s
    assert "noise" not in said
    _, far = plan_of(tiny_shapes, capsys, "common.processes=0", "--photos", "1201")
    assert "100 times what was measured: noise is multiplied as often" in far
    row = next(line for line in said.splitlines() if line.startswith("| infer_cam"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:5] == ["infer_cam", "12", "0.0025", "0.00056", "CPUs"]  # 9 s, of them 2
    assert list(tiny_shapes.parent.glob("*")) == [tiny_shapes]  # planning makes nothing


@pytest.mark.parametrize("stage", [*disk_space.NETWORKS, *disk_space.KINDS])
def test_one_cell_of_a_notebook_does_the_work_that_more_processors_shorten(stage):
    cells = json.loads(stages.read_stages()[stage].path.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert sum(any(call in source for call in timings.WORK) for source in code) == 1
    assert sum(timings.START in source for source in code) == 1
    started = next(place for place, source in enumerate(code) if timings.START in source)
    assert not any(call in code[started] for call in timings.WORK)
