"""Walks compared in one pass: every combination counts as it does by itself, on to the sweep's
table.
"""

import itertools
import json
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from wsss import cli, models
from wsss.cli.project import PROJECT
from wsss.datasets.voc import Devkit
from wsss.errors import InputError
from wsss.geometry import upsample
from wsss.io import artifacts, atomic
from wsss.lab import paths, plan, results
from wsss.lab.record import mlflow_store
from wsss.metrics import ConfusionMatrix
from wsss.photos import walk_grid
from wsss.photos.map_photos import infer
from wsss.synthesis import Walk, label_map, walk_scores

GRID = walk_grid.Grid((1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0), (1.0, 4.0), (1, 4, 16))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = models.build_affinity("small").eval()
    with torch.no_grad():
        network.mix.weight *= 300  # distances of about 1
    return network


@pytest.fixture(scope="module")
def cams(tmp_path_factory, tiny_shapes):
    """Maps of the photos of ``train``: soft blobs, one or more a class."""
    data, folder = Devkit(tiny_shapes), tmp_path_factory.mktemp("cams")
    generator = torch.Generator().manual_seed(0)
    for place, id in enumerate(data.ids("train")):
        height, width = (-(-side // 4) for side in data.image(id).shape[:2])
        classes = [1, 2, 4, 5] if place == 0 else data.labels(id)
        coarse = torch.rand((len(classes), 4, 4), generator=generator)
        maps = torch.nn.functional.interpolate(coarse[None], (height, width), mode="bilinear")[0]
        maps = ((maps - 0.4).clamp(min=0) / 0.6).numpy()
        if place == 0:
            maps[2] = maps[1]  # the first of equals wins
        artifacts.save_cams(folder / f"{id}.npz", classes, cams=maps)
    return folder


@pytest.fixture
def given(tmp_path, tiny_shapes, cams, network):
    """The arguments of a ``sweep_job``."""
    folders = {"affinities": tmp_path / "affinities", "folder": tmp_path / "counts"}
    settings = {"network": network, "walk": Walk(flip=True), "grid": GRID}
    return {"dataset": Devkit(tiny_shapes), "cams": cams, **folders, **settings}


def merged(given, ids):
    return walk_grid.merge(given["folder"], ids, grid=GRID, num_classes=5)


@pytest.mark.parametrize("restore, pixels", [(0.0, 0), (0.5, 32)])
def test_every_combination_counts_as_it_does_by_itself(given, restore, pixels):
    given["walk"] = replace(given["walk"], restore=restore)
    data = given["dataset"]
    ids = data.ids("train")[:3]
    assert infer(ids, walk_grid.sweep_job(**given), label="t", processes=1) == 3
    places = list(itertools.product(*map(enumerate, GRID)))
    assert len(places) == 9 * 2 * 3
    expected = {place: ConfusionMatrix(len(data.classes) + 1) for place in places}
    for id in ids:
        classes, maps = artifacts.load_cams(given["cams"] / f"{id}.npz")
        image = data.image(id)
        affinity = given["walk"].affinities(given["network"], image)
        for place, matrix in expected.items():
            (_, alpha), (_, beta), (_, steps) = place
            walk = Walk(background_alpha=alpha, beta=beta, steps=steps, restore=restore)
            scores = upsample(walk_scores(maps, affinity, walk=walk), image.shape[:2]).numpy()
            matrix.update(label_map(scores, classes), data.mask(id))
    found = merged(given, ids)
    for ((a, _), (b, _), (t, _)), matrix in expected.items():
        # upsampling rounds by how many maps there are, which decides where two score nearly the
        # same: with restored maps up to 8 pixels were seen
        np.testing.assert_allclose(found[a, b, t], matrix.matrix, rtol=0, atol=pixels)
    # there is something to compare: few are alike, and classes stand beside background
    different = {matrix.matrix.tobytes() for matrix in expected.values()}
    assert len(different) > 36
    assert (found.sum((0, 1, 2, 3))[[1, 2, 5]] > 0).all()


def test_background_wins_over_its_equals_and_ignored_pixels_do_not_count():
    target = np.array([[0, 3, 255], [3, 3, 0]], np.uint8)
    scores = torch.ones((1, 1, 2 + 2, 2, 3))
    scores[:, :, 1] = 0.5  # the second alpha's background is less than the classes
    targets, counts = walk_grid.count(scores, target, classes=2)
    assert targets.tolist() == [0, 3]
    assert counts[0, 0, 0].tolist() == [[2, 0, 0], [3, 0, 0]]
    assert counts[1, 0, 0].tolist() == [[0, 2, 0], [0, 3, 0]]


def test_only_what_is_missing_is_computed(given):
    ids = given["dataset"].ids("train")[:3]
    job = walk_grid.sweep_job(**given)
    infer(ids, job, label="t", processes=1)
    whole = merged(given, ids)
    files = sorted(given["folder"].iterdir()) + sorted(given["affinities"].iterdir())
    assert len(files) == 6
    job.paths(ids[1])[0].unlink()
    before = {path: path.stat().st_mtime_ns for path in files if path.exists()}
    without = walk_grid.sweep_job(**given | {"network": None})  # affinities are there
    again = pickle.loads(pickle.dumps(without))  # as worker processes get it
    assert infer(ids, again, label="t", processes=1) == 1
    assert before == {path: path.stat().st_mtime_ns for path in before}
    np.testing.assert_array_equal(merged(given, ids), whole)


def test_a_mask_of_another_size_and_a_damaged_file_are_refused(given):
    job, id = walk_grid.sweep_job(**given), given["dataset"].ids("train")[0]
    classes, (_, width), scores = job.predict(id)
    with pytest.raises(InputError, match=rf"photo {id} is {width}x1 but its mask is"):
        job.postprocess(id, (classes, (1, width), scores))
    assert not job.done(id)
    (path,) = job.paths(id)
    path.parent.mkdir()
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"not readable .*; delete it and sweep again"):
        merged(given, [id])


EXPERIMENT = {
    "common": {"dataset": "shapes", "processes": 1, "workers": 0},
    "stages": {name: {} for name in ("dataset", "train_cam", "infer_cam", "affinity_labels")}
    | {"train_affinity": {}, "random_walk": {"tuning_photos": 4, "crf_steps": 1}},
}


@pytest.fixture
def sheet(tmp_path, monkeypatch, tiny_shapes, cams, network):
    """An experiment file whose stages before the walk are done."""
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the notebook's kernel: sums like ours
    common = EXPERIMENT["common"] | {"data_root": str(tiny_shapes)}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT | {"common": common}))
    for item in plan.plan(plan.read_experiment(path), project=PROJECT)[:-1]:
        item.folder.mkdir(parents=True)
        digest = item.stage.data_of(PROJECT.data_digest(item.values))
        record = {"stage": item.name, "fingerprint": item.fingerprint, "data_digest": digest}
        metrics = {"cam_miou/train": 40.0} if item.name == "infer_cam" else {}
        more = {"parameters": item.values, "inputs": {}, "metrics": metrics, "ended": 0.0}
        atomic.save_json(item.folder / "complete.json", record | more)
        if item.name == "infer_cam":
            (item.folder / "cams").symlink_to(cams)
        elif item.name == "train_affinity":
            given = {"kind": "affinity", "classes": Devkit(tiny_shapes).classes}
            models.save_network(item.folder / "weights.pt", network, **given, backbone="small")
    return path


