"""The driver: checks first, one notebook after another, reuse by fingerprint, and a record in
MLflow.
"""

import json
import re
import shlex
import subprocess
import sys
import time

import nbformat
import pandas as pd
import pytest
import torch
import yaml

from wsss import cli, models
from wsss.apply import find_networks
from wsss.cli.project import PROJECT
from wsss.datasets import shapes
from wsss.errors import InputError
from wsss.lab import paths, plan, results
from wsss.lab.record import delivery, mlflow_store
from wsss.lab.record.journal import Journal
from wsss.lab.run import driver

SMOKE = {
    "common": {"dataset": "shapes", "processes": 1, "workers": 0},
    "stages": {
        "dataset": {},
        "train_cam": {"epochs": 1, "soup_size": 2, "crop": 64},
        "infer_cam": {"scales": [0.5], "processes": 2},
        "affinity_labels": {"crf_steps": 1},
        "train_affinity": {"epochs": 1, "crop": 64},
        "random_walk": {"steps": 8, "crf_steps": 1, "flip": True},
        "train_segmentation": {
            **{"epochs": 1, "crop": 64, "channels": 16, "low_level_channels": [4, 8]},
            **{
                "soup_size": 2,
                "rare_photos": 4,
                "logit_adjustment": 0.4,
                "class_presence_weight": 0.5,
            },
        },
        "evaluate": {"model_name": "smoke-network", "train_affinity_run": "", "walk_steps": 4},
        "report": {},
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of its own for outputs, data and the tracking store."""
    root = tmp_path_factory.mktemp("place")
    patch = pytest.MonkeyPatch()
    patch.setenv("WSSS_OUTPUTS", str(root / "outputs"))
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    kernel = root / "jupyter" / "kernels" / "python3" / "kernel.json"  # another Python's
    kernel.parent.mkdir(parents=True)
    kernel.write_text('{"argv": ["false"], "display_name": "Python 3", "language": "python"}')
    patch.setenv("JUPYTER_PATH", str(root / "jupyter"))
    patch.setenv("MPLBACKEND", "nonsense")
    shapes.generate(root / "data", train=16, val=6)
    smoke = {**SMOKE, "common": SMOKE["common"] | {"data_root": str(root / "data")}}
    (root / "smoke.yaml").write_text(yaml.safe_dump(smoke))
    yield root
    patch.undo()


def planned(place, *overrides, **options):
    experiment = plan.read_experiment(place / "smoke.yaml")
    return plan.plan(experiment, plan.parse_overrides(overrides), **options, project=PROJECT)


def test_common_values_must_be_somebodys(place):
    experiment = plan.read_experiment(place / "smoke.yaml")
    experiment["common"]["bta"] = 1
    with pytest.raises(InputError, match=r"common\.bta: no stage"):
        plan.plan(experiment, project=PROJECT)


def test_changing_one_parameter_changes_that_stage_and_what_follows(place):
    before = {item.name: item.fingerprint for item in planned(place)}
    after = {item.name: item.fingerprint for item in planned(place, "random_walk.beta=4")}
    changed = [name for name in before if before[name] != after[name]]
    assert changed == ["random_walk", "train_segmentation", "evaluate", "report"]


def test_dry_run_prints_commands_that_name_what_differs(place, capsys):
    assert cli.main(["run", str(place / "smoke.yaml"), "--dry-run", "infer_cam.flip=false"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) < 200  # pytest's folders have long names
    assert re.search(r"^# infer_cam: (to do, into|done,) .*/infer_cam/[0-9a-f]{12}$", printed, re.M)
    assert re.search(r"^# \d of 9 stages are done$", printed, re.M)
    assert "wsss forecast" in printed.splitlines()[-1]
    commands = printed.replace(" \\\n", "").splitlines()
    (words,) = (shlex.split(line) for line in commands if "20_infer_cam" in line)
    assert words[:2] == ["papermill", "notebooks/20_infer_cam.ipynb"]
    assert "-p flip False" in " ".join(words) and words[words.index("-y") + 1] == "scales: [0.5]"


def test_a_reader_that_has_seen_enough_is_no_fault():
    """As in ``wsss run X --dry-run | head -1``."""
    command = [sys.executable, "-m", "wsss", "run", "experiments/shapes.yaml", "--dry-run"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=paths.project_root(), **pipes) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_a_stage_that_refuses_its_input_is_failed_and_leaves_no_result(place, capsys):
    """A truncated photo: the integrity check names it, and MLflow knows why."""
    photo = sorted((place / "data" / "JPEGImages").iterdir())[0]
    whole = photo.read_bytes()
    photo.write_bytes(whole[: len(whole) // 2])
    try:
        assert cli.main(["run", str(place / "smoke.yaml"), "--only", "dataset"]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert photo.name in error and "not a readable photo" in error
        folder = planned(place)[0].folder
        assert results.completion(folder) is None
        runs = mlflow_store.client().search_runs([mlflow_store.experiment_id("smoke")])
        assert {run.info.status for run in runs} == {"FAILED"}
        assert any(photo.name in run.data.tags.get("wsss.error", "") for run in runs)
    finally:
        photo.write_bytes(whole)


@pytest.mark.parametrize("given", ["train_segmentation.start_from", "train_affinity.checkpoint"])
def test_weights_that_are_not_there_are_reported_before_anything_runs(place, capsys, given):
    assert cli.main(["run", str(place / "smoke.yaml"), f"{given}=/nowhere/net.pth"]) == 2
    assert "/nowhere/net.pth: no such weight file; give" in capsys.readouterr().err
    assert not (place / "outputs" / "train_cam").exists()


@pytest.fixture(scope="module")
def finished(place):
    """The whole chain, run once by the command line."""
    began = time.time()
    assert cli.main(["run", str(place / "smoke.yaml")]) == 0
    return {item.name: item for item in planned(place)} | {"began": began}


def test_the_chain_completes_and_every_stage_is_recorded(place, finished):
    items = [item for item in finished.values() if isinstance(item, plan.Planned)]
    assert [item.name for item in items] == list(SMOKE["stages"]) and all(
        item.done for item in items
    )
    runs = mlflow_store.client().search_runs(
        [mlflow_store.experiment_id("smoke")],
        f"attributes.start_time > {int(1000 * finished['began']) - 1}",
    )
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1 and parents[0].info.status == "FINISHED"
    children = {
        run.data.tags["wsss.stage"]: run
        for run in runs
        if run.info.run_id != parents[0].info.run_id
    }
    assert children.keys() == SMOKE["stages"].keys()
    for item in items:
        child = children[item.name]
        assert child.info.status == "FINISHED" and child.data.tags["wsss.complete"] == "true"
        assert child.data.params == {name: str(value) for name, value in item.values.items()}
        assert child.data.metrics["seconds"] > 0
        assert child.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert parents[0].data.tags[f"wsss.stage.{item.name}"] == child.info.run_id
        names = {
            file.path
            for file in mlflow_store.client().list_artifacts(child.info.run_id, "notebook")
        }
        assert names == {"notebook/executed.ipynb", "notebook/executed.html"}
        outputs = nbformat.read(item.folder / "executed.ipynb", as_version=4)
        assert all(cell.execution_count for cell in outputs.cells if cell.cell_type == "code")
    walk = children["random_walk"].data.metrics
    assert walk["3 labels mIoU/train"] == round(walk["labels_miou/train"], 2)
    version = mlflow_store.client().get_model_version("smoke-network", "1")
    assert version.run_id == children["evaluate"].info.run_id
    top = parents[0].data
    assert top.metrics["3 labels mIoU/train"] == round(walk["labels_miou/train"], 2)
    report = (finished["report"].folder / "report.md").read_text()
    assert report in top.tags["mlflow.note.content"]
    assert top.tags["mlflow.runName"] == "smoke"
    assert top.metrics["random_walk.labels_miou/train"] == round(walk["labels_miou/train"], 4)
    assert {"cam_miou/train", "cam_miou_best_threshold/train"} <= children[
        "infer_cam"
    ].data.metrics.keys()
    pictures = {}  # photo to the stages that show it
    for file in mlflow_store.client().list_artifacts(parents[0].info.run_id, "images"):
        photo, stage = file.path.partition("+")[0].split("~")
        pictures.setdefault(photo, set()).add(stage[:2])
    assert sum({"20", "30", "40", "50", "70"} <= stages for stages in pictures.values()) == 16
    files = {file.path for file in mlflow_store.client().list_artifacts(parents[0].info.run_id)}
    assert {"report.md", "figures"} <= files


def test_report_holds_the_figures_of_the_runs(finished):
    text = (finished["report"].folder / "report.md").read_text()
    record = results.completion(finished["random_walk"].folder)
    run_id = delivery.run_of(finished["random_walk"].folder)
    row = next(line for line in text.splitlines() if line.startswith("| CAM + walk + dCRF"))
    assert f"{record['metrics']['labels_miou/train']:.1f}" in row and run_id[:8] in row


def test_the_network_is_kept_and_registered_with_its_walk(finished):
    weights = finished["evaluate"].folder / "weights.pt"
    walked = models.open_network(weights, "segmentation").network
    assert isinstance(walked, models.RandomWalkSegmenter) and walked.walk["steps"] == 4
    registered = find_networks.network_file("models:/smoke-network/1", "segmentation")
    assert registered.read_bytes() == weights.read_bytes()
    card = (finished["evaluate"].folder / "model" / "MODEL_CARD.md").read_text()
    assert "with a segmentation head and a walk of its probabilities along an AffinityNet's" in card
    text = (finished["report"].folder / "report.md").read_text()
    assert "scales [1.0], no flip, walk of t 4, beta 12, no dCRF" in text


def test_tables_and_figures_of_the_paper_hold_these_runs(finished):
    folder = finished["report"].folder
    for number in (2, 4, 5, 6):
        assert (folder / f"figure{number}.png").stat().st_size > 10_000
    rows = pd.read_csv(folder / "tables" / "table1.csv").query("mark == 'ours'").set_index("labels")
    for labels, metric in {
        "CAM": "infer_cam.cam_miou",
        "CAM+RW": "random_walk.walk_miou",
        "CAM+RW+dCRF": "random_walk.labels_miou",
    }.items():
        stage, name = metric.split(".")
        record = results.completion(finished[stage].folder)
        assert rows.loc[labels, "mIoU"] == pytest.approx(record["metrics"][f"{name}/train"])
        assert rows.loc[labels, "runs"] == delivery.run_of(finished[stage].folder)
    network = pd.read_csv(folder / "tables" / "table2.csv").iloc[-1]
    score = results.completion(finished["evaluate"].folder)["metrics"]["segmentation_miou/val"]
    assert network["mean"] == pytest.approx(score)


def test_a_rerun_does_nothing_and_says_so(place, finished, capsys):
    runs = len(mlflow_store.client().search_runs([mlflow_store.experiment_id("smoke")]))
    assert cli.main(["run", str(place / "smoke.yaml")]) == 0
    assert "all 9 stages are done; nothing to do" in capsys.readouterr().out
    assert len(mlflow_store.client().search_runs([mlflow_store.experiment_id("smoke")])) == runs


def test_one_changed_parameter_runs_again_only_what_follows(place, finished):
    items = planned(place, "evaluate.flip=true")
    assert [item.name for item in items if not item.done] == ["evaluate", "report"]


def test_a_sweep_runs_what_is_not_shared_and_compares(place, finished, capsys):
    sheet, grid = str(place / "smoke.yaml"), ["random_walk.beta=2,8"]
    assert cli.main(["run", sheet, *grid, "--until", "random_walk"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("infer_cam: done before, reused") == 1  # all but the point that was done
    assert "train_cam: done in" not in printed and printed.count("random_walk: done in") == 1
    (folder,) = place.glob("outputs/sweeps/smoke-*")
    table = pd.read_csv(folder / "sweep.csv")
    assert list(table["random_walk.beta"]) == [2, 8]
    record = results.completion(finished["random_walk"].folder)  # beta 8, steps 8
    done = table.query("`random_walk.beta` == 8").iloc[0]
    assert done["labels_miou/train"] == pytest.approx(record["metrics"]["labels_miou/train"])
    assert f"| 8 | {done['cam_miou/train']:.2f}" in printed
    runs = mlflow_store.client().search_runs([mlflow_store.experiment_id("smoke")])
    names = {run.info.run_name for run in runs}
    assert {"beta 2 · smoke", "random_walk · beta 2"} <= names
    (swept,) = [run for run in runs if run.info.run_name == "beta 2 · smoke"]
    assert swept.data.params == {"random_walk.beta": "2"}
    assert "| random_walk | walk mIoU " in swept.data.tags["mlflow.note.content"]
    (run,) = mlflow_store.client().search_runs(
        [mlflow_store.experiment_id("smoke")], "tags.`wsss.sweep` = 'true'"
    )
    logged = {file.path for file in mlflow_store.client().list_artifacts(run.info.run_id)}
    assert run.info.status == "FINISHED" and logged == {"sweep.md", "sweep.csv", "sweep.png"}
    assert cli.main(["run", sheet, *grid, "--until", "random_walk", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("# random_walk: done") == 2


@pytest.mark.parametrize("stage", ["train_cam", "train_affinity"])
def test_a_checkpoint_takes_the_place_of_training(place, finished, stage):
    weights = finished[stage].folder / "weights.pt"
    override = f"{stage}.checkpoint={weights}"
    assert cli.main(["run", str(place / "smoke.yaml"), "--only", stage, override]) == 0
    folder = next(item.folder for item in planned(place, override) if item.name == stage)
    assert folder != finished[stage].folder
    assert results.completion(folder)["metrics"] == {}  # no loss: nothing was trained
    taken, given = (models.load_state(file) for file in (folder / "weights.pt", weights))
    assert all(torch.equal(taken[name], tensor) for name, tensor in given.items())


def test_force_from_a_stage_runs_it_and_what_follows(place, finished):
    items = planned(place, force=True, start="evaluate")
    assert [item.name for item in items if not item.done] == ["evaluate", "report"]


def test_forced_stage_repeats_its_figures(place, finished):
    before = results.completion(finished["train_affinity"].folder)
    assert cli.main(["run", str(place / "smoke.yaml"), "--only", "train_affinity", "--force"]) == 0
    after = results.completion(finished["train_affinity"].folder)
    assert after["ended"] > before["ended"]
    timeless = [
        {k: v for k, v in r["metrics"].items() if k != "images_per_second"} for r in (before, after)
    ]
    assert timeless[0] == timeless[1]


def test_a_stage_is_reproduced_from_its_record(place, finished, capsys):
    folder = finished["train_affinity"].folder
    source = delivery.run_of(folder)
    assert cli.main(["reproduce", source]) == 0
    printed = capsys.readouterr().out
    assert "identical: 4 metrics, 0 files, its weights" in printed
    again = mlflow_store.client().search_runs(
        [mlflow_store.experiment_id("smoke")], f"tags.`wsss.reproduces` = '{source}'"
    )
    assert [run.info.status for run in again] == ["FINISHED"]
    assert not list(place.glob("outputs/reproductions/*"))
    before = len(mlflow_store.client().search_model_versions("name = 'smoke-network'"))
    assert cli.main(["reproduce", str(finished["evaluate"].folder)]) == 0
    after = len(mlflow_store.client().search_model_versions("name = 'smoke-network'"))
    assert before == after > 0  # a look back makes no new version
    record = results.completion(folder)
    record["metrics"]["loss"] += 1e-9
    (folder / "complete.json").write_text(json.dumps(record))
    assert cli.main(["reproduce", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert f"loss: {record['metrics']['loss'] - 1e-9}" in printed and "not identical" in printed
    record["metrics"]["loss"] -= 1e-9
    (folder / "complete.json").write_text(json.dumps(record))


def test_an_interrupted_stage_goes_on_in_its_own_run(place, finished, monkeypatch):
    """What a killed driver leaves: a folder with half the maps and a run that is still RUNNING."""
    experiment = plan.read_experiment(place / "smoke.yaml")
    item = next(i for i in planned(place, "infer_cam.flip=false") if i.name == "infer_cam")
    source = finished["infer_cam"].folder / "cams"
    kept = sorted(source.iterdir())[:10]
    (item.folder / "cams").mkdir(parents=True)
    for path in kept:
        (item.folder / "cams" / path.name).write_bytes(path.read_bytes())
    Journal(item.folder).begin("smoke", "infer_cam", tags={"wsss.stage": "infer_cam"})
    delivery.deliver(item.folder)
    run_id = delivery.run_of(item.folder)
    (item.folder / "run.json").write_text(json.dumps({"seconds": 1000.0}))
    driver.run(
        experiment, planned(place, "infer_cam.flip=false", only="infer_cam"), project=PROJECT
    )
    run = mlflow_store.client().get_run(run_id)
    assert run.info.status == "FINISHED" and run.data.metrics["seconds"] > 1000
    for path in kept:  # not computed again: these are the maps with mirror images
        assert (item.folder / "cams" / path.name).read_bytes() == path.read_bytes()
    assert len(list((item.folder / "cams").iterdir())) == 16
