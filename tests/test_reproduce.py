"""Results and their records: compared to the last bit, and of one chain on one dataset."""

import math

import pytest
import torch

from wsss import cli
from wsss.cli.project import PROJECT
from wsss.errors import InputError
from wsss.io import atomic
from wsss.lab import paths, results
from wsss.lab.record import delivery, find_runs, journal
from wsss.lab.record.journal import Journal
from wsss.lab.run import reproduce
from wsss.report import experiment


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return tmp_path / "outputs"


def completed(stage, fingerprint, inputs=None, *, data="d1", metrics=None, seed=0, **more):
    """A completed stage's folder with what reports read of it."""
    folder = paths.stage_folder(stage, fingerprint)
    record = {
        **{"stage": stage, "fingerprint": fingerprint, "inputs": inputs or {}},
        **{"parameters": {"seed": seed}, "data_digest": data, "metrics": metrics or {}},
        **{"manifest": {}, "ended": 0, "family": "one"},
    }
    record |= more
    atomic.save_json(folder / results.COMPLETE, record)
    return folder


def chain(**changes):
    """Folders of a report's stages, all on one chain but for changes to ``evaluate``'s inputs."""
    completed("train_cam", "c1")
    completed("train_cam", "c2")
    cams = completed("infer_cam", "i1", {"train_cam": "c1"})
    walk = completed("random_walk", "w1", {"infer_cam": "i1"})
    completed("random_walk", "w2", {"infer_cam": "i1"})
    completed("train_segmentation", "s1", {"random_walk": changes.pop("walk", "w1")})
    network = completed("evaluate", "e1", {"train_segmentation": "s1"}, **changes)
    return {"infer_cam": cams, "random_walk": walk, "evaluate": network}


def test_a_report_takes_one_chain_alone():
    experiment.check_lineage(chain())
    with pytest.raises(InputError, match="evaluate on random_walk w2; give runs of one chain"):
        experiment.check_lineage(chain(walk="w2"))
    inputs = chain()
    inputs["infer_cam"] = completed("infer_cam", "i2", {"train_cam": "c2"})
    with pytest.raises(InputError, match="infer_cam builds on infer_cam i2, and random_walk on"):
        experiment.check_lineage(inputs)


def test_a_report_takes_one_dataset_alone():
    with pytest.raises(InputError, match="made of data d1, and evaluate of d2"):
        experiment.check_lineage(chain(data="d2"))


def test_figures_of_several_seeds_are_a_mean_with_its_spread():
    inputs = chain(metrics={"segmentation_miou/val": 50.0})
    assert experiment._over_seeds(inputs["evaluate"], "segmentation_miou/val") == "50.0"
    for seed, value in ((1, 52.0), (2, 54.0)):
        metrics = {"segmentation_miou/val": value}
        completed("evaluate", f"e{seed}1", {"train_segmentation": "s1"}, metrics=metrics, seed=seed)
    metrics = {"segmentation_miou/val": 90.0}  # of other code, data or parameters
    completed("evaluate", "e8", metrics=metrics, seed=3, family="other")
    text = experiment._over_seeds(inputs["evaluate"], "segmentation_miou/val")
    assert text == "52.0 ± 2.0 (3 seeds)"


def test_origins_lead_from_figures_to_runs_and_what_made_them():
    inputs = chain()
    folders = experiment.chain_folders(inputs)
    names = [folder.parent.name for folder in folders]
    assert names == ["train_cam", "infer_cam", "random_walk", "train_segmentation", "evaluate"]
    for folder in folders:
        tags = {"mlflow.source.git.commit": "0123456789abcdef", "wsss.git.dirty": "true"}
        Journal(folder).begin("toys", folder.parent.name, tags=tags)
        Journal(folder).end("FINISHED")
    from wsss.lab.record import delivery

    table = experiment.origins(map(delivery.completed, folders))
    assert list(table["stage"]) == names
    assert list(table["run"]) == [delivery.run_of(folder) for folder in folders]
    assert set(table["commit"]) == {"0123456789ab and source/changes.diff"}


def test_results_are_compared_to_the_last_bit(tmp_path):
    first, second = paths.stage_folder("toy", "1"), paths.stage_folder("toy", "2")
    figures = {"loss": 0.1 + 0.2, "none": math.nan, "images_per_second": 5.0}
    for folder in (first, second):
        completed("toy", folder.name, metrics=figures)
        torch.save({"a": torch.zeros(2), "b": torch.ones(1)}, folder / "weights.pt")
    assert reproduce.compare(first, second) + PROJECT.compare_files(first, second) == []
    record = results.completion(second)
    record["metrics"] |= {"loss": 0.3, "images_per_second": 6.0}
    record["manifest"] = {"cams": {"files": 1, "digest": "x"}}
    atomic.save_json(second / results.COMPLETE, record)
    torch.save({"a": torch.zeros(2), "b": 1 + torch.full((1,), 1e-7)}, second / "weights.pt")
    lines = reproduce.compare(first, second) + PROJECT.compare_files(first, second)
    assert lines == [
        "loss: 0.3, and was 0.30000000000000004",
        "cams/: files differ",
        "weights.pt: 1 tensors differ, such as b",
    ]


def test_runs_are_found_by_id_and_what_is_none_is_reported(outputs):
    folder = completed("toy", "1")
    run = Journal(folder)
    parent = Journal(outputs / "runs" / "toys-1")
    parent.begin("toys", "toys", tags={})
    run.begin("toys", "toy", tags={}, parent=parent.folder)
    for record in (run, parent):
        record.end("FINISHED")
    parent.add("stage", name="toy", folder=str(folder))
    delivery.close_stale_runs()
    run_id = delivery.run_of(folder)
    assert find_runs.find(run_id) == find_runs.find(str(folder)) == folder
    assert find_runs.find(delivery.run_of(parent.folder)) == folder  # its only stage
    with pytest.raises(
        InputError, match=r"one completed stage .* but there is none; there are: toy "
    ):
        find_runs.find("0" * 32)
    with pytest.raises(InputError, match="there is no stage 'toy' in notebooks/"):
        reproduce.reproduce(str(folder), project=PROJECT)


def test_what_surrounded_a_run_is_compared(outputs):
    folder = completed("toy", "1")
    Journal(folder).begin("toys", "toy", tags={"mlflow.source.git.commit": "0" * 40})
    Journal(folder).begin("toys", "toy", tags={"wsss.python": "3.1"})  # it went on elsewhere
    with atomic.write(folder / "source" / "packages.txt") as partial:
        partial.write_text("torch==0.1\n")
    reasons = "\n".join(reproduce._surroundings(folder))
    assert f"and was {'0' * 40}" in reasons and "and was 3.1" in reasons
    assert "then torch==0.1" in reasons
    assert journal.beginning(folder)["experiment"] == "toys"


def test_reproduce_is_a_command(capsys):
    assert cli.main(["reproduce", "nothing"]) == 2
    assert "nothing: expected one completed stage" in capsys.readouterr().err
