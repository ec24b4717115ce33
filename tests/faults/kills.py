"""Kills: chains that are struck again and again until they are complete."""

import shutil
import time
from dataclasses import dataclass, field, replace

from . import results
from .life import live, repeated
from .place import CHECKPOINT_MINUTES
from .plan import PLACES, STAGES, deal, postponed

SLACK = 3.0  # seconds: the progress is written each half second, and a checkpoint takes its time
STUCK = 3  # lives in a row that end badly though nothing was struck, before a chain is given up


@dataclass
class Kill:
    """One kill and what came of it."""

    chain: int
    life: int
    place: str
    role: str
    after: float  # seconds since the life's start
    seconds: float  # of the life
    photos: int = 0  # computed again by the life after
    steps: dict = field(default_factory=dict)  # stage to (steps, seconds) trained again after it
    faults: list = field(default_factory=list)

    @property
    def survived(self):
        return not self.faults

    def line(self):
        summary = "; ".join(self.faults) or "survived"
        return (
            f"chain {self.chain} life {self.life}: {self.place}, {self.role} killed after "
            f"{self.after:.1f} s ({self.seconds:.1f} s in all): {summary}"
        )


class Campaign:
    """Chains of kills.

    Attributes:
        kills: list of ``Kill``.
        differences: lines about what chains have otherwise than the undisturbed one.
        chains: how many were completed.
    """

    def __init__(self, place, expected, pace, *, until, say=print):
        self.place, self.expected, self.pace, self.until = place, expected, pace, until
        self.say, self.kills, self.differences, self.chains = say, [], [], 0

    def begin(self, pool, kills, seed):
        """Hand the chains to a pool of threads; returns their futures."""
        return [
            pool.submit(self._chain, number, strikes)
            for number, strikes in enumerate(deal(kills, seed), 1)
        ]

    def _chain(self, number, strikes):
        """Strike after strike, then on to the end; compare, and wipe what it left."""
        chain, waiting = self.place.chain(f"kills-{number}"), list(strikes)
        count, stuck, seen, last = 0, 0, [], None
        while time.monotonic() < self.until:
            done = {stage for stage in STAGES if any((chain.seen / stage).glob("*/complete.json"))}
            waiting = sorted(
                (postponed(strike, done) for strike in waiting),
                key=lambda strike: PLACES.index(strike.place),
            )
            strike = waiting.pop(0) if waiting else None
            if strike and not strike.early:  # each leaves some of the work to those after it
                parts = 1 + sum(other.place == strike.place for other in waiting)
                strike = replace(strike, moment=strike.moment / parts)
            before, count = results.photos(chain.seen), count + 1
            life = live(chain, strike=strike, pace=self.pace)
            faults = life.faults + results.false_claims(self.expected, chain)
            if last:  # what this life did again is the last kill's doing
                self._blame(last, life, chain, before, seen)
            seen.append(life.steps)
            if life.struck:
                struck = [Kill(number, count, *hit, life.seconds) for hit in life.struck]
                last = struck[-1]
                last.faults += faults
                self.kills += struck
                for kill in struck:
                    self.say(kill.line())
                continue
            if faults:
                stuck += 1
                summary = f"chain {number} life {count}, left alone: {'; '.join(faults)}"
                self.say(summary)
                (last.faults if last else self.differences).append(summary)
                if stuck < STUCK:
                    continue
                self.differences.append(f"chain {number}: stuck, given up")
                return
            if strike is None:
                break
            waiting.append(replace(strike, moment=strike.moment / 2))  # it is quicker than it was
            self.say(f"chain {number} life {count}: ended before {strike.place} was struck")
        else:
            self.differences.append(f"chain {number}: the time was over before it was complete")
            return
        found = results.compare(self.expected, chain) + results.still_running(chain)
        self.differences += [f"chain {number}: {line}" for line in found]
        self.chains += 1
        self.say(
            f"chain {number}: complete after {count} lives; "
            + ("identical" if not found else f"NOT identical: {'; '.join(found)}")
        )
        if not found:
            shutil.rmtree(chain.folder)

    def _blame(self, kill, life, chain, before, seen):
        """Note in a kill what the life after it did again."""
        again = results.rewritten(before, results.photos(chain.seen))
        kill.photos += len(again)
        if again:
            names = ", ".join(str(path.relative_to(chain.seen)) for path in again[:3])
            kill.faults.append(f"{len(again)} photos computed again by the next life: {names}")
        kill.steps = repeated(seen, life.steps)
        for stage, (steps, seconds) in kill.steps.items():
            if seconds > 60 * CHECKPOINT_MINUTES + SLACK:
                kill.faults.append(
                    f"{stage}: {steps} steps, {seconds:.1f} s, trained again by the next life"
                )
