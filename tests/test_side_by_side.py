"""Sweeps whose points run at the same time beside those that run one after the other, on a chain
of stages that take a blink.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pandas as pd
import pytest
import yaml

from tests import chain
from tests.faults import processes
from wsss import cli
from wsss.cli import project
from wsss.errors import InputError
from wsss.lab import paths
from wsss.lab.record import journal, mlflow_store
from wsss.lab.run import notebook

CORES = sorted(os.sched_getaffinity(0))[:2]
pytestmark = pytest.mark.skipif(len(CORES) < 2, reason="one core cannot be shared out")


@pytest.fixture
def place(tmp_path, tiny_shapes, monkeypatch):
    """A folder of its own with the chain's experiment, on two cores."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(notebook, "EXECUTE", chain.SCRIPT)
    (tmp_path / "toys.yaml").write_text(yaml.safe_dump(chain.experiment(tiny_shapes)))
    whole = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES)
    yield tmp_path
    os.sched_setaffinity(0, whole)


def run(place, outputs, monkeypatch, *words):
    """Run the chain by the command line; returns the exit code."""
    monkeypatch.setenv("WSSS_OUTPUTS", str(place / outputs))
    return cli.main(["run", str(place / "toys.yaml"), *words])


def table(place, outputs):
    (folder,) = place.glob(f"{outputs}/sweeps/toys-*")
    return (folder / "sweep.md").read_text(), pd.read_csv(folder / "sweep.csv")


@pytest.mark.slow  # 24 stages
def test_two_at_a_time_make_the_table_of_one_after_the_other(place, monkeypatch, capsys):
    sweep = ("random_walk.beta=2,8", "seeds=0,1")
    assert run(place, "one", monkeypatch, *sweep) == 0
    assert run(place, "two", monkeypatch, *sweep, "--jobs", "2") == 0
    (text, rows), (text_of_two, rows_of_two) = table(place, "one"), table(place, "two")
    assert text == text_of_two and "| 8 | 40.00 ± 0.00 | 42.67 ± 0.00 |" in text
    pd.testing.assert_frame_equal(rows, rows_of_two)
    for outputs in ("one", "two"):  # nothing twice
        begun = chain.begun(place / outputs)
        assert len(begun) == 2 * 4 + 4
        assert len(list((place / outputs / "sweeps").glob("*/sweep.png"))) == 1
    printed = capsys.readouterr().out
    assert printed.count("[5/5] random_walk: done in") == 2 * 4
    assert "(3/4) [5/5] random_walk: done in" in printed  # of several, each line tells whose it is


@pytest.mark.slow
def test_stages_that_all_need_get_all_cores_and_others_their_share(place, monkeypatch):
    sweep = ("random_walk.beta=2,4", "--jobs", "2")
    assert run(place, "out", monkeypatch, *sweep) == 0
    seen = chain.trace(place / "out")
    shared = [each for each in seen if each["stage"] != "random_walk"]
    assert all(each["cores"] == CORES and each["OMP_NUM_THREADS"] is None for each in shared)
    walks = [each for each in seen if each["stage"] == "random_walk"]
    assert [each["what"] for each in walks] == ["begin", "begin", "end", "end"]
    assert {tuple(each["cores"]) for each in walks} == {(CORES[0],), (CORES[1],)}
    assert {each["OMP_NUM_THREADS"] for each in walks} == {"1"}
    runs = mlflow_store.client().search_runs([mlflow_store.experiment_id("toys")])
    cores = {
        run.data.tags["wsss.stage"]: run.data.tags["wsss.device"].rpartition(", ")[2]
        for run in runs
        if "wsss.stage" in run.data.tags
    }
    assert cores["random_walk"] == "1 cores" and cores["train_cam"] == "2 cores"
    parents = [r for r in runs if r.info.run_name.endswith("toys")]
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert len(parents) == 2 and len(children) == 6
    assert {r.info.status for r in runs} == {"FINISHED"}


@pytest.mark.slow
def test_a_point_that_fails_leaves_the_others_complete(place, monkeypatch, capsys):
    words = ("random_walk.beta=13,2,4", "--jobs", "2")
    assert run(place, "out", monkeypatch, *words) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "1 of 3 points failed, the others are done: random_walk.beta 13: " in line
    assert "random_walk failed: Stopped: bad luck; see " in line
    assert "the same command goes on from here" in line
    begun = chain.begun(place / "out")
    assert len(begun) == 4 + 3
    assert len(list(place.glob("out/random_walk/*/complete.json"))) == 2
    assert not list(place.glob("out/sweeps/*"))
    monkeypatch.setattr(notebook, "EXECUTE", chain.SCRIPT.replace("== 13", "== -1"))
    assert run(place, "out", monkeypatch, *words) == 0
    assert chain.begun(place / "out")[len(begun) :] == [("random_walk", 13.0)]
    assert len(table(place, "out")[1]) == 3


