"""Several plans at once: a stage that they have in common runs once, each with its share of the
machine.

A plan starts only when no running plan still has to run a stage that it needs too. So no stage runs
twice, and none waits for another while it holds a share of the machine.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from wsss.lab.plan import Planned
from wsss.lab.project import Say
from wsss.lab.run.notebook import Machine
from wsss.lab.run.resources import Share, Shares
from wsss.runtime.progress import Screen


class ParallelRuns:
    """Plans of which ``jobs`` run at once; ``gpus_per_job`` and its InputError are of ``Shares``.

    Attributes:
        screen: shows the progress of all of them.
        faults: a plan's index to the exception that ended it.
    """

    def __init__(
        self, plans: list[list[Planned]], *, jobs: int = 1, gpus_per_job: int = 0, say: Say = print
    ):
        self._jobs, self._shares = jobs, Shares(jobs, gpus_per_job)
        self._to_run = [{item.fingerprint for item in plan if not item.done} for plan in plans]
        # those done already count too: a stage gets the same share when a sweep is resumed
        all_stages = {(item.name, item.fingerprint) for plan in plans for item in plan}
        self._among = Counter(name for name, _ in all_stages)
        self._waiting, self._running = list(range(len(plans))), set()
        self._failed = {}  # fingerprint of a stage to its exception
        self._changed, self._stopped = threading.Condition(), False
        self._began, self._count = time.monotonic(), len(plans)
        self.screen = Screen(self._progress if jobs > 1 else None, say)
        self.faults: dict[int, Exception] = {}

    def run(self, work: Callable[[int, Machine], object]) -> dict[int, Exception]:
        """Call ``work`` with each plan's index and where it runs; returns ``faults``. A plan that
        fails stops only those that need the stage it failed in.
        """
        if self._jobs == 1:  # Ctrl-C reaches the stage at once
            self._work(work)
            return self.faults
        with ThreadPoolExecutor(self._jobs) as pool:
            try:
                list(pool.map(self._work, [work] * self._jobs))
            finally:
                with self._changed:  # after Ctrl-C; else all are done
                    self._stopped = True
                    self._changed.notify_all()
        return self.faults

    @property
    def _done(self):
        return self._count - len(self._waiting) - len(self._running)

    def time_left(self) -> str:
        """How long the unfinished plans will take; empty before one is done."""
        if not self._done:
            return ""
        seconds = (time.monotonic() - self._began) / self._done * (self._count - self._done)
        return f"about {seconds / 60:.0f} min left"

    def _check(self):
        if self._stopped:
            raise KeyboardInterrupt

    @contextmanager
    def _stage(self, item: Planned) -> Iterator[Share]:
        with self._changed:
            while (share := self._shares.take(self._among[item.name])) is None:
                self._check()
                self._changed.wait()
        try:
            self._check()
            yield share
            with self._changed:
                for fingerprints in self._to_run:
                    fingerprints.discard(item.fingerprint)
        except Exception as fault:
            self._failed[item.fingerprint] = fault
            raise
        finally:
            with self._changed:
                self._shares.give_back(share)
                self._changed.notify_all()

    def _work(self, work):
        while (place := self._next()) is not None:
            mark = f"({place + 1}/{self._count}) " if self._jobs > 1 else ""
            try:
                work(place, Machine(self.screen, mark, self._stage, self._check))
            except Exception as fault:
                self.faults[place] = fault
            finally:
                with self._changed:
                    self._running.remove(place)
                    self._changed.notify_all()

    def _next(self):
        """A plan that can start, or None when none is left."""
        with self._changed:
            while self._waiting and not self._stopped:
                taken = set().union(*(self._to_run[place] for place in self._running))
                for place in list(self._waiting):
                    failed = self._to_run[place] & self._failed.keys()
                    if failed:  # a stage that it needs would fail again
                        self._waiting.remove(place)
                        self.faults[place] = self._failed[min(failed)]
                    elif not self._to_run[place] & taken:
                        self._waiting.remove(place)
                        self._running.add(place)
                        return place
                if self._waiting:
                    self._changed.wait()
        return None

    def _progress(self):
        """What the live line begins and ends with."""
        left = self.time_left()
        return f"({self._done}/{self._count})", left and f"; {left}"
