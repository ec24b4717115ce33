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


def test_what_people_changed_in_an_experiment_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    client, id = mlflow_store.client(), mlflow_store.experiment_id("toys")
    mlflow_pages.describe_experiment("toys", "Toys.", columns=[])
    assert mlflow_pages.VIEW not in client.get_experiment(id).tags  # no figures yet, so no view
    client.set_experiment_tag(id, mlflow_pages.NOTE, "Mine.")
    mlflow_pages.describe_experiment("toys", "Toys.", columns=["1 CAM mIoU/train+x"])
    tags = client.get_experiment(id).tags
    assert tags[mlflow_pages.NOTE] == "Mine."
    state = json.loads(json.loads(tags[mlflow_pages.VIEW])["state"])
    found = mlflow_store.metric_name("1 CAM mIoU/train+x")  # as MLflow takes it
    assert state["selectedColumns"] == [f"metrics.`{found}`"]
    mlflow_pages.describe_experiment("toys", "Toys.", columns=["4 network mIoU/val"])
    assert client.get_experiment(id).tags == tags