@pytest.mark.slow
def test_the_driver_compares_walks_in_one_pass_with_the_notebooks_figures(sheet, capsys):
    grid = ["background_alpha=2,16", "beta=2,8", "steps=4,16,64", "crf_steps=0"]
    command = ["run", str(sheet), *(f"random_walk.{text}" for text in grid)]
    worse = [text.replace("steps=4,16,64", "steps=4,much") for text in command]
    assert cli.main(worse) == 2  # before anything is walked
    assert "random_walk.steps: expected int but got 'much'" in capsys.readouterr().err
    assert not (paths.outputs_root() / "affinities").exists()
    assert cli.main([*command, "--until", "random_walk", "--dry-run"]) == 0
    assert "# random_walk: 12 combinations in one pass" in capsys.readouterr().out
    assert cli.main([*command, "--until", "random_walk"]) == 0
    printed = capsys.readouterr().out
    assert (
        "12 settings of random_walk in one pass" in printed
        and "random_walk.crf_steps=0" not in printed
    )
    root = paths.outputs_root()
    assert not (root / "random_walk").exists()  # no notebook ran
    (folder,) = root.glob("sweeps/tiny-*")
    table = pd.read_csv(folder / "sweep.csv")
    names = [f"random_walk.{name}" for name in ("background_alpha", "beta", "steps")]
    lists = ["train", "train_tuning", "train_held_out"]
    figures = ["cam_miou/train", *(f"walk_miou/{name}" for name in lists)]
    assert list(table.columns) == [*names, "seed", *figures]
    expected = itertools.product([2, 16], [2, 8], [4, 16, 64])
    assert [tuple(row) for row in table[names].to_numpy()] == list(expected)
    best = table.loc[table["walk_miou/train_tuning"].idxmax()]
    where = ", ".join(f"{name} {best[name]:.0f}" for name in names)
    assert f"{best['walk_miou/train_tuning']:.2f} at {where}" in printed
    kept = json.loads((folder / "parameters.json").read_text())
    assert kept["crf_steps"] == 0 and kept["radius"] == 5 and "beta" not in kept
    (run,) = mlflow_store.client().search_runs(
        [mlflow_store.experiment_id("tiny")], "tags.`wsss.sweep` = 'true'"
    )
    logged = {file.path for file in mlflow_store.client().list_artifacts(run.info.run_id)}
    assert logged == {"sweep.md", "sweep.csv", "sweep.png", "parameters.json"}
    assert len(list(root.glob("walk_sweeps/*/*.npz"))) == 12  # the scored photos, no others

    # with dense CRF it is the notebook, and its walk scores the same
    experiment = yaml.safe_load(sheet.read_text())
    sheet.write_text(yaml.safe_dump(experiment | {"sweep": {"grid": {names[2]: [16]}}}))
    given = ["random_walk.background_alpha=2", "random_walk.beta=8"]
    assert cli.main(["run", str(sheet), *given]) == 0
    assert "random_walk.crf_steps=0 would compare the walks alone" in capsys.readouterr().out
    (walk,) = (path.parent for path in root.glob("random_walk/*/complete.json"))
    metrics = results.completion(walk)["metrics"]
    (row,) = table[(table[names] == [2, 8, 16]).all(axis=1)].to_dict("records")
    for name in figures[1:]:
        assert row[name] == pytest.approx(metrics[name], abs=1e-9)
    assert len(list(root.glob("sweeps/tiny-*"))) == 2
