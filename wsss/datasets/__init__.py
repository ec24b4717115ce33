"""Where photos, image labels and masks come from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsss.datasets import shapes
from wsss.datasets.folder import Folder
from wsss.datasets.voc import Devkit
from wsss.errors import InputError
from wsss.io.artifacts import IGNORE

NAMES = ("shapes", "shapes_few", "voc", "folder")


Dataset = Devkit | Folder


def open(name: str, root: Path | str) -> Dataset:
    """Open a dataset: an object with ``.classes .ids(split) .image(id) .labels(id) .mask(id)``,
    and ``.masked(ids)``, those that have a mask.

    Args:
        name: ``voc`` (a devkit folder), ``folder`` (your own photos), ``shapes`` (generated into
            ``root`` if that is empty) or ``shapes_few`` (likewise, a few photos, to try whether an
            experiment runs).
        root: its folder; of ``folder`` also a YAML file that describes it.
    """
    if name == "folder":
        return Folder.described(root) if Path(root).suffix in (".yaml", ".yml") else Folder(root)
    if name == "shapes":
        shapes.generate(root)
    elif name == "shapes_few":
        shapes.generate(root, train=8, val=4)
    elif name not in NAMES:
        raise InputError(f"dataset '{name}' is not known; expected one of: {', '.join(NAMES)}")
    return Devkit(root)


def tuning_split(ids: Sequence[str], count: int, *, seed: int = 0) -> tuple[list, list]:
    """Split ids into (tuning, reporting): constants are chosen on the first, scores reported on the
    second.

    ``count`` ids are drawn without replacement, seeded with ``seed``; both keep the list's order.
    """
    chosen = set(np.random.default_rng(seed).permutation(len(ids))[:count].tolist())
    parts = [], []
    for place, photo_id in enumerate(ids):
        parts[place not in chosen].append(photo_id)
    return parts


__all__ = ["IGNORE", "NAMES", "Dataset", "Devkit", "Folder", "open", "tuning_split"]
