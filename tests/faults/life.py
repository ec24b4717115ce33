"""One life: a ``wsss run`` from its start to its end, watched, and struck where planned."""

import contextlib
import re
import subprocess
import time
import uuid
from dataclasses import dataclass, field

from . import processes
from .plan import END, STAGES, START

LOOK = 0.05  # seconds between looks at the processes
ORPHANS = 30.0  # seconds after its end by which all that a driver started has to be gone
PATIENCE = 120.0  # seconds that a driver has to end by itself after one of its processes was killed
STEP = re.compile(r"(\d+)/(\d+) \[")  # in a progress line


@dataclass
class Pace:
    """How long things took undisturbed, in seconds."""

    start: float = 3.0  # until the first stage's process
    end: float = 1.0  # behind the last stage's process
    stages: dict = field(default_factory=dict)  # name to (until work begins, all)

    def delay(self, strike):
        """When a strike is due: seconds after what it waits for."""
        if strike.place in (START, END):
            return strike.moment * (self.start if strike.place == START else self.end)
        before, whole = self.stages[strike.place]
        return strike.moment * (before if strike.early else max(0.1, whole - before))


@dataclass
class Life:
    """What became of a ``wsss run``.

    Attributes:
        code: exit code; minus the signal's number where it was killed.
        seconds: from start to end.
        output: what it printed.
        struck: list of ``(place, role, seconds since its start)``: one kill, or two where the first
            hit a process whose work was done, and the driver was killed when it had gone on.
        faults: lines about what must not be.
        ran: stages in the order that they were at work.
        steps: stage to ``(time, trainings done, step, steps)`` as seen while it was at work.
        pace: how long its parts took.
    """

    code: int = None
    seconds: float = 0.0
    output: str = ""
    struck: list = field(default_factory=list)
    faults: list = field(default_factory=list)
    ran: list = field(default_factory=list)
    steps: dict = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)


class Watch:
    """What is seen of a run while it lasts: which stage is at work, since when, and how far."""

    def __init__(self, chain):
        self.chain, self.began, self.wall = chain, time.monotonic(), time.time()
        self.stage, self.since, self.worked, self.left = "", {}, {}, {}
        self.steps = {}

    def look(self, found):
        """Take in the processes found now."""
        now, stage = time.monotonic(), next((one.stage for one in found if one.stage), "")
        if self.stage and stage != self.stage:
            self.left[self.stage] = now
        self.stage = stage
        if not stage:
            return
        self.since.setdefault(stage, now)
        for path in (self.chain.seen / stage).glob("*/.progress"):
            with contextlib.suppress(OSError):  # replaced or removed at this moment
                if path.stat().st_mtime >= self.wall:
                    self.worked.setdefault(stage, now)
                    self._step(stage, path, now)

    def _step(self, stage, path, now):
        match = STEP.search(path.read_text(errors="replace"))
        if match and stage.startswith("train"):
            members = len(list(path.parent.glob("member_*.pt")))
            sample = (members, int(match[1]), int(match[2]))
            seen = self.steps.setdefault(stage, [])
            if not seen or seen[-1][1:] != sample:
                seen.append((now, *sample))

    def pace(self, end):
        """How long the parts took, once all is over."""
        first = min(self.since.values(), default=end)
        last = max(self.left.values(), default=end)
        stages = {}
        for stage, since in self.since.items():
            whole = self.left.get(stage, end) - since
            stages[stage] = (self.worked.get(stage, since + 0.6 * whole) - since, whole)
        return Pace(first - self.began, end - last, stages)

    def over(self, stage):
        """Whether a stage is no longer at work and complete."""
        return stage != self.stage and any((self.chain.seen / stage).glob("*/complete.json"))


