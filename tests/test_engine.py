"""An engine that is chosen by name maps photos and trains, also in processes that start later."""

import os
import subprocess
import sys

import pytest

from wsss.photos.map_photos import PhotosFailed, infer
from wsss.runtime import engine
from wsss.train.parallel.launch import launch

TOY = """
from concurrent.futures import Future
from contextlib import contextmanager

@contextmanager
def submitting(job):
    def submit(id):
        future = Future()
        future.set_result("b.jpg: unreadable" if id == "b" else job.append(id))
        return future
    yield submit, 1

def launch(function, *arguments, processes, **callbacks):
    return function(*arguments), processes, callbacks
"""


class Unfinished(list):
    def done(self, id):
        return False


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A toy engine, chosen."""
    for variable in (engine.PHOTOS, engine.TRAINING, engine.ADDRESS):
        monkeypatch.setenv(variable, "")  # restored after the test
    (tmp_path / "toy_engine.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    engine.choose(photos="toy_engine", training="toy_engine", address="here:1")


def test_photos_and_trainings_go_to_the_engine(toy):
    job = Unfinished()
    assert infer(["a", "c"], job, label="toy") == 2 and job == ["a", "c"]
    with pytest.raises(PhotosFailed, match=r"b\.jpg"):
        infer(["a", "b"], job, label="toy")
    assert launch(max, 1, 2, processes=7, on_epoch=print) == (2, 7, {"on_epoch": print})
    assert os.environ[engine.ADDRESS] == "here:1"


def test_processes_that_start_later_use_it_too(toy):
    code = (
        "from wsss.train.parallel.launch import launch\n"
        "assert launch(max, 1, 2, processes=3) == (2, 3, {})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_an_engine_this_machine_does_it(toy):
    engine.choose()
    assert engine.ADDRESS not in os.environ
    assert launch(max, 1, 2, processes=1) == 2
