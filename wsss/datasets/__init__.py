"""Where photos, image labels and masks come from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsss.datasets import shapes
from wsss.datasets.folder import Folder
from wsss.datasets.voc import Dataset, Devkit
from wsss.errors import InputError, did_you_mean
from wsss.io.artifacts import IGNORE

SHAPES = {"shapes": (240, 60), "shapes_few": (8, 4)}  # photos on the lists train and val
NAMES = (*SHAPES, "voc", "folder")


def open(name: str, root: Path | str) -> Dataset:
    """Open a dataset: ``voc`` (a devkit folder), ``folder`` (your own photos), ``shapes``
    (generated into ``root`` if that is empty) or ``shapes_few`` (likewise, a few, to try an
    experiment). ``root`` is its folder; of ``folder`` also a YAML file that describes it.
    """
    if name == "folder":
        return Folder.open(root)
    if name not in NAMES:
        known = f"{did_you_mean(name, NAMES)}; expected one of: {', '.join(NAMES)}"
        raise InputError(f"dataset '{name}' is not known{known}")
    if name == "voc":
        return Devkit(root)
    train, val = SHAPES[name]
    kit = Devkit(shapes.generate(root, train=train, val=val))
    found = len(kit.ids("train")), len(kit.ids("val"))
    if found != SHAPES[name] and found in SHAPES.values():  # the other one of them
        wanted = f"{train} + {val} photos but found {found[0]} + {found[1]}"
        raise InputError(f"{root}: {name}: expected {wanted}; give it a data_root of its own")
    return kit


def tuning_split(ids: Sequence[str], count: int, *, seed: int = 0) -> tuple[list, list]:
    """Draw ``count`` ids, on which constants are chosen, and the others, on which scores are
    reported; both in the list's order.
    """
    order = np.random.default_rng(seed).permutation(len(ids)).tolist()
    chosen = {ids[place] for place in order[:count]}
    return [each for each in ids if each in chosen], [each for each in ids if each not in chosen]


__all__ = ["IGNORE", "NAMES", "Dataset", "Devkit", "Folder", "open", "tuning_split"]
