"""What MLflow's pages show first: names, headline figures, the view of the runs table."""

import json

import pytest

from wsss.cli.project import SCORES
from wsss.lab.record import mlflow_pages, mlflow_store


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({}, ""),
        ({"smoke": True, "random_walk.beta": 4}, "smoke, beta 4"),
        (
            {"train_cam.epochs": 1, "train_affinity.epochs": 2},
            "train_cam.epochs 1, train_affinity.epochs 2",
        ),
        ({"common.workers": 0, "infer_cam.processes": 1, "common.seed": 3}, "seed 3"),
        ({f"random_walk.{name}": 1 for name in "abcde"}, "a 1, b 1, c 1, +2"),
        (
            {"train_cam.weights": "a/very/long/way/to/some/weights.pth"},
            "weights …way/to/some/weights.pth",
        ),
    ],
)
def test_a_title_names_what_was_changed(changes, title):
    assert mlflow_pages.title(changes) == title


def test_headlines_are_on_held_out_photos_where_there_are_any():
    metrics = {
        "walk_miou/train": 50.0,
        "walk_miou/train_tuning": 52.0,
        "walk_miou/train_held_out": 49.0,
        "labels_miou/train": 55.0,
        "walk_miou_spread/train": 1.0,
        "segmentation_miou/val": 40.0,
        "seconds": 3.0,
    }
    assert mlflow_pages.headlines(metrics, SCORES) == {
        "2 walk mIoU/train_held_out": 49.0,
        "3 labels mIoU/train": 55.0,
        "4 network mIoU/val": 40.0,
    }
    assert mlflow_pages.headlines({"loss": 1.0}, SCORES) == {}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return mlflow_store.client()


def columns(client, name):
    """The columns of an experiment's view."""
    tags = client.get_experiment(mlflow_store.experiment_id(name)).tags
    state = json.loads(json.loads(tags[mlflow_pages.VIEW])["state"])
    return [column.removeprefix("metrics.").strip("`") for column in state["selectedColumns"]]


def test_every_experiment_has_the_view_and_it_grows_with_what_runs_score(store):
    mlflow_pages.describe_experiment("toys", "Toys.", columns=[])  # as photos without masks
    assert columns(store, "toys") == ["loss"]
    mlflow_pages.describe_experiment("toys", "Toys.", columns=["4 network mIoU/val"])
    mlflow_pages.describe_experiment("toys", "Toys.", columns=["1 CAM mIoU/train"])
    assert columns(store, "toys") == ["1 CAM mIoU/train", "4 network mIoU/val", "loss"]
    mlflow_pages.describe_experiment("odd", "", columns=["1 CAM mIoU/train+x"])
    assert columns(store, "odd")[0] == mlflow_store.metric_name("1 CAM mIoU/train+x")
    many = [f"labels_miou/{'x' * 20}{number}" for number in range(100)]
    mlflow_pages.describe_experiment("toys", "Toys.", columns=many)  # a tag has a limit
    assert len(columns(store, "toys")) == 1 + mlflow_pages.MOST_COLUMNS


def test_what_people_changed_in_an_experiment_stays(store):
    mlflow_pages.describe_experiment("toys", "Toys.", columns=["1 CAM mIoU/train"])
    id = mlflow_store.experiment_id("toys")
    view = json.loads(store.get_experiment(id).tags[mlflow_pages.VIEW])
    saved = view | {
        "updatedAt": view["createdAt"] + 1,
        "state": "of another form",
    }  # as MLflow does
    store.set_experiment_tag(id, mlflow_pages.VIEW, json.dumps(saved))
    store.set_experiment_tag(id, mlflow_pages.NOTE, "Mine.")
    tags = store.get_experiment(id).tags
    mlflow_pages.describe_experiment("toys", "Toys.", columns=["4 network mIoU/val"])
    assert store.get_experiment(id).tags == tags


def test_addresses_are_of_the_server_that_shows_the_store(store, monkeypatch):
    assert mlflow_pages.addresses() == "http://127.0.0.1:5000"
    ids = {name: mlflow_store.experiment_id(name) for name in ("old", "new", "empty")}
    for time, name in enumerate(("old", "new"), 1):
        store.create_run(ids[name], start_time=time)
    lines = [f"{name}: {mlflow_pages.address(name)}" for name in ("new", "old")]
    assert mlflow_pages.addresses().splitlines() == lines
    end = f"/#/experiments/{ids['new']}/runs?workflowType=machine_learning&viewStateShareKey=scores"
    assert lines[0] == f"new: http://127.0.0.1:5000{end}"
    assert mlflow_pages.address("nowhere") == "http://127.0.0.1:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@127.0.0.1:9/")  # does not answer
    assert mlflow_pages.address("new") == "http://127.0.0.1:9"
