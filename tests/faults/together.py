"""Two runs at once on the same experiment, and a clock that is set back."""

from concurrent.futures import ThreadPoolExecutor

from . import results
from .life import live
from .plan import STAGES, Strike

DAY = 86400
CLOCK_VARIABLE = "WSSS_FAULTS_CLOCK"
# Python imports a module of this name at its start. The shift is read again at most ten times a
# second, so that a clock can be set while a process is at work.
CLOCK = f'''
import os
import time

_path, _real, _real_ns, _steady = (
    os.environ["{CLOCK_VARIABLE}"], time.time, time.time_ns, time.monotonic
)
_known = [-1.0, 0]


def _shift():
    now = _steady()
    if now - _known[0] > 0.1:
        try:
            with open(_path) as file:
                _known[:] = now, int(file.read())
        except (OSError, ValueError):
            pass
    return _known[1]


time.time = lambda: _real() + _shift()
time.time_ns = lambda: _real_ns() + _shift() * 10**9
'''


def two(place, expected, pace, say):
    chain = place.chain("two")
    with ThreadPoolExecutor(2) as pool:
        lives = [pool.submit(live, chain) for _ in range(2)]
        lives = [life.result() for life in lives]
    faults = [
        f"the {name}: {line}"
        for name, life in zip(("first", "second"), lives, strict=True)
        for line in life.faults
    ]
    for stage in STAGES:
        if all(stage in life.ran for life in lives):
            faults.append(f"{stage}: both ran it")
    return faults + results.compare(expected, chain) + results.still_running(chain)


def clock(place, expected, pace, say):
    folder = place.root / "clock"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CLOCK)
    shift = folder / "shift"
    shift.write_text("0")
    extra = {"PYTHONPATH": str(folder), CLOCK_VARIABLE: str(shift)}
    chain = place.chain("clock-back", extra=extra)
    life = live(chain, strike=Strike("train_affinity", "driver", False, 0.5), pace=pace)
    faults = list(life.faults) if life.struck else [*life.faults, "ended before it was struck"]
    shift.write_text(str(-DAY))

    def set_back(watch):
        if watch.stage == "random_walk" and "random_walk" in watch.worked:
            shift.write_text(str(-2 * DAY))

    life = live(chain, each=set_back)
    if shift.read_text() != str(-2 * DAY):
        faults.append("the clock was not set back in the middle")
    return faults + life.faults + results.compare(expected, chain) + results.still_running(chain)
