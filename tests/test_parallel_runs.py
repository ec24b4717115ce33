"""Runs side by side: what is shared runs once, each has its share, and one that fails keeps only
its like back.
"""

import os
import threading
import time
from types import SimpleNamespace

import pytest

from wsss.errors import InputError
from wsss.lab.run import resources
from wsss.lab.run.parallel_runs import ParallelRuns
from wsss.lab.run.resources import Shares
from wsss.runtime import devices


def plans(*words):
    """A plan for each word: a stage for each letter, whose fingerprint is the word so far."""
    return [
        [
            SimpleNamespace(name=str(place), fingerprint=word[: place + 1], done=False)
            for place in range(len(word))
        ]
        for word in words
    ]


@pytest.fixture
def machine(monkeypatch):
    """Has so many cores and GPUs."""

    def make(cores, gpus=0):
        monkeypatch.setattr(resources, "_cores", lambda: list(range(cores)))
        monkeypatch.setattr(resources, "_gpus", lambda: [str(number) for number in range(gpus)])
        monkeypatch.setattr(devices, "cores", lambda: cores)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    return make


class Record:
    """Work on plans that notes who ran what, with which share, and how many stages did at once."""

    def __init__(self, given, fails=()):
        self.plans, self.fails = given, fails
        self.ran, self.shares, self.most = [], {}, 0
        self._lock, self._now, self._done = threading.Lock(), 0, set()

    def work(self, place, lane):
        for item in self.plans[place]:
            with self._lock:
                if item.fingerprint in self._done:
                    continue
            with lane.stage(item) as share:
                with self._lock:
                    self._now += 1
                    self.most = max(self.most, self._now)
                    self.ran.append(item.fingerprint)
                    self.shares[item.fingerprint] = share
                time.sleep(0.02)
                with self._lock:
                    self._now -= 1
                if item.fingerprint in self.fails:
                    raise RuntimeError(item.fingerprint)
                self._done.add(item.fingerprint)


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_every_stage_runs_once_and_no_more_at_once_than_there_are_jobs(machine, jobs):
    machine(4)
    given = plans("abc", "abd", "abe", "xyz", "xyw", "abc")
    record = Record(given)
    assert ParallelRuns(given, jobs=jobs).run(record.work) == {}
    assert sorted(record.ran) == sorted({item.fingerprint for plan in given for item in plan})
    assert record.most == jobs


def test_a_plan_that_waits_for_anothers_stage_lets_others_work(machine):
    """While the first makes what the second needs too, the third works."""
    machine(2)
    given = plans("ab", "ac", "xy")
    record = Record(given)
    ParallelRuns(given, jobs=2).run(record.work)
    assert sorted(record.ran[:2]) == ["a", "x"] and record.most == 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_that_fails_keeps_back_only_those_that_need_its_stage(machine, jobs):
    machine(2)
    given = plans("abc", "abd", "ae", "xy")
    record = Record(given, fails={"ab"})
    faults = ParallelRuns(given, jobs=jobs).run(record.work)
    assert {place: str(fault) for place, fault in faults.items()} == {0: "ab", 1: "ab"}
    assert sorted(record.ran) == ["a", "ab", "ae", "x", "xy"]


def test_shares_go_by_how_many_such_stages_there_are(machine):
    machine(8)
    given = plans("abc", "abd", "aef", "aeg", "aeh")
    for plan in given[:2]:
        plan[0].done = True  # what was done before changes no share, and so no bits
    record = Record(given)
    ParallelRuns(given, jobs=4).run(record.work)
    counts = {name: share.core_count for name, share in record.shares.items()}
    assert counts == {
        **{"a": 8, "ab": 4, "ae": 4},
        **dict.fromkeys(("abc", "abd", "aef", "aeg", "aeh"), 2),
    }
    assert record.shares["a"].environment() == {}  # the whole machine, as without jobs


def test_shares_are_apart_and_come_back(machine, monkeypatch):
    machine(4, gpus=3)
    free = Shares(3)
    first, second, third = (free.take(among=9) for _ in range(3))
    assert [share.cores for share in (first, second, third)] == [(0,), (1,), (2,)]
    assert [share.gpus for share in (first, second, third)] == [("0",), ("1",), ("2",)]
    assert free.take(among=9) is None
    free.give_back(second)
    assert free.take(among=1) is None  # all of them, and some are away
    again = free.take(among=9)
    assert again.gpus == ("1",) and len(again.cores) == 1 and set(again.cores) <= {1, 3}
    assert first.environment() == {
        **{"WSSS_CORES": "0", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "0"}
    }
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # somebody's choice
    assert first.environment()["OMP_NUM_THREADS"] == "3"


def test_more_jobs_than_cores_share_them(machine):
    machine(2)
    free = Shares(4)
    cores = [free.take(among=4).cores for _ in range(4)]
    assert sorted(cores) == [(0,), (0,), (1,), (1,)] and free.take(among=4) is None


@pytest.mark.parametrize(
    ("jobs", "each", "gpus", "message"),
    [
        (3, 0, 2, "3 jobs with GPUs of their own, 1 each: there are 2 GPUs"),
        (2, 2, 3, "2 jobs with GPUs of their own, 2 each: there are 3 GPUs"),
        (2, 1, 0, "there are 0 GPUs; change --jobs or --gpus-per-job"),
    ],
)
def test_more_gpus_than_there_are_is_refused(machine, jobs, each, gpus, message):
    machine(4, gpus=gpus)
    with pytest.raises(InputError, match=message):
        Shares(jobs, each)


def test_one_job_sees_all_gpus_and_several_one_each(machine):
    machine(4, gpus=4)
    assert Shares(1).take().gpus is None
    assert Shares(1, 2).take().gpus == ("0", "1")
    assert Shares(2, 2).take().gpus == ("0", "1")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no process is kept to cores here")
def test_cores_are_those_that_a_process_is_kept_to():
    whole = os.sched_getaffinity(0)
    assert devices.cores() == len(whole)
    try:
        os.sched_setaffinity(0, {min(whole)})
        assert devices.cores() == 1
    finally:
        os.sched_setaffinity(0, whole)
