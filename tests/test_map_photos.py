"""The map over photos: what exists is skipped, faults are listed at the end, files appear whole."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from wsss.errors import InputError
from wsss.io import atomic
from wsss.photos.map_photos import infer
from wsss.runtime.devices import usage


@dataclass
class Doubling:
    """Writes twice the photo's number; refuses those that are named bad."""

    folder: Path

    def done(self, id):
        return (self.folder / id).exists()

    def predict(self, id):
        if id.startswith("bad"):
            raise InputError(f"{id}: cannot be read; replace it")
        return int(id)

    def postprocess(self, id, payload):
        with atomic.write(self.folder / id) as partial:
            partial.write_text(str(2 * payload))


def test_all_photos_are_computed_once(tmp_path):
    ids = [str(n) for n in range(11)]
    assert infer(ids[:4], Doubling(tmp_path), label="t", processes=1) == 4
    (tmp_path / "0").write_text("kept")
    assert infer(ids, Doubling(tmp_path), label="t", processes=2) == 7
    assert (tmp_path / "0").read_text() == "kept"
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"0": "kept"} | {
        n: str(2 * int(n)) for n in ids[1:]
    }
    assert infer(ids, Doubling(tmp_path), label="t") == 0


def test_a_bad_photo_does_not_stop_the_others(tmp_path):
    with pytest.raises(
        InputError, match=r"bad\d: cannot be read; replace it \(and 1 more photos failed\)"
    ):
        infer(["1", "bad1", "2", "bad2", "3"], Doubling(tmp_path), label="t", processes=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2", "3"]


def test_seconds_on_photos_count_as_work(tmp_path, monkeypatch):
    def slowly(self, id, payload):
        time.sleep(0.05)

    monkeypatch.setattr(Doubling, "postprocess", slowly)
    before = usage()
    infer(["1", "2"], Doubling(tmp_path), label="t", processes=1)
    time.sleep(0.05)
    took = {name: value - before[name] for name, value in usage().items()}
    assert 0.1 <= took["work_seconds"] <= took["seconds"] - 0.05


def test_interrupted_writes_leave_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic.write(tmp_path / "x.npz") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


PARENT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_map_photos import Doubling
from wsss.photos.map_photos import infer

if __name__ == "__main__":
    infer([str(n) for n in range(100_000)], Doubling(Path({folder!r})), label="t", processes=2)
"""


class Fatal(Doubling):
    """Kills the only worker that there is while a second one is given its work."""

    def __getstate__(self):
        workers = multiprocessing.active_children()
        if len(workers) == 1:
            workers[0].kill()
            time.sleep(1)  # in which the pool takes notice
        return vars(self)


def infer_fatally(folder):
    try:
        infer([str(n) for n in range(8)], Fatal(Path(folder)), label="t", processes=2)
    except RuntimeError as error:
        print(error)


def test_a_worker_killed_while_another_starts_does_not_stop_the_end(tmp_path):
    code = f"import test_map_photos; test_map_photos.infer_fatally({str(tmp_path)!r})"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        **{"capture_output": True, "text": True, "timeout": 120},
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.stdout.startswith("a process that computes 't' was killed")


def test_workers_end_with_a_killed_parent(tmp_path):
    """Work stops: no worker goes on writing after the process that asked for it is gone."""
    folder = tmp_path / "out"
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(tests=str(Path(__file__).parent), folder=str(folder)))
    parent = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder.exists() and any(folder.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    time.sleep(1)
    counts = []
    for _ in range(2):
        counts.append(sum(1 for _ in folder.iterdir()))
        time.sleep(1)
    assert 0 < counts[0] == counts[1] < 100_000


@dataclass
class Deadly(Doubling):
    """Its process is killed once, as the system does it that runs out of memory."""

    flag: Path

    def predict(self, id):
        if id == "3" and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict(id)


def test_a_killed_worker_is_reported_in_one_line_and_the_rest_is_computed_next(tmp_path):
    ids, folder = [str(n) for n in range(8)], tmp_path / "out"
    job = Deadly(folder, tmp_path / "killed")
    with pytest.raises(RuntimeError, match=r"'t' was killed.*memory.*processes=1") as fault:
        infer(ids, job, label="t", processes=2)
    assert "\n" not in str(fault.value)
    there = sum(map(job.done, ids))  # beside what the other worker was killed at, if anything
    assert infer(ids, job, label="t", processes=2) == 8 - there
    assert {n: (folder / n).read_text() for n in ids} == {n: str(2 * int(n)) for n in ids}


@dataclass
class Repeatable(Doubling):
    """Writes whether torch is set to compute the same bits every time."""

    def predict(self, id):
        return 100 * torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("processes", [1, 2])
def test_photos_are_computed_repeatably_and_the_choice_does_not_leak(tmp_path, processes):
    expected = "0" if torch.cuda.is_available() else "200"
    infer(["a", "b"], Repeatable(tmp_path), label="t", processes=processes)
    assert [path.read_text() for path in tmp_path.iterdir()] == [expected] * 2
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


@dataclass
class Asking:
    """Writes whether the network that a worker has is trainable."""

    folder: Path
    network: torch.nn.Module

    def done(self, id):
        return (self.folder / id).exists()

    def predict(self, id):
        return any(parameter.requires_grad for parameter in self.network.parameters())

    def postprocess(self, id, payload):
        (self.folder / id).write_text(str(payload))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_jobs_networks_are_made_ready_and_the_given_ones_left_alone(tmp_path, processes):
    network = torch.nn.Conv2d(1, 1, 1)
    infer(["a", "b"], Asking(tmp_path, network), label="t", processes=processes)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"False"}
    assert network.weight.requires_grad and network.training
