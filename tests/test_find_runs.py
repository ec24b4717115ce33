"""How a completed run is named, and the table of those that there are."""

import re
import time

import pytest

from wsss import cli
from wsss.apply import find_networks
from wsss.errors import InputError
from wsss.io import atomic
from wsss.lab import paths, results
from wsss.lab.record import find_runs
from wsss.lab.record.journal import Journal

HOUR = 3600


def completed(stage, fingerprint, *, hours, experiment="", run_id="", data="d1", metrics=None):
    """A completed stage's folder, as ``experiment`` made it so many hours ago."""
    folder = paths.stage_folder(stage, fingerprint)
    record = {"stage": stage, "fingerprint": fingerprint, "inputs": {}, "parameters": {}}
    record |= {"data_digest": data, "metrics": metrics or {}, "ended": time.time() - hours * HOUR}
    atomic.save_json(folder / results.COMPLETE, record)
    if experiment:
        Journal(folder).begin(experiment, stage, tags={})
        atomic.save_json(folder / results.DELIVERED, {"run_id": run_id, "offset": 0})
    return folder


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three walks and a training, and an experiment that reused the second walk."""
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    scores = {"walk_miou/train": 61.0, "labels_miou/train": 74.484}
    made = {
        "old": completed("random_walk", "12345678aaaa", hours=50, experiment="shapes"),
        "reused": completed(
            *("random_walk", "1234e678bbbb"),
            **{"hours": 3, "experiment": "shapes", "run_id": "f00d" * 8, "metrics": scores},
        ),
        "hand": completed(
            "random_walk", "cccc00000000", hours=2, experiment="notebooks", data="d2"
        ),
        "cam": completed("train_cam", "dddd00000000", hours=1, experiment="shapes"),
    }
    parent = Journal(tmp_path / "outputs" / "runs" / "mine-0")
    parent.begin("mine", "mine", tags={})
    parent.add("stage", name="random_walk", folder=f"/moved/since/{made['reused'].name}")
    atomic.save_json(parent.folder / results.DELIVERED, {"run_id": "beef" * 8, "offset": 0})
    return made


@pytest.mark.parametrize(
    ("given", "name"),
    {
        "outputs/random_walk/12345678aaaa": "old",
        "12345678aaaa": "old",
        "12345": "old",
        "1234e": "reused",
        "f00df": "reused",
        "f00d" * 8: "reused",
        "beef" * 8: "reused",
        "beefb": "reused",
        "mine": "reused",
        "shapes": "reused",
        "notebooks": "hand",
        "latest": "hand",
    }.items(),
)
def test_a_run_is_named_in_each_way(runs, given, name):
    assert find_runs.find(given, "random_walk") == runs[name]
    assert find_runs.find(runs[name], "random_walk") == runs[name]


def test_without_a_stage_any_is_taken_and_the_latest_is_of_the_data_that_is_asked_for(runs):
    assert find_runs.find("latest") == find_runs.find("dddd") == runs["cam"]
    assert find_runs.find("shapes") == runs["cam"]  # its newest
    assert find_runs.find("latest", "random_walk", data_digest="d1") == runs["reused"]
    assert find_runs.find("cccc", "random_walk", data_digest="d1") == runs["hand"]


@pytest.mark.parametrize(
    ("given", "reason"),
    {
        "1234": "^1234: expected one completed random_walk but 2 begin so; give more .*: "
        r"random_walk outputs/random_walk/1234e678bbbb \(shapes, mine, 3 h ago\); "
        r"random_walk outputs/random_walk/12345678aaaa \(shapes, 2 d ago\)$",
        "123": r"^123: expected one completed random_walk \(its folder, .* but there is none; "
        r"there are: random_walk outputs/random_walk/cccc00000000 \(notebooks, 2 h ago\); .*; "
        r"random_walk outputs/random_walk/12345678aaaa \(shapes, 2 d ago\)$",
        "outputs/train_cam/dddd00000000": "but this is one of train_cam; there are: random_walk",
        "dddd": "but there is none; there are: random_walk",
        "": "there is none; there are: random_walk",
    }.items(),
)
def test_candidates_are_listed_where_none_or_several_are_meant(runs, given, reason):
    with pytest.raises(InputError, match=reason):
        find_runs.find(given, "random_walk")


def test_at_most_six_candidates_are_listed_and_an_empty_folder_says_so(runs):
    for number in range(9):
        completed("infer_cam", f"eeee0000000{number}", hours=number)
    with pytest.raises(InputError, match=r"; and 3 more$") as fault:
        find_runs.find("eeee", "infer_cam")
    assert re.findall("eeee0000000([0-9])", str(fault.value)) == list("012345")
    with pytest.raises(InputError, match=r"there are none in .*outputs: `wsss run` first"):
        find_runs.find("latest", "evaluate")
    with pytest.raises(InputError, match="one completed random_walk on this data"):
        find_runs.find("latest", "random_walk", data_digest="d3")


def test_networks_are_found_by_the_same_names(runs):
    weights = runs["cam"] / "weights.pt"
    weights.write_bytes(b"")
    for given in ("dddd", "latest", "shapes"):
        assert find_networks.network_file(given, "cam") == weights
    with pytest.raises(InputError, match=r"no longer in .*give\s+the networks by --cam"):
        find_networks.method_of("1234e")


def test_runs_are_listed_the_newest_first(runs, capsys):
    assert cli.main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[:5]] == [
        "folder",
        *(f"outputs/{runs[name].parent.name}/{runs[name].name}" for name in ("cam", "hand")),
        *(f"outputs/random_walk/{runs[name].name}" for name in ("reused", "old")),
    ]
    assert re.fullmatch(r"random_walk +shapes, mine +labels mIoU/train 74\.5 +3 h +\S+", lines[3])
    assert re.fullmatch(r"random_walk +shapes +- +2 d +\S+", lines[4])
    assert len({line.index("outputs") for line in lines[1:5]}) == 1  # columns are aligned
    assert lines[-2].endswith(" wsss label DIR --run latest --out labelled")
    assert cli.main(["runs", "train_cam"]) == 0
    assert "random_walk" not in capsys.readouterr().out
    assert cli.main(["runs", "evaluate"]) == 0
    assert capsys.readouterr().out.startswith("no completed runs in ")
