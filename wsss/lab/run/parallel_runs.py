"""Runs side by side: several plans at once, each stage that they have in common once, and each
stage with its share of the machine.

A plan begins when no other one at work has a stage to do that it lacks too. So no stage is run
twice, and none waits for another with a share of the machine in its hands.
"""

import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress

from wsss.lab.run.resources import Shares
from wsss.runtime.progress import Screen


class ParallelRuns:
    """Plans, and who works on which.

    Args:
        plans: lists of ``pipeline.Planned``.
        jobs: how many are worked on at once; 1 does without threads.
        gpus_per_job: as for ``Shares``.
        say: what is told to people goes through it.

    Attributes:
        screen: what is shown of all of them.
        faults: a plan's place in the list to the exception that it ended with.

    Raises:
        InputError: the machine has not as many GPUs.
    """

    def __init__(self, plans, *, jobs=1, gpus_per_job=0, say=print):
        self._jobs, self._shares = jobs, Shares(jobs, gpus_per_job)
        self._lacking = [{item.fingerprint for item in plan if not item.done} for plan in plans]
        # of each stage, how many there are: whatever is done already, so that a stage gets the
        # same share when a sweep goes on
        all_stages = {(item.name, item.fingerprint) for plan in plans for item in plan}
        self._among = Counter(name for name, _ in all_stages)
        self._waiting, self._working = list(range(len(plans))), set()
        self._broken = {}  # fingerprint of a stage that failed, to the exception
        self._changed, self._stopped = threading.Condition(), False
        self._began, self._count = time.monotonic(), len(plans)
        self.screen, self.faults = Screen(self._about if jobs > 1 else None, say), {}

    def run(self, work):
        """Work on all plans; one that fails keeps none of the others back but those that need the
        stage that it failed in.

        Args:
            work: called with a plan's place and its ``Lane``.

        Returns:
            ``faults``.
        """
        if self._jobs == 1:
            self._work(work)
            return self.faults
        threads = [threading.Thread(target=self._quietly, args=(work,)) for _ in range(self._jobs)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            with self._changed:  # after Ctrl-C; else all are through
                self._stopped = True
                self._changed.notify_all()
            for thread in threads:
                if thread.ident:
                    thread.join()
        return self.faults

    def left(self):
        """How long the plans that are not done will take, in words, or nothing before one is."""
        done = self._count - len(self._waiting) - len(self._working)
        if not done:
            return ""
        seconds = (time.monotonic() - self._began) / done * (self._count - done)
        return f"about {seconds / 60:.0f} min left"

    def mark(self, place):
        """A plan's number, before what is said of it."""
        return f"({place + 1}/{self._count})"

    def _quietly(self, work):
        """``_work`` in a thread: that it was stopped is told by the one that stopped it."""
        with suppress(KeyboardInterrupt):
            self._work(work)

    def _work(self, work):
        while (place := self._next()) is not None:
            try:
                work(place, ParallelRun(self, self.mark(place) + " " if self._jobs > 1 else ""))
            except Exception as fault:
                self.faults[place] = fault
            finally:
                with self._changed:
                    self._working.remove(place)
                    self._changed.notify_all()

    def _next(self):
        """A plan that nothing keeps back, or None when there is none left."""
        with self._changed:
            while self._waiting and not self._stopped:
                taken = set().union(*(self._lacking[place] for place in self._working))
                for place in list(self._waiting):
                    broken = self._lacking[place] & self._broken.keys()
                    if broken:  # what it needs would fail again
                        self._waiting.remove(place)
                        self.faults[place] = self._broken[min(broken)]
                    elif not self._lacking[place] & taken:
                        self._waiting.remove(place)
                        self._working.add(place)
                        return place
                if self._waiting:
                    self._changed.wait()
        return None

    @contextmanager
    def stage(self, item):
        """As ``execution.Alone.stage``."""
        with self._changed:
            while (share := self._shares.take(self._among[item.name])) is None:
                self.check()
                self._changed.wait()
        try:
            self.check()
            yield share
        except Exception as fault:
            with self._changed:
                self._broken[item.fingerprint] = fault
            raise
        else:
            with self._changed:
                for lacking in self._lacking:
                    lacking.discard(item.fingerprint)
        finally:
            with self._changed:
                self._shares.give_back(share)
                self._changed.notify_all()

    def check(self):
        """As ``execution.Alone.check``."""
        if self._stopped:
            raise KeyboardInterrupt

    def _about(self):
        done = self._count - len(self._waiting) - len(self._working)
        left = self.left()
        return f"({done}/{self._count})", left and f"; {left}"


class ParallelRun:
    """Where one plan's stages work, as ``execution.Alone``; what is told of them has its number."""

    def __init__(self, runs, mark):
        self._screen, self._mark = runs.screen, mark
        self.stage, self.check = runs.stage, runs.check

    def say(self, text):
        self._screen.say(self._mark + text)

    def show(self, label, text):
        self._screen.show(self._mark + label, text)

    def hide(self, label):
        self._screen.hide(self._mark + label)
