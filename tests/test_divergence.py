"""Training that diverges stops before that step; a killed worker is reported in one line."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train import SCHEDULE, mean, network, points, squared
from torch.utils.data import DataLoader

from tests.faults import processes
from tests.toys import Noise
from wsss.errors import InputError
from wsss.train import checkpoints, divergence
from wsss.train.loop import fit


def infinite_slope(net):
    """Zero, whose gradient is no number: 0 times the slope of a root at 0."""
    weight = net.head.weight
    return 0 * (weight - weight.detach()).abs().sqrt().sum()


FAULTS = {
    "the loss is nan": lambda loss, net: loss * float("nan"),
    "the loss is inf": lambda loss, net: loss * float("inf"),
    "the loss is .*e.*, and was .* at the first step": lambda loss, net: 1e6 * loss,
    "the gradient's norm is nan": lambda loss, net: loss + infinite_slope(net),
}


@pytest.mark.parametrize("reason", FAULTS)
@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("minutes", [0, 60])
def test_training_that_goes_astray_stops_before_the_step(tmp_path, reason, clip, minutes):
    calls, before = 0, {}

    def astray(net, images, targets):
        nonlocal calls
        values = squared(net, images, targets)
        if calls == 5:
            before.update({name: each.clone() for name, each in net.state_dict().items()})
            values["loss"] = FAULTS[reason](values["loss"], net)
        calls += 1
        return values

    net = network()
    path = tmp_path / "checkpoint.pt"
    good = "there is no checkpoint yet" if minutes else f"the last good checkpoint is {path}, of st"
    schedule = replace(SCHEDULE, clip_norm=clip, checkpoint_minutes=minutes)
    with pytest.raises(FloatingPointError, match=f"at step 5 of 12: {reason}; {good}") as fault:
        fit(net, points(), loss=astray, schedule=schedule, folder=tmp_path)
    assert "\n" not in str(fault.value) and "lower learning_rate" in str(fault.value)
    for name, tensor in net.state_dict().items():
        assert tensor.isfinite().all() and torch.equal(tensor, before[name])
    assert path.exists() == (not minutes)
    if not minutes:
        saved = checkpoints.newest(path, "cpu")
        assert saved["state"]["step"] == 5
        for name, tensor in saved["network"].items():
            assert torch.equal(tensor, before[name])


def test_steps_that_spoil_the_weights_leave_the_checkpoint_before(tmp_path):
    """A finite gradient can do so too: a rate that is too high."""
    for minutes in (0, 60):
        schedule = replace(SCHEDULE, learning_rate=1e36, checkpoint_minutes=minutes)
        with pytest.raises(FloatingPointError, match="training stopped at step"):
            fit(network(), points(), loss=squared, schedule=schedule, folder=tmp_path)
        saved = checkpoints.newest(tmp_path / "checkpoint.pt", "cpu")
        assert saved is None or all(each.isfinite().all() for each in saved["network"].values())


def test_what_counts_as_exploded():
    assert divergence.divergence_reason(99.0, 1.0, first_loss=None) is None
    # the first crops had nothing to learn from
    assert divergence.divergence_reason(99.0, 1.0, first_loss=1e-9) is None
    assert divergence.divergence_reason(101.0, 1.0, first_loss=0.7)
    assert divergence.divergence_reason(999.0, 1.0, first_loss=10.0) is None
    assert divergence.divergence_reason(1001.0, 1.0, first_loss=10.0)


class Deadly(Noise):
    """Its process is killed once, at a sample of the second epoch, as the system does it that runs
    out of memory.
    """

    def __init__(self, folder):
        super().__init__(4, mean)
        self.flag = folder / "killed"

    def __getitem__(self, key):
        if key[0] == 1 and torch.utils.data.get_worker_info() and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(key)


def test_a_killed_worker_is_reported_in_one_line_and_training_goes_on(tmp_path):
    schedule = replace(SCHEDULE, workers=1)
    with pytest.raises(RuntimeError, match=r"was killed.*memory.*same command.*workers=0") as fault:
        fit(network(), Deadly(tmp_path), loss=squared, schedule=schedule, folder=tmp_path)
    assert "\n" not in str(fault.value)
    saved = checkpoints.newest(tmp_path / "checkpoint.pt", "cpu")
    assert saved is None or saved["state"]["step"] <= 4
    resumed, expected = network(), network()
    fit(resumed, Deadly(tmp_path), loss=squared, schedule=schedule, folder=tmp_path)
    fit(expected, points(), loss=squared, schedule=SCHEDULE, folder=tmp_path / "a")
    for name, tensor in expected.state_dict().items():
        np.testing.assert_array_equal(resumed.state_dict()[name], tensor)


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(), FileNotFoundError()])
def test_a_worker_killed_while_it_hands_over_a_photo_is_reported_too(error):
    """Its end of the pipe is gone a moment before torch learns of its death."""

    def torn():
        batches = iter(DataLoader(Noise(4, mean), num_workers=1, sampler=[(0, 0), (0, 1)]))
        next(batches)
        (worker,) = multiprocessing.active_children()
        threading.Timer(0.1, os.kill, (worker.pid, signal.SIGKILL)).start()
        raise error

    with pytest.raises(RuntimeError, match="a process that loads photos was killed"):
        divergence.explain_dead_workers(torn)


class Broken(Noise):
    """One of its pictures cannot be read."""

    def __init__(self, error):
        super().__init__(4, mean)
        self.error = error

    def __getitem__(self, key):
        if key[1] == 7:
            raise self.error
        return super().__getitem__(key)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [InputError, ValueError, RuntimeError])
def test_an_error_in_a_worker_is_as_in_this_process(tmp_path, kind, workers):
    message = "photos/7.jpg: InputError: 5 \\no bytes; replace the file"
    schedule = replace(SCHEDULE, workers=workers)
    with pytest.raises(kind) as fault:
        fit(network(), Broken(kind(message)), loss=squared, schedule=schedule, folder=tmp_path)
    assert type(fault.value) is kind and str(fault.value) == message


@pytest.mark.parametrize("error", [EOFError("a"), ConnectionResetError("a"), RuntimeError("a")])
def test_other_errors_stay_as_they_are(error):
    def fails():
        raise error

    with pytest.raises(type(error)) as raised:
        divergence.explain_dead_workers(fails)
    assert raised.value is error


class Announced(Noise):
    """Tells when a worker is given it, which is before the worker is up."""

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.flag.touch()
        time.sleep(1)


def train_for_long(folder):
    samples = Announced(4, mean)
    samples.flag = Path(folder) / "started"
    schedule = replace(SCHEDULE, workers=1, epochs=100_000)
    fit(network(), samples, loss=squared, schedule=schedule, folder=folder)


@pytest.mark.parametrize("seconds", [0, 4])
def test_workers_end_with_a_killed_training(tmp_path, seconds):
    """Whether its workers are at work already or still starting."""
    code = f"import test_divergence; test_divergence.train_for_long({str(tmp_path)!r})"
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {processes.MARK: str(tmp_path), "PYTHONPATH": path},
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 120
        while not (tmp_path / "started").exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert parent.poll() is None
        time.sleep(seconds)
    finally:
        parent.kill()
        parent.wait()
    until = time.monotonic() + 30
    while (left := processes.marked(str(tmp_path))) and time.monotonic() < until:
        time.sleep(0.1)
    for one in left:
        processes.kill(one.pid)
    assert not left
