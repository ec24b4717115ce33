"""Which process is killed when: a plan from a seed, even over stages and roles."""

import random
from dataclasses import dataclass, replace

STAGES = (
    *("dataset", "train_cam", "infer_cam", "affinity_labels", "train_affinity"),
    *("random_walk", "train_segmentation", "evaluate", "report"),
)
START, END = "start", "end"  # before the first stage's process, and after the last one's
PLACES = (START, *STAGES, END)
ROLES = ("driver", "papermill", "kernel", "worker")
WITHOUT_WORKERS = ("dataset", "report")
CHAIN = 36  # kills of one chain at most: about one of each role in each stage
EARLY = 0.3  # share of kills before a stage's work proper, while it starts


@dataclass(frozen=True)
class Strike:
    """One kill.

    ``moment`` is a share, 0 to 1, of the time that the part of the stage takes: its start if
    ``early``, else its work and its end.
    """

    place: str
    role: str
    early: bool = False
    moment: float = 0.0


def deal(kills, seed):
    """Strikes for so many kills: a list of chains, each a list of strikes in the chain's order.

    Each round goes once through all stages in an order of its own, and roles take turns from round
    to round, so that any number of kills is spread as evenly as it can be.
    """
    source, strikes, turn = random.Random(seed), [], 0
    while len(strikes) < kills:
        places = [*STAGES, *((START, END) if turn % 2 == 0 else ())]
        source.shuffle(places)
        for place in places:
            role = ROLES[(PLACES.index(place) + turn) % len(ROLES)]
            if role == "worker" and place in WITHOUT_WORKERS:
                role = "kernel"
            if place in (START, END):
                role = "driver"
            strikes.append(Strike(place, role, source.random() < EARLY, source.random()))
        turn += 1
    strikes = strikes[:kills]
    count = -(-kills // CHAIN)
    chains = [strikes[number::count] for number in range(count)]
    return [sorted(chain, key=lambda strike: PLACES.index(strike.place)) for chain in chains]


def postponed(strike, done):
    """A strike, or where its stage is done before its turn, the same at the next stage that is not.

    Args:
        done: the stages that are.
    """
    if strike.place in (START, END) or strike.place not in done:
        return strike
    place = next((stage for stage in STAGES if stage not in done), END)
    role = strike.role
    if place == END:
        role = "driver"
    elif role == "worker" and place in WITHOUT_WORKERS:
        role = "kernel"
    return replace(strike, place=place, role=role)


def spread(struck, places=PLACES, roles=ROLES):
    """How often each place and each role was hit: two dicts, from ``(place, role)`` pairs."""
    struck = list(struck)
    return (
        {place: sum(one == place for one, _ in struck) for place in places},
        {role: sum(one == role for _, one in struck) for role in roles},
    )
