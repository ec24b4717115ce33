"""Forecasts, compared with what is calculated by hand from records that the tests make up."""

import tracemalloc

import numpy as np
import pytest

from wsss import cli
from wsss.cli.project import PROJECT
from wsss.cost import disk_space, timings
from wsss.cost import forecast as cost_forecast
from wsss.datasets import Devkit
from wsss.errors import InputError
from wsss.io import artifacts, atomic
from wsss.io import text as io_text
from wsss.lab import paths, plan, results
from wsss.lab.record import stage_run
from wsss.lab.record.journal import Journal
from wsss.photos.evaluation import count_labels, save_confusions
from wsss.runtime import devices

GIB = 2**30


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv(stage_run.DRIVEN_VARIABLE, "1")


@pytest.fixture
def planned(outputs, tiny_shapes):
    """The built-in experiment on 12 + 6 photos."""
    return plan.plan(*experiment(tiny_shapes), project=PROJECT)


def experiment(root, **stages_values):
    path = paths.project_root() / "experiments" / "shapes.yaml"
    given = {"common": {"data_root": str(root), "processes": 0}} | stages_values
    return plan.read_experiment(path), given


def run(planned, name, photos, work, rest, **more):
    """The measurement of a run as if one had been found."""
    values = next(item.values for item in planned if item.name == name)
    given = {"values": values, "photos": photos, "work": work, "rest": rest, "start": 0.0}
    given |= {"cores": 2, "gpu": False, "bytes": 2**20, "files": 20}
    given |= {"bulk_bytes": 2**19, "bulk_files": 10}
    given |= {"memory": {"process": GIB, "worker": GIB // 2}}
    return timings.Measurement(**(given | more))


@pytest.fixture
def forecast(planned, tiny_shapes, monkeypatch):
    """Forecasts one stage from runs of it alone."""

    def of(name, runs, items=planned, **scenario):
        found = {item.name: runs if item.name == name else [] for item in items}
        monkeypatch.setattr(timings, "find", lambda planned, data: found)
        scenario = cost_forecast.Scenario(
            **({"photos": 120, "classes": 5, "cpus": 2, "gpus": 0} | scenario)
        )
        forecasts = cost_forecast.forecast(items, Devkit(tiny_shapes), scenario=scenario)
        return next(each for each in forecasts if each.name == name)

    return of


@pytest.mark.parametrize(
    "points, size, expected",
    [
        ([(10, 2.0), (20, 3.0)], 120, 13.0),  # 1 + 0.1 each
        ([(10, 2.0), (20, 3.0)], 10, 2.0),
        ([(10, 2.0)], 120, 24.0),  # an upper bound: all of it grows
        ([(10, 2.0)], 5, 2.0),
        ([(10, 2.0), (10, 4.0)], 20, 4.0),  # the slower one was disturbed
        ([(10, 2.0), (20, 3.0), (20, 9.0)], 120, 13.0),
        ([(10, 3.0), (20, 2.0)], 1000, 2.5),  # a fall is noise
        ([(0, 2.0)], 100, 2.0),  # nothing was worked on
        ([(10, 1.0), (20, 5.0)], 1, 0.0),  # nothing takes less than no time
    ],
)
def test_two_sizes_give_a_line_and_one_an_upper_bound(points, size, expected):
    assert cost_forecast.line(points, size) == pytest.approx(expected)


def test_several_sizes_give_the_line_of_least_squares():
    sizes, costs = [100, 230, 470, 900], [7.0, 9.5, 18.0, 31.0]
    expected = np.polyval(np.polyfit(sizes, costs, 1), 5000)
    assert cost_forecast.line(list(zip(sizes, costs, strict=True)), 5000) == pytest.approx(expected)


def test_work_shrinks_with_the_cpus_and_the_rest_does_not(planned, forecast):
    name = "affinity_labels"
    found = forecast(
        name, [run(planned, name, 10, 2.0, 5.0), run(planned, name, 20, 3.0, 6.0)], cpus=8
    )
    assert found.work == pytest.approx((1 + 0.1 * 120) / 4)
    assert found.rest == pytest.approx(4 + 0.1 * 120)
    assert found.sizes == [10, 20] and found.bound == "CPUs" and not found.notes
    # ten times as much of what grows: 10 files in 512 KiB; eight workers, and what listing takes
    assert found.files == 20 + 5 * 10 and found.disk == 2**20 + 5 * 2**19
    assert found.memory == GIB + 8 * GIB // 2 + 5 * 10 * cost_forecast.LISTED


def test_start_up_takes_the_same_for_any_number_of_photos(planned, forecast):
    name = "affinity_labels"
    found = [
        run(planned, name, 10, 2.0, 5.0, start=7.0),
        run(planned, name, 20, 3.0, 6.0, start=9.0),  # disturbed
    ]
    assert forecast(name, found).rest == pytest.approx(7 + 4 + 0.1 * 120)
    alone = forecast(name, found[:1])
    assert alone.rest == pytest.approx(7 + 5.0 * 12) and alone.work == pytest.approx(2.0 * 12)
    assert "one size, 10 photos" in alone.notes[0] and "upper bound" in alone.notes[0]


def test_a_training_of_more_passes_works_longer(planned, forecast):
    found = run(planned, "train_cam", 120, 8.0, 5.0)
    fewer = {"epochs": found.values["epochs"] // 5, "soup_size": 1}
    quick = found._replace(values=found.values | fewer)
    assert forecast("train_cam", [quick]).work == pytest.approx(5 * 8.0)


def test_a_number_of_processes_is_kept_to(planned, forecast):
    name = "affinity_labels"
    next(item for item in planned if item.name == name).values["processes"] = 1
    found = forecast(name, [run(planned, name, 120, 2.0, 5.0, cores=1)], cpus=8)
    assert found.work == 2.0 and found.memory == GIB
    assert found.notes == ["processes=1 keeps its work from using all CPUs"]


def test_gpus_count_where_a_run_used_one(planned, forecast):
    name, asked = "train_cam", {"gpus": 8, "cpus": 16}
    on_cpu = run(planned, name, 12, 8.0, 5.0)
    found = forecast(name, [on_cpu], **asked)
    assert found.bound == "CPUs" and any("without a GPU" in note for note in found.notes)
    on_gpu = run(planned, name, 120, 8.0, 5.0, gpu=True, cores=16)
    found = forecast(name, [on_cpu, on_gpu], **asked)
    assert found.bound == "GPUs" and found.work == pytest.approx(1.0) and not found.notes
    found = forecast(name, [on_gpu], cpus=16)
    assert not found.sizes and "on a GPU" in found.notes[0]


@pytest.mark.parametrize("cpus, bound, seconds", [(16, "CPUs", 8.0), (256, "GPUs", 1.0)])
def test_a_walk_on_gpus_may_wait_for_its_crf(planned, forecast, cpus, bound, seconds):
    found = [run(planned, "random_walk", 120, 8.0, 5.0, gpu=True, cores=16)]
    found = forecast("random_walk", found, cpus=cpus, gpus=8)
    assert found.bound == bound and found.work == pytest.approx(seconds)


def test_networks_and_their_checkpoints_are_calculated(planned, forecast, tiny_shapes):
    item = next(item for item in planned if item.name == "train_segmentation")
    found = run(planned, item.name, 120, 3.0, 5.0, bulk_bytes=0)
    networks = disk_space.stage_bytes(item.name, item.values, data=Devkit(tiny_shapes), classes=80)
    assert forecast(item.name, [found], classes=80).disk == 2**20 + networks


def test_the_network_that_a_walk_joins_counts_where_nothing_was_measured(
    outputs, forecast, tiny_shapes
):
    without, walk = ({"evaluate": {"walk_steps": n, "train_affinity_run": ""}} for n in (0, 8))
    sizes = []
    for given in (without, walk):
        items = plan.plan(*experiment(tiny_shapes, **given), project=PROJECT)
        sizes.append(forecast("evaluate", [], items).disk)
    values = {item.name: item.values for item in items}
    networks = [
        disk_space.NETWORKS[n](values[n], 5) for n in ("train_segmentation", "train_affinity")
    ]
    weights = sum(4 * t.numel() for n in networks for t in n.state_dict().values())
    assert weights < sizes[1] - sizes[0] < 1.3 * weights


@pytest.mark.parametrize("name, noted", [("train_segmentation", True), ("infer_cam", False)])
def test_more_classes_are_noted_where_all_of_them_are_scored(planned, forecast, name, noted):
    runs = [run(planned, name, 120, 3.0, 5.0)]
    assert not any("classes" in note for note in forecast(name, runs).notes)
    found = forecast(name, runs, classes=80)  # 81 scores per pixel instead of 6
    assert (found.work, found.rest) == (3.0, 5.0)
    assert any("5 classes: with 80, " in n and "13.5 times" in n for n in found.notes) == noted


def test_memory_per_photo_is_as_python_accounts_for_it(tmp_path):
    tracemalloc.start()
    try:
        peaks = []
        for count in (3000, 9000):  # batches take megabytes once
            for number in range(count):
                (tmp_path / f"COCO_train_{number:012d}.npz").touch()
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            results.files(tmp_path)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
        listed = (peaks[1] - peaks[0]) / 6000
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        pixels = np.arange(64).reshape(8, 8)
        photos = (  # of 20 pairs of classes each
            (f"COCO_train_{number:012d}", pixels % 5 + number % 60, pixels // 16)
            for number in range(1000)
        )
        save_confusions(tmp_path / "c.npz", count_labels(photos, num_classes=81))
        counted = (tracemalloc.get_traced_memory()[1] - before) / 1000
    finally:
        tracemalloc.stop()
    assert 0.5 < listed / cost_forecast.LISTED < 1.5
    assert 0.8 < counted / cost_forecast.SCORED["infer_cam"] < 1.2


def test_an_id_list_may_have_as_many_lines_as_the_forecast_says(tmp_path):
    path, most = tmp_path / "ids.txt", 1_525_201 - 1  # "train_0000" and the line's end, 16 MiB
    path.write_text("train_0000\n" * most)
    assert io_text.read_text(path, "an id list")
    path.write_text("train_0000\n" * (most + 2))
    with pytest.raises(InputError, match="at most 16,777,216 bytes"):
        io_text.read_text(path, "an id list")


def record(item, digest, *, start=4.0, work=4.0, rest=1.0, resumed=False, gpu=False, **changes):
    """Complete a stage as its notebook and the driver do, on four cores and a clock of its own."""
    journal, values, now = Journal(item.folder), item.values | changes, [0.0]
    for _ in range(1 + resumed):
        journal.begin("e", item.name, tags={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices.time, "monotonic", lambda: now[0])
        patch.setattr(stage_run, "cores", lambda: 4)
        patch.setattr(devices.torch.cuda, "is_initialized", lambda: gpu)
        stage = stage_run.StageRun(
            item.name, values, inputs={}, folder=item.folder, data_digest=digest
        )
        with devices.timed_work():
            now[0] += work
        artifacts.save_labels(item.folder / "cams" / "nested" / "a.png", np.zeros((9, 9)))
        now[0] += rest
        stage.complete(folders=["cams"])
    atomic.save_json(item.folder / "run.json", {"seconds": start + work + rest})


def test_a_completed_stage_is_measured(planned, tiny_shapes):
    data = Devkit(tiny_shapes)
    item = next(item for item in planned if item.name == "infer_cam")
    record(item, data.digest(), gpu=True)
    (found,) = timings.find(planned, data)["infer_cam"]
    assert (found.start, found.work, found.rest) == (4.0, 4.0, 1.0)
    assert (found.photos, found.gpu, found.cores) == (12, True, 4)
    assert (found.bulk_files, found.bulk_bytes) == (1, 4096)
    assert found.bytes == disk_space.taken(disk_space.files_of(item.folder))
    assert found.memory["process"] > 2**20


@pytest.mark.parametrize(
    "more",
    [
        {"resumed": True},  # its record covers its last attempt alone
        {"flip": False},  # half the work
        {"digest": "another"},  # other photos
        {"start": -1.0},  # nobody took the time of all of it
    ],
)
def test_other_runs_do_not_count(planned, tiny_shapes, more):
    item = next(item for item in planned if item.name == "infer_cam")
    record(item, **({"digest": Devkit(tiny_shapes).digest()} | more))
    assert timings.find(planned, Devkit(tiny_shapes))["infer_cam"] == []


def forecast_of(root, capsys, *words, name="forecast"):
    path = str(paths.project_root() / "experiments" / "shapes.yaml")
    code = cli.main([name, path, f"common.data_root={root}", *words, "--cpus", "4"])
    return code, *capsys.readouterr()


def test_what_is_not_measured_is_named_with_the_command(outputs, tiny_shapes, capsys):
    code, text, _ = forecast_of(tiny_shapes, capsys, "--photos", "82000", "--classes", "80")
    assert code == 0 and "82,000 photos" in text and "80 classes, 4 CPUs" in text
    assert "nothing measured of dataset, train_cam" in text
    assert f"shapes.yaml common.data_root={tiny_shapes} --until report`" in text
    assert "Bottleneck" not in text and "Breaks" not in text
    _, text, _ = forecast_of(tiny_shapes, capsys, "--photos", "2000000", "--classes", "80")
    assert "Breaks from 1,525,201 photos on: the id list passes 16 MiB" in text


def test_a_run_of_an_older_record_is_to_be_run_again(planned, tiny_shapes, capsys):
    item = next(item for item in planned if item.name == "dataset")
    record(item, Devkit(tiny_shapes).digest())
    complete = results.completion(item.folder)
    del complete["usage"], complete["machine"]
    atomic.save_json(item.folder / results.COMPLETE, complete)
    code, text, _ = forecast_of(tiny_shapes, capsys, "common.processes=0")
    assert code == 0 and "--force --from dataset --until report` measures it" in text


def test_the_bottleneck_is_named(planned, tiny_shapes, capsys):
    for item in planned:
        if item.name in ("infer_cam", "random_walk"):
            work = {"infer_cam": 7.0, "random_walk": 8.5}[item.name]
            record(item, Devkit(tiny_shapes).digest(), start=1.0, work=work, rest=1.0)
    code, text, _ = forecast_of(tiny_shapes, capsys, "common.processes=0")
    assert code == 0
    # 8.5 of 7 + 2 + 8.5 + 2 seconds
    assert "Bottleneck: the work of random_walk on CPUs, 44 % of the time" in text
    assert "noise" not in text
    row = next(line for line in text.splitlines() if line.startswith("| infer_cam"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:5] == ["infer_cam", "12", "0.0025", "0.00056", "CPUs"]  # 9 s, of them 2
    assert list(tiny_shapes.parent.glob("*")) == [tiny_shapes]  # a forecast writes nothing
    _, far, _ = forecast_of(tiny_shapes, capsys, "common.processes=0", "--photos", "1201")
    assert "100 times the photos measured: noise is multiplied as often" in far


def test_the_old_name_of_the_command_names_the_new_one(outputs, tiny_shapes, capsys):
    new = forecast_of(tiny_shapes, capsys)
    code, text, note = forecast_of(tiny_shapes, capsys, name="plan")
    assert (code, text) == new[:2] and not new[2]
    assert note.count("\n") == 1 and "wsss forecast" in note
