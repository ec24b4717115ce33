"""The suite's command line."""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from . import others, results
from .kills import Campaign
from .life import live
from .place import Place
from .plan import PLACES, ROLES, spread


def parse(arguments):
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="processes to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the plan")
    parser.add_argument("--minutes", type=float, default=30, help="after these, nothing new begins")
    parser.add_argument("--lanes", type=int, default=2, help="runs side by side")
    parser.add_argument(
        "--others",
        default=",".join(others.FAULTS),
        help="the other faults, separated by commas; empty for none",
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--scratch", type=Path, help="folder to work in, which is kept")
    return parser.parse_args(arguments)


_lock = threading.Lock()


def say(text):
    with _lock:
        print(text, flush=True)


def run(place, options, *, say=say):
    """The whole suite; returns the figures, with ``survived`` for whether nothing is amiss."""
    began = time.monotonic()
    chain = place.chain("undisturbed")
    life = live(chain)
    if life.faults:
        say(life.output)
        raise SystemExit(f"the undisturbed run fails: {'; '.join(life.faults)}")
    expected = results.baseline(chain)
    say(f"undisturbed: {life.seconds:.0f} s, {life.pace}")
    until = began + 60 * options.minutes
    campaign = Campaign(place, expected, life.pace, until=until, say=say)

    def other(name):
        if time.monotonic() > until:
            return ["not reached in time"]
        at = time.monotonic()
        found = others.FAULTS[name](place, expected, life.pace, say)
        outcome = found if isinstance(found, str) else "; ".join(found) or "survived"
        say(f"{name}: {outcome} ({time.monotonic() - at:.0f} s)")
        return found

    with ThreadPoolExecutor(options.lanes) as pool:
        chains = campaign.begin(pool, options.kills, options.seed)
        begun = {name: pool.submit(other, name) for name in filter(None, options.others.split(","))}
        for chain in chains:
            chain.result()
        outcomes = {name: outcome.result() for name, outcome in begun.items()}
    return figures(options, campaign, outcomes, time.monotonic() - began)


def figures(options, campaign, outcomes, seconds):
    """What came of it, as plain values. Of an outcome, a text is a reason for having been skipped,
    a list holds its faults.
    """
    kills = campaign.kills
    again = Counter()
    for kill in kills:
        again["photos"] += kill.photos
        for steps, lost in kill.steps.values():
            again["steps"] += steps
            again["seconds"] += lost
    hit = spread([(kill.place, kill.role) for kill in kills])
    well = spread([(kill.place, kill.role) for kill in kills if kill.survived])
    identical = not campaign.differences
    return {
        "kills": len(kills),
        "planned": options.kills,
        "survived_kills": sum(kill.survived for kill in kills),
        "by_place": {place: (well[0][place], hit[0][place]) for place in PLACES},
        "by_role": {role: (well[1][role], hit[1][role]) for role in ROLES},
        "repeated": {key: round(again[key], 1) for key in ("photos", "steps", "seconds")},
        "chains": campaign.chains,
        "differences": campaign.differences,
        "others": outcomes,
        "seconds": round(seconds),
        "each": [asdict(kill) for kill in kills],
        "survived": identical
        and len(kills) >= options.kills
        and all(kill.survived for kill in kills)
        and not any(isinstance(each, list) and each for each in outcomes.values()),
    }


def table(found):
    """The figures as text."""
    lines = [
        f"kills survived: {found['survived_kills']} of {found['kills']} "
        f"({found['planned']} planned), in {found['chains']} complete chains"
    ]
    for title in ("by_role", "by_place"):
        lines += ["", title.replace("_", " ")]
        lines += [f"  {name:20} {a} of {b}" for name, (a, b) in found[title].items()]
    for kill in found["each"]:
        lines += [f"  {kill['place']}, {kill['role']}: {fault}" for fault in kill["faults"]]
    again = found["repeated"]
    lines += [
        "",
        f"work repeated: {again['photos']} photos, {again['steps']} training steps, "
        f"{again['seconds']} s of training",
        f"results and metrics identical: {'no' if found['differences'] else 'yes'}",
        *(f"  {line}" for line in found["differences"]),
        "",
        "other faults",
    ]
    for name, outcome in found["others"].items():
        if isinstance(outcome, str):
            lines.append(f"  {name:20} skipped: {outcome}")
        else:
            lines.append(f"  {name:20} {'survived' if not outcome else 'NOT survived'}")
            lines += [f"    {line}" for line in outcome]
    return "\n".join([*lines, "", f"total: {found['seconds']} s"])


def main(arguments=None):
    options = parse(arguments)
    unknown = set(filter(None, options.others.split(","))) - set(others.FAULTS)
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are {', '.join(others.FAULTS)}")
    if options.scratch:
        options.scratch.mkdir(parents=True, exist_ok=True)
        found = run(Place(options.scratch), options)
    else:
        with tempfile.TemporaryDirectory(prefix="wsss-faults-") as folder:
            found = run(Place(folder), options)
    say("\n" + table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if found["survived"] else 1


if __name__ == "__main__":
    sys.exit(main())
