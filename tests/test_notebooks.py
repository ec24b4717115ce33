"""Cells of notebooks, run in this process, where there are few photos or other lists."""

import json

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
import torchvision

from wsss.datasets import shapes
from wsss.datasets.voc import Devkit
from wsss.errors import InputError
from wsss.io import artifacts
from wsss.lab import paths, results, stages
from wsss.lab.record import stage_run


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a notebook's cells with these values, without MLflow; returns its variables."""
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv(stage_run.DRIVEN_VARIABLE, "1")
    monkeypatch.setattr(plt, "show", lambda: None)

    def run(notebook, **values):
        (path,) = paths.project_root().glob(f"notebooks/*{notebook}.ipynb")
        namespace = stages.Stage(notebook, path).resolve({}) | values
        cells = nbformat.read(path, as_version=4).cells
        for cell in cells:
            if cell.cell_type == "code" and not cell.metadata.get("tags"):
                exec(cell.source, namespace)
        plt.close("all")
        return namespace

    return run


TRAINED = {"epochs": 1, "crop": 32, "workers": 0}


@pytest.mark.parametrize("photos", [1, 2, 5])
def test_few_photos_are_trained_on(run, tmp_path, photos):
    root = shapes.generate(tmp_path / "data", train=photos, val=1)
    stage = run("train_cam", data_root=str(root), **TRAINED)
    assert results.completed(stage["run"].folder)["metrics"]["loss"] > 0
    alone = {"train_cam_run": "none", "random_walk_run": "none", "start_from_cam": False}
    alone |= {"labels_folder": str(Devkit(root).mask_path("x").parent), "channels": 8}
    stage = run("train_segmentation", data_root=str(root), **TRAINED, **alone)
    assert results.completed(stage["run"].folder)["metrics"]["loss"] > 0


def test_regions_need_no_photo_that_is_scored(run, tmp_path, tiny_shapes, capsys):
    """Where labels are scored on other photos than those that are trained on."""
    data, folder = Devkit(tiny_shapes), tmp_path / "maps"
    for photo_id in data.ids("train"):
        height, width = data.image(photo_id).shape[:2]
        maps = np.ones((len(data.labels(photo_id)), -(-height // 4), -(-width // 4)), np.float32)
        path = folder / "cams" / f"{photo_id}.npz"
        artifacts.save_cams(path, data.labels(photo_id), cams=maps)
    record = {"stage": "infer_cam", "fingerprint": "0a", "data_digest": data.digest()}
    record |= {"metrics": {}, "parameters": {}, "inputs": {}, "ended": 1.0}
    (folder / results.COMPLETE).write_text(json.dumps(record))
    values = {"data_root": str(tiny_shapes), "infer_cam_run": str(folder), "train_split": "train"}
    values |= {"score_split": "val", "crf_steps": 0, "processes": 1}
    stage = run("affinity_labels", **values)
    assert results.completed(stage["run"].folder)["metrics"] == {}
    assert "no photo of val has both regions and a mask: no scores" in capsys.readouterr().out
    assert (stage["run"].folder / "figures" / "regions.png").exists()
    assert set(stage["shown"]) <= set(data.ids("train"))


@pytest.mark.parametrize("weights", [False, True])
def test_what_the_pretrained_network_needs_is_asked_before_training(
    run, tiny_shapes, tmp_path, weights
):
    given = {"backbone": "mobilenet_v2", "output_stride": 32, "wise_ft_alpha": 0.5}
    if weights:
        given |= {"weights": str(tmp_path / "w.pth"), "head_channels": 8}
        torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), given["weights"])
    needed = "a classifier on the backbone itself" if weights else "ImageNet weights"
    with pytest.raises(InputError, match=f"wise_ft_alpha needs {needed}"):
        run("train_cam", data_root=str(tiny_shapes), **TRAINED, **given)
    assert not list(tmp_path.rglob("*checkpoint*"))


def test_exploring_refuses_values_outside_their_range(run, tiny_shapes):
    with pytest.raises(InputError, match=r"explore\.beta: expected a value in \(0, inf\)"):
        run("explore", data_root=str(tiny_shapes), beta=0.0)
