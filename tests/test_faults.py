"""The suite of faults itself: its plan, its eyes for processes and differences, and a short go."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from tests.faults import __main__, cuts, kills, life, processes, results, together
from tests.faults.place import Chain, experiment
from tests.faults.plan import CHAIN, PLACES, ROLES, STAGES, WITHOUT_WORKERS, Strike, deal, postponed
from wsss.lab import stages


@pytest.mark.parametrize("kills", [10, 100])
def test_kills_are_spread_over_stages_and_roles(kills):
    chains = deal(kills, 3)
    assert chains == deal(kills, 3) != deal(kills, 4)
    strikes = [strike for chain in chains for strike in chain]
    assert len(strikes) == kills and all(len(chain) <= CHAIN for chain in chains)
    hit = Counter(strike.place for strike in strikes)
    counts = [hit[stage] for stage in STAGES]
    assert max(counts) - min(counts) <= 1
    assert hit["start"] + hit["end"] <= kills / 5
    roles = Counter(strike.role for strike in strikes)
    assert min(roles[role] for role in ROLES) >= kills // 10
    assert not any(s.role == "worker" and s.place in WITHOUT_WORKERS for s in strikes)
    for chain in chains:
        order = [PLACES.index(strike.place) for strike in chain]
        assert order == sorted(order)


def test_a_kill_whose_stage_is_over_hits_the_next_one():
    walk = Strike("random_walk", "worker", moment=0.5)
    assert postponed(walk, STAGES[:5]) == walk
    assert postponed(walk, STAGES[:6]) == Strike("train_segmentation", "worker", moment=0.5)
    assert postponed(walk, STAGES[:8]) == Strike("report", "kernel", moment=0.5)
    assert postponed(walk, STAGES) == Strike("end", "driver", moment=0.5)
    assert postponed(Strike("start", "driver"), STAGES) == Strike("start", "driver")


def test_a_kill_that_comes_too_late_is_tried_sooner(tmp_path, monkeypatch):
    tried = []

    def live(chain, strike, pace):
        tried.append(strike and strike.moment)
        hit = strike and strike.moment < 0.3
        return life.Life(struck=[(strike.place, "driver", 1.0)] if hit else [])

    monkeypatch.setattr(kills, "live", live)
    for name in ("photos", "false_claims", "rewritten", "compare", "still_running"):
        monkeypatch.setattr(results, name, lambda *_: [])
    place = SimpleNamespace(chain=lambda name: Chain(tmp_path / name, tmp_path / "x.yaml"))
    campaign = kills.Campaign(place, {}, None, until=time.monotonic() + 60, say=lambda _: None)
    campaign._chain(1, [Strike("end", "driver", moment=0.8)])
    assert tried == [0.8, 0.4, 0.2, None]
    assert len(campaign.kills) == campaign.chains == 1 and not campaign.differences


def test_the_experiment_has_all_stages_and_only_parameters_that_there_are(tmp_path):
    chain = stages.read_stages()
    assert tuple(chain) == STAGES
    for name, values in experiment(tmp_path)["stages"].items():
        chain[name].resolve(values)


def test_processes_are_known_by_their_command_lines():
    python = "/usr/bin/python"
    cases = {
        (python, "-m", "wsss", "run", "x.yaml"): ("driver", ""),
        (python, "-c", "import papermill", "/a/20_infer_cam.ipynb", "y.ipynb", "p"): ("papermill",),
        (python, "-m", "ipykernel_launcher", "-f", "k.json"): ("kernel",),
        (python, "-c", "from multiprocessing.spawn import spawn_main; spawn_main()"): ("worker",),
        (python, "-c", "from multiprocessing.resource_tracker import main"): ("other",),
        ("git", "status"): ("other",),
    }
    for command, (role, *_) in cases.items():
        assert processes.role_of(command) == role
    assert processes.stage_of(next(c for c in cases if "import papermill" in c)) == "infer_cam"


def test_what_outlives_its_driver_is_found_and_ended(monkeypatch):
    """A child of a process that is gone, which no parent leads to any more."""
    monkeypatch.setattr(life, "ORPHANS", 0.5)
    code = "import subprocess as s, sys; s.Popen(['sleep', '60'], start_new_session=True)"
    subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {processes.MARK: "here"}, check=True
    )
    (fault,) = life.orphans("here")
    assert "sleep 60" in fault and life.orphans("there") == []
    time.sleep(0.2)
    assert processes.marked("here") == []


def test_training_that_is_done_again_is_counted_from_where_the_next_life_goes_on():
    """Second of two members, killed at step 9 of 12 and gone on with from step 5, seen at 23 s."""
    earlier = [
        {"train_cam": [(10, 0, 3, 12)]},
        {"train_cam": [(20, 1, 1, 12), (23, 1, 5, 12), (25, 1, 9, 12), (31, 1, 9, 12)]},
    ]
    assert life.repeated(earlier, {"train_cam": [(40, 1, 5, 12)]}) == {"train_cam": (4, 2)}
    assert life.repeated(earlier, {"train_cam": [(40, 1, 9, 12)]}) == {}
    assert life.repeated(earlier, {"train_affinity": [(40, 0, 1, 12)]}) == {}


@pytest.fixture
def complete(tmp_path):
    """A chain with one completed stage, as the suite sees it."""
    chain = Chain(tmp_path / "chain", tmp_path / "x.yaml")
    folder = chain.outputs / "infer_cam" / "f1"
    (folder / "cams").mkdir(parents=True)
    (folder / "cams" / "a.npz").write_bytes(b"maps of a")
    torch.save({"network": {"w": torch.arange(3.0)}}, folder / "weights.pt")
    record = {"stage": "infer_cam", "fingerprint": "f1", "manifest": {"cams": {"digest": "d"}}}
    record["metrics"] = {"miou": 0.1, "images_per_second": 3.0, "train/images_per_second": 1.0}
    (folder / "complete.json").write_text(json.dumps(record))
    return chain, folder


def test_a_difference_is_found_wherever_it_is(complete):
    chain, folder = complete
    before = results.completed(chain.outputs)["infer_cam"][0]
    assert before["metrics"] == {"miou": 0.1}  # times differ from run to run

    def found():
        after = results.completed(chain.outputs)["infer_cam"][0]
        return [line.partition(":")[0] for line in results.differences("s", before, after)]

    torch.save({"network": {"w": torch.arange(3.0)}}, folder / "other.pt")
    os.replace(folder / "other.pt", folder / "weights.pt")
    assert found() == []  # the file names itself inside, but its tensors are the same
    torch.save({"network": {"w": torch.tensor([0, 1, 2.0000002])}}, folder / "weights.pt")
    assert found() == ["s.weights"]
    (folder / "cams" / "a.npz").write_bytes(b"maps of b")
    assert found() == ["s.files", "s.weights"]
    record = json.loads((folder / "complete.json").read_text())
    record["metrics"]["miou"] = 0.1 + 1e-16
    (folder / "complete.json").write_text(json.dumps(record))
    assert found() == ["s.files", "s.metrics", "s.weights"]


def test_a_run_that_claims_what_is_not_there_is_found(complete, monkeypatch):
    chain, folder = complete
    run = {"stage": "infer_cam", "status": "FINISHED", "fingerprint": "f1", "id": "1"}
    expected = {"recorded": {"infer_cam": {"miou": [(0, 0.1)]}}}
    runs = [run | {"metrics": {"miou": 0.1}}]
    monkeypatch.setattr(results, "recorded", lambda uri: runs)
    assert results.false_claims(expected, chain) == []
    runs[0]["metrics"] = {"miou": 0.2}
    (other,) = results.false_claims(expected, chain)
    assert "expected 0.1, found 0.2" in other
    (folder / "complete.json").unlink()
    assert "without complete.json" in results.false_claims(expected, chain)[0]
    runs[0]["status"] = "RUNNING"
    assert results.false_claims(expected, chain) == []
    assert results.still_running(chain) == ["infer_cam: still RUNNING in MLflow"]


def test_a_photo_that_is_written_again_is_found_even_with_the_same_contents(complete):
    chain, folder = complete
    path = folder / "cams" / "a.npz"
    before = results.photos(chain.outputs)
    assert results.rewritten(before, results.photos(chain.outputs)) == []
    copy = folder / "copy"
    copy.write_bytes(path.read_bytes())
    os.replace(copy, path)
    assert results.rewritten(before, results.photos(chain.outputs)) == [path]


@pytest.mark.parametrize("how, left", [("half", b"12"), ("empty", b""), ("zeros", bytes(4))])
def test_a_file_is_damaged_as_told(tmp_path, how, left):
    path = tmp_path / "file"
    path.write_bytes(b"1234")
    cuts.damage(path, how)
    assert path.read_bytes() == left


def test_the_clock_of_a_process_can_be_set_back_while_it_works(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(together.CLOCK)
    shift = tmp_path / "shift"
    shift.write_text("0")
    code = (
        "import sys, time\nfor line in sys.stdin: time.sleep(0.2); print(time.time(), flush=True)"
    )
    environment = {"PYTHONPATH": str(tmp_path), together.CLOCK_VARIABLE: str(shift)}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True},
        env=os.environ | environment,
    ) as process:
        for seconds in (0, -together.DAY):
            shift.write_text(str(seconds))
            process.stdin.write("go\n")
            process.stdin.flush()
            assert abs(float(process.stdout.readline()) - time.time() - seconds) < 600
        process.stdin.close()


@pytest.mark.slow
def test_six_kills_are_survived(tmp_path, capsys):
    arguments = ["--kills", "6", "--others", "", "--scratch", str(tmp_path / "scratch")]
    code = __main__.main(arguments)
    assert code == 0, capsys.readouterr().out
