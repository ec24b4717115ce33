"""The experiment files: each plans as it is and at its smoke size, and one runs at that size."""

import shutil

import pytest

from wsss import cli
from wsss.cli.project import PROJECT
from wsss.datasets import shapes
from wsss.lab import paths, plan, results, stages
from wsss.lab.run import grid

FILES = sorted((paths.project_root() / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("smoke", [False, True])
def test_every_parameter_of_every_experiment_exists_and_fits(path, smoke, tmp_path, monkeypatch):
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path / "outputs"))
    experiment = plan.read_experiment(path)
    for common in (experiment["common"], experiment["smoke"].get("common") or {}):
        if common.get("dataset"):  # any data will do for a plan
            common |= {"dataset": "shapes_few", "data_root": str(tmp_path / "data")}
    for values in experiment["stages"].values():
        for name in values:
            if name.endswith("_folder"):  # of files that people have
                values[name] = str(tmp_path)
    planned = plan.plan(experiment, smoke=smoke, project=PROJECT)
    chain = list(stages.read_stages())
    names = [item.name for item in planned]
    assert names == [name for name in chain if name in names]
    if path.stem != "retrain":  # on labels that are there; and sweeps may stop at the labels
        assert names == chain or (experiment["sweep"] and names == chain[: len(names)])
    points = grid.combinations(experiment)
    last = {
        grid.plan_point(experiment, point, overrides={}, smoke=smoke, project=PROJECT)[
            -1
        ].fingerprint
        for point in points
    }
    assert len(last) == len(points)  # no two points are the same experiment


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for outputs, data and the record, emptied at once: checkpoints are large."""
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.long
def test_the_released_resnet38_runs_at_its_smoke_size(place, capsys):
    """All stages with the 105 million parameters, random, on a few small photos."""
    shapes.generate(place / "data", train=8, val=4)
    path = paths.project_root() / "experiments" / "voc12_resnet38_released.yaml"
    names = plan.read_experiment(path)["stages"]
    overrides = [f"{stage}.data_root={place / 'data'}" for stage in names]
    assert cli.main(["run", str(path), "--smoke", *overrides]) == 0
    printed = capsys.readouterr().out
    assert "| CAM + walk |" in printed and "| resnet38 |" in printed
    assert "CAM + walk + dCRF" not in printed  # the released code stops before it
    trained = next(place.glob("outputs/train_affinity/*/complete.json"))
    metrics = results.completion(trained.parent)["metrics"]
    assert min(metrics[name] for name in ("foreground", "background", "negative")) > 0
