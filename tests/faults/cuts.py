"""Files cut short while the driver was killed, as a loss of power or a full disk leaves them."""

import shutil
from functools import partial
from typing import NamedTuple

from . import results
from .life import live
from .plan import Strike


class Cut(NamedTuple):
    """One file that is damaged: the newest that a pattern finds when the driver was killed."""

    strike: Strike
    pattern: str  # below the output folder
    how: str  # half, empty, or zeros at the file's size
    until: str  # the stage that a run then has to complete


CUTS = (  # in the chain's order; what belongs to a stage that is complete, and to one at work
    Cut(Strike("train_cam", "driver", True, 0.5), "dataset/*/complete.json", "half", "dataset"),
    Cut(Strike("train_cam", "driver", False, 0.3), "*/*/parameters.json", "empty", "train_cam"),
    Cut(Strike("infer_cam", "driver", True, 0.5), "train_cam/*/weights.pt", "zeros", "train_cam"),
    Cut(Strike("infer_cam", "driver", True, 0.9), "*_cam/*/record.jsonl", "half", "train_cam"),
    Cut(Strike("infer_cam", "driver", False, 0.7), "*/*/cams/*.npz", "half", "infer_cam"),
    Cut(Strike("affinity_labels", "driver", True, 0.6), "*/*/cams/*.npz", "zeros", "infer_cam"),
    Cut(
        Strike("affinity_labels", "driver", False, 0.7),
        *("*/*/affinity_labels/*.png", "empty", "affinity_labels"),
    ),
    Cut(
        Strike("train_affinity", "driver", False, 0.8),
        *("train_affinity/**/checkpoint.pt", "half", "train_affinity"),
    ),
    Cut(
        Strike("random_walk", "driver", True, 0.5),
        *("train_affinity/*/executed.ipynb", "empty", "train_affinity"),
    ),
    Cut(Strike("random_walk", "driver", False, 0.8), "*/*/run.json", "zeros", "random_walk"),
    Cut(
        Strike("train_segmentation", "driver", True, 0.5),
        *("random_walk/*/labels/*.png", "zeros", "random_walk"),
    ),
    Cut(Strike("evaluate", "driver", False, 0.3), "evaluate/*/executed.ipynb", "half", "evaluate"),
    Cut(Strike("report", "driver", True, 0.8), "evaluate/*/record.jsonl", "zeros", "evaluate"),
    Cut(Strike("report", "driver", False, 0.3), "*/*/delivered.json", "half", "report"),
)


def damage(path, how):
    """Leave of a file what a ``Cut`` says."""
    size = path.stat().st_size
    if how == "zeros":
        path.write_bytes(bytes(size))
    else:
        path.write_bytes(path.read_bytes()[: size // 2 if how == "half" else 0])


def newest(outputs, pattern):
    """The file last written of those that a pattern finds, or None."""
    found = [p for p in outputs.glob(pattern) if not p.name.startswith(".")]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def cuts(place, expected, pace, say, chosen=CUTS):
    chain, faults, known = place.chain("cuts"), [], set()
    for cut in chosen:
        name = f"{cut.pattern}, {cut.how}, at {cut.strike.place}"
        there = partial(newest, chain.seen, cut.pattern)
        life = live(chain, strike=cut.strike, pace=pace, ready=there)
        path = there()
        problems = list(life.faults)
        if not life.struck:
            problems.append("ended before it was struck")
        else:
            kept = path.with_name(f".{path.name}.kept")
            shutil.copy2(path, kept)
            damage(path, cut.how)
            problems += _mended(chain, cut, expected, known)
            if problems:  # so that the next cut is tried on something sound
                if path.parent.exists():
                    shutil.copy2(kept, path)
                live(chain, "--until", cut.until)
            kept.unlink(missing_ok=True)
        say(f"cuts: {name}: {'; '.join(problems) or 'survived'}")
        faults += [f"{name}: {line}" for line in problems]
    life = live(chain)
    faults += life.faults
    faults += [line for line in results.compare(expected, chain) if line not in known]
    return faults + results.still_running(chain)


def _mended(chain, cut, expected, known):
    """Lines about what the next run does not put right, and that no earlier cut is to blame for."""
    life = live(chain, "--until", cut.until)
    found = results.compare(expected, chain, until=cut.until)
    new = [line for line in found if line not in known]
    known.update(new)
    return life.faults + new
