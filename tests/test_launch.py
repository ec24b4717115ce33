"""Several processes on one machine: arguments, results, callbacks, errors; none is left."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pytest
import torch
import torch.distributed as dist

from tests.faults import processes
from wsss.errors import InputError
from wsss.train.parallel.launch import launch

ROOT = Path(__file__).parents[1]


def workers(mark):
    return [found for found in processes.marked(str(mark)) if found.role == "worker"]


@pytest.fixture(autouse=True)
def none_is_left(tmp_path, monkeypatch):
    """No process, and no file."""
    monkeypatch.setenv(processes.MARK, str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert workers(tmp_path) == []
    assert list(tmp_path.glob("wsss-launch-*")) == []


def described(word, *, report):
    """What this process is, returned; its rank and a number are reported."""
    sum_of_ranks = torch.tensor(float(dist.get_rank()))
    dist.all_reduce(sum_of_ranks)
    for number in range(3):
        report(dist.get_rank(), number)
    facts = {"rank": dist.get_rank(), "sum": sum_of_ranks.item(), "backend": dist.get_backend()}
    return facts | {"word": word, "threads": torch.get_num_threads(), "pid": os.getpid()}


def test_calls_and_result_of_process_0_reach_the_caller():
    calls = []
    found = launch(
        described, torch.arange(3), processes=2, report=lambda *given: calls.append(given)
    )
    assert calls == [(0, 0), (0, 1), (0, 2)]
    assert torch.equal(found.pop("word"), torch.arange(3))
    assert found.pop("pid") != os.getpid()
    threads = max(1, os.cpu_count() // 2)
    assert found == {"rank": 0, "sum": 1.0, "backend": "gloo", "threads": threads}
    assert not dist.is_initialized() and "GLOO_SOCKET_IFNAME" not in os.environ


def test_one_process_is_a_plain_call():
    here = []
    assert launch(lambda x, *, report: report(x) or os.getpid(), here, processes=1, report=id)
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("count", "gpus", "message"),
    [
        (0, 0, "train_processes 0: expected 1 or more"),
        (3, 2, "train_processes 3: expected 1 to 2, one per GPU"),
    ],
)
def test_impossible_numbers_of_processes_are_refused(monkeypatch, count, gpus, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(InputError, match=message):
        launch(described, "word", processes=count, report=print)


def test_what_cannot_be_pickled_is_refused_before_anything_starts():
    with pytest.raises(TypeError, match=r"can import \(.*lambda.*\); define them") as fault:
        launch(lambda: 0, processes=2)
    assert "\n" not in str(fault.value)


class Odd(ValueError):
    """An error that cannot be unpickled."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def fails(error, rank):
    """One process raises while the others wait for it."""
    if dist.get_rank() == rank:
        raise Odd(1, 2) if error is None else error
    dist.barrier()


@pytest.mark.parametrize(
    ("error", "rank", "message"),
    [(InputError("no such photo"), 1, "no such photo"), (None, 0, "Odd: 1 and 2")],
)
def test_an_error_in_one_process_ends_all_and_is_raised(error, rank, message):
    with pytest.raises(type(error) if error else RuntimeError) as fault:
        launch(fails, error, rank, processes=2)
    assert str(fault.value) == message
    if error:
        (note,) = fault.value.__notes__
        assert f"in process {rank}:" in note and "in fails" in note


class Deadly:
    """Kills the first process that unpickles it."""

    def __init__(self, folder):
        self.flag = folder / "killed"

    def __setstate__(self, state):
        self.__dict__.update(state)
        try:
            self.flag.touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def killed_at_work(_):
    if dist.get_rank() == 0:
        dist.barrier()
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()
    dist.barrier()


@pytest.mark.parametrize("starting", [False, True])
def test_a_killed_process_is_reported_and_the_others_end(tmp_path, starting):
    """While it starts, and while its peers wait for it."""
    given = Deadly(tmp_path) if starting else None
    message = r"process \d was killed \(signal 9\).*memory.*same command again to resume"
    with pytest.raises(RuntimeError, match=message) as fault:
        launch(killed_at_work, given, processes=2)
    assert "\n" not in str(fault.value)


def leaves(code):
    if dist.get_rank() == 1:
        os._exit(code)
    dist.barrier()


def test_a_process_that_exits_is_reported():
    with pytest.raises(RuntimeError, match=r"process 1 exited with code 3; .*__main__"):
        launch(leaves, 3, processes=2)


def goes_on(*, report):
    report()
    dist.barrier()
    time.sleep(600)


def test_an_interruption_of_the_caller_ends_all():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(goes_on, processes=2, report=interrupted)


def test_processes_exit_when_their_caller_is_killed(tmp_path):
    code = (
        "import test_launch\nfrom wsss.train.parallel.launch import launch\n"
        f"flag = test_launch.Path({str(tmp_path)!r}) / 'started'\n"
        "launch(test_launch.goes_on, processes=2, report=flag.touch)"
    )
    path = os.pathsep.join(
        [str(Path(__file__).parent), str(ROOT), os.environ.get("PYTHONPATH", "")]
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(tmp_path)}
    )
    try:
        until = time.monotonic() + 120
        while not (tmp_path / "started").exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert len(workers(tmp_path)) == 2
    finally:
        caller.kill()
        caller.wait()
    until = time.monotonic() + 30
    while workers(tmp_path) and time.monotonic() < until:
        time.sleep(0.1)
    (folder,) = tmp_path.glob("wsss-launch-*")  # which a killed caller cannot remove
    (left,) = folder.iterdir()  # not the arguments, which may be large
    assert left.stat().st_size < 10_000
    left.unlink()
    folder.rmdir()


@pytest.mark.slow  # a kernel, and processes of its own
def test_a_notebook_trains_by_two_processes(tmp_path, tiny_shapes):
    """Under papermill: it tells of each epoch and shows one bar of progress."""
    parameters = {"data_root": tiny_shapes, "epochs": 2, "batch_size": 4, "crop": 48, "workers": 0}
    parameters["train_processes"] = 2
    given = [f"-p {name} {value}".split() for name, value in parameters.items()]
    command = [
        "papermill",
        str(ROOT / "notebooks" / "10_train_cam.ipynb"),
        str(tmp_path / "o.ipynb"),
    ]
    environment = dict(os.environ)
    # by which kernels know tests, in which they leave alone what their processes write
    environment.pop("PYTEST_CURRENT_TEST")
    places = {
        "WSSS_OUTPUTS": str(tmp_path / "outputs"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
    }
    subprocess.run(
        [sys.executable, "-m", *command, *itertools.chain(*given)],
        env=environment | places,
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    cells = nbformat.read(tmp_path / "o.ipynb", as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    printed = {"stdout": "", "stderr": ""}
    for output in outputs:
        if output.output_type == "stream":
            printed[output.name] += output.text
    assert re.findall(r"epoch (\d):", printed["stdout"]) == ["1", "2"]
    assert printed["stderr"].count("0/6") == printed["stderr"].count("6/6") == 1
    (record,) = (tmp_path / "outputs" / "train_cam").glob("*/complete.json")
    assert json.loads(record.read_text())["parameters"]["train_processes"] == 2
    assert (record.parent / "weights.pt").exists()