def test_a_stage_that_is_killed_once_it_is_complete_is_finished(place, monkeypatch, capsys):
    assert run(place, "out", monkeypatch, "random_walk.beta=99") == 0
    assert statuses(place) == {"runs": ["FINISHED"], "random_walk": ["FINISHED"]}
    assert "[5/5] random_walk: done in" in capsys.readouterr().out
    assert run(place, "out", monkeypatch, "random_walk.beta=99") == 0
    assert "all 5 stages are done" in capsys.readouterr().out


def test_room_is_asked_for_all_points_before_anything_starts(place, monkeypatch, capsys):
    asked = []

    def check(items, folder):
        asked.extend(item.name for item in items)
        raise InputError("no room")

    monkeypatch.setattr(project, "PROJECT", replace(project.PROJECT, check_room=check))
    assert run(place, "out", monkeypatch, "random_walk.beta=2,4", "--jobs", "2") == 2
    assert asked.count("random_walk") == 2 and asked.count("train_cam") == 1
    assert not chain.begun(place / "out") and "no room" in capsys.readouterr().err


def test_jobs_without_a_sweep_are_refused(place, monkeypatch, capsys):
    assert run(place, "out", monkeypatch, "random_walk.beta=2", "--jobs", "2") == 2
    assert "--jobs 2: expected several combinations but got one" in capsys.readouterr().err


DRIVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
from tests import chain
from wsss import cli
from wsss.lab.run import notebook
notebook.EXECUTE = chain.SCRIPT
sys.exit(cli.main(sys.argv[1:]))
"""


def driven(place, mark, *words):
    """A driver in a process of its own, with two walks under way that take minutes."""
    environment = os.environ | {processes.MARK: mark, "WSSS_OUTPUTS": str(place / "out")}
    command = [sys.executable, "-c", DRIVER, "run", str(place / "toys.yaml"), *words]
    with (place / "log").open("w") as log:
        driver = subprocess.Popen(
            command, cwd=paths.project_root(), env=environment, stdout=log, stderr=log
        )
    until = time.monotonic() + 60
    walks = [("random_walk", 101.0), ("random_walk", 102.0)]  # of which either may be first
    while sorted(chain.begun(place / "out")[4:]) != walks:
        assert driver.poll() is None and time.monotonic() < until, (place / "log").read_text()
        time.sleep(0.1)
    return driver


def none_left(mark):
    until = time.monotonic() + 10
    while processes.marked(mark) and time.monotonic() < until:
        time.sleep(0.1)
    return not processes.marked(mark)


def statuses(place):
    """How the experiment's and the stages' runs ended, None for those that did not say."""
    found = {"runs": [], "random_walk": []}
    for kind, ends in found.items():
        for folder in sorted((place / "out" / kind).glob("*/")):
            last = [e for e, _ in journal.entries(folder) if e["kind"] in journal.STATES][-1]
            ends.append(last.get("status"))
    return found


@pytest.mark.slow  # drivers in processes of their own
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_what_a_stopped_sweep_started_ends_with_it_and_it_goes_on(place, monkeypatch, sent):
    words = ("random_walk.beta=101,102", "--jobs", "2")
    mark = str(place / sent.name)
    driver = driven(place, mark, *words)
    try:
        assert len(processes.marked(mark)) == 3  # it, and two walks
        driver.send_signal(sent)
        code = driver.wait(30)
        assert none_left(mark)
    finally:
        driver.kill()
        driver.wait()
    if sent == signal.SIGINT:
        assert (
            code == 130
            and "stopped; run the same command again to resume" in (place / "log").read_text()
        )
        assert statuses(place) == {"runs": ["KILLED"] * 2, "random_walk": ["KILLED"] * 2}
    monkeypatch.setattr(notebook, "EXECUTE", chain.SCRIPT.replace("600 if", "0 if"))
    assert run(place, "out", monkeypatch, *words) == 0
    assert len(chain.begun(place / "out")) == 4 + 2 + 2
    assert len(table(place, "out")[1]) == 2
    assert "FINISHED" in statuses(place)["random_walk"]
    if sent == signal.SIGKILL:  # those that nobody was left to end
        assert statuses(place)["runs"].count("FAILED") == 2
