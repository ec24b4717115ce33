"""The experiment files: each plans as it is and at its smoke size, and one runs at that size."""

import pytest

from wsss import cli, pipeline, stages
from wsss.datasets import shapes

FILES = sorted((stages.project_root() / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("smoke", [False, True])
def test_every_parameter_of_every_experiment_exists_and_fits(path, smoke, tmp_path, monkeypatch):
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path / "outputs"))
    experiment = pipeline.read_experiment(path)
    for common in (experiment["common"], experiment["smoke"].get("common") or {}):
        if common.get("dataset"):  # any data will do for a plan
            common |= {"dataset": "shapes_few", "data_root": str(tmp_path / "data")}
    planned = pipeline.plan(experiment, smoke=smoke)
    assert [item.name for item in planned] == list(stages.read_stages())
    assert len({item.fingerprint for item in planned}) == len(planned)


def test_the_released_resnet38_runs_at_its_smoke_size(tmp_path, monkeypatch, capsys):
    """All stages with the paper's 105 million parameters, random, on a few small photos."""
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    shapes.generate(tmp_path / "data", train=8, val=4)
    path = stages.project_root() / "experiments" / "voc12_resnet38_released.yaml"
    overrides = [
        f"{stage}.data_root={tmp_path / 'data'}"
        for stage in pipeline.read_experiment(path)["stages"]
    ]
    assert cli.main(["run", str(path), "--smoke", *overrides]) == 0
    said = capsys.readouterr().out
    assert "resnet38" in said and "CAM + walk" in said