def target(strike, pace, watch, found, driver):
    """``(pid, place, role)`` of what a strike hits now, or None where it is not due.

    Where its stage is over before its moment, it hits the driver, between two stages.
    """
    now, delay = time.monotonic(), pace.delay(strike)
    if strike.place == START:
        due = now - watch.began >= delay
        return (driver, watch.stage or START, "driver") if due else None
    if strike.place == END:
        left = watch.left.get(STAGES[-1])
        if not left:  # nothing is left to do: its end is all that there is of the run
            left, delay = watch.began, strike.moment * pace.start
        over = watch.over(STAGES[-1]) and not watch.stage
        return (driver, END, "driver") if over and now - left >= delay else None
    if strike.place != watch.stage:
        return (driver, strike.place, "driver") if watch.over(strike.place) else None
    since = (watch.since if strike.early else watch.worked).get(strike.place)
    if strike.role == "worker" and not strike.early:
        since = watch.since[strike.place]  # workers are there before the first of their work is
        delay += 0.5 * pace.stages[strike.place][0]
    if since is None or now - since < delay:
        return None
    if strike.role == "driver":
        return driver, strike.place, "driver"
    hit = [one.pid for one in found if one.role == strike.role]
    return (hit[len(hit) // 2], strike.place, strike.role) if hit else None


def live(chain, *arguments, strike=None, pace=None, limit=900.0, codes=(0,), each=None, ready=None):
    """Run ``wsss run`` once, to its end.

    Args:
        chain: a ``place.Chain``.
        arguments: of the command, after the experiment.
        strike: a ``plan.Strike``, or None to leave it alone.
        pace: from an undisturbed run; what a strike's moments are shares of.
        limit: seconds after which it is given up, and all its processes are killed.
        codes: exit codes that are well where nothing was struck.
        each: called with the ``Watch`` after each look.
        ready: the strike waits until this returns something true.

    Returns:
        a ``Life``.
    """
    mark, life, watch = uuid.uuid4().hex, Life(), Watch(chain)
    log = chain.folder / f"{mark}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            chain.command(*arguments),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=chain.environment() | {processes.MARK: mark},
            start_new_session=True,
        )
    struck_at = None
    while process.poll() is None:
        found, now = processes.marked(mark), time.monotonic()
        watch.look(found)
        if watch.stage and watch.stage not in life.ran:
            life.ran.append(watch.stage)
        if each:
            each(watch)
        if strike and not life.struck:
            hit = target(strike, pace, watch, found, process.pid)
            if hit and ready and not ready():
                hit = None
        elif life.struck and life.struck[-1][1] != "driver" and watch.over(life.struck[-1][0]):
            hit = (process.pid, life.struck[-1][0], "driver")
        else:
            hit = None
        if hit:
            processes.kill(hit[0])
            struck_at = now
            life.struck.append((*hit[1:], now - watch.began))
        allowed = struck_at + PATIENCE if struck_at else watch.began + limit
        if now > allowed:
            life.faults.append(f"did not end by itself in {now - (struck_at or watch.began):.0f} s")
            processes.kill(process.pid)
            process.wait()
            break
        time.sleep(LOOK)
    end = time.monotonic()
    life.code, life.seconds = process.returncode, end - watch.began
    watch.left.setdefault(watch.stage, end)
    watch.left.pop("", None)
    life.steps, life.pace = watch.steps, watch.pace(end)
    life.faults += orphans(mark)
    life.output = log.read_text(errors="replace")
    log.unlink()
    if "Traceback (most recent call last)" in life.output:
        life.faults.append(f"a traceback in its output: {life.output.strip().splitlines()[-1]}")
    if life.struck:
        place, role, _ = life.struck[-1]
        codes = (-9,) if role == "driver" else (0, 1) if watch.over(place) else (1,)
    if life.code not in codes and not any("by itself" in fault for fault in life.faults):
        last = (life.output.strip().splitlines() or ["nothing"])[-1]
        life.faults.append(f"exit code {life.code}, expected {codes}; it printed: {last}")
    return life


def orphans(mark):
    """Lines about processes that outlive their driver by more than ``ORPHANS``; they are killed."""
    until = time.monotonic() + ORPHANS
    while (left := processes.marked(mark)) and time.monotonic() < until:
        time.sleep(0.2)
    for one in left:
        processes.kill(one.pid)
    names = ", ".join(
        f"{one.role}{one.stage and f' of {one.stage}'} ({' '.join(one.command)[:80]})"
        if one.role == "other"
        else one.role
        for one in left
    )
    return [f"left behind {ORPHANS:.0f} s later: {names}"] if left else []


def repeated(before, after):
    """Training that a life did again: stage to ``(steps, seconds that they took before)``, not
    counting what a driver does after a stage has failed, which takes seconds too.

    Args:
        before: list of what earlier lives saw of the stages' steps, ``Life.steps``, the latest
            last.
        after: ``Life.steps`` of the life that went on.
    """
    found = {}
    for stage, samples in after.items():
        earlier = [life for life in before if stage in life]
        if not earlier:
            continue
        _, members, step, total = samples[0]
        now = members * total + step
        times = [(s[1] * total + s[2], s[0]) for s in earlier[-1][stage]]
        reached, _ = times[-1]
        if reached > now:
            begin, end = (
                next(at for place, at in times if place >= step) for step in (now, reached)
            )
            found[stage] = (reached - now, end - begin)
    return found
