"""What ``wsss plan`` says of the built-in dataset's experiment beside what its run then takes:
``python -m benchmarks.planned FOLDER``, some minutes on 2 idle cores.

The experiment, with fewer passes, is run on some photos and on twice as many; from these two it is
planned for four times as many, and then run on those. Hours are compared twice: by the clock, which
tells nothing where others use the machine, and by the processor's time, in one thread and by the
same line.
"""

import argparse
import os
import re
import resource
from pathlib import Path

from wsss import datasets
from wsss.cli.project import PROJECT
from wsss.cost import disk_space, forecast, timings
from wsss.datasets import shapes
from wsss.io import text
from wsss.lab import paths, plan
from wsss.lab.run import driver

SIZES = (1, 2, 4)
TRAIN, VAL = 120, 30  # photos of the first size
PASSES = {"train_cam": 6, "train_affinity": 3, "train_segmentation": 4}


def lists(root, size):
    """Write the id lists of a size; returns the parameters that name them."""
    names = {}
    for split, count in (("train", TRAIN), ("val", VAL)):
        names[split] = f"{split}_{size}x"
        path = root / "ImageSets" / "Segmentation" / f"{names[split]}.txt"
        ids = (path.parent / f"{split}.txt").read_text().splitlines()
        path.write_text("".join(f"{id}\n" for id in ids[: size * count]))
    return dict.fromkeys(("train_split", "score_split"), names["train"]) | {
        "val_split": names["val"]
    }


def planned(root, names):
    """The experiment and its plan on some id lists of a dataset."""
    experiment = plan.read_experiment(paths.project_root() / "experiments" / "shapes.yaml")
    changes = {stage: {"epochs": count} for stage, count in PASSES.items()}
    changes |= {"common": names | {"data_root": str(root)}, "evaluate": {"model_name": ""}}
    return experiment, plan.plan(experiment, changes, project=PROJECT)


class Clock:
    """Takes the processor's seconds of each stage, as the driver tells of its end.

    Attributes:
        seconds: stage's name to its seconds, of papermill and of the kernel.
    """

    def __init__(self):
        self.seconds, self._before = {}, self._now()

    def say(self, text):
        print(text, flush=True)
        ended = re.match(r"\[\d+/\d+\] (\w+): done in", text)
        if ended:
            self.seconds[ended[1]] = self._now() - self._before
            self._before = self._now()

    @staticmethod
    def _now():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime


def compared(rows):
    """A Markdown table of what was said and what was taken.

    Args:
        rows: stage's name to four pairs: seconds by the clock, seconds of the processor, bytes on
            the disk, bytes of memory.
    """
    header = ["stage"]
    for what in ("clock, s", "processor, s", "disk, MiB", "memory, MiB"):
        header += [f"{what}: said", "taken", "error"]
    total = [
        tuple(map(sum, zip(*pairs, strict=True))) for pairs in zip(*rows.values(), strict=True)
    ]
    cells = [[name, *(text for pair in rows[name] for text in told(*pair))] for name in rows]
    cells.append(["all", *(text for pair in total[:3] for text in told(*pair)), "", "", ""])
    return text.markdown_table(header, cells)


def told(said, taken):
    return f"{said:.1f}", f"{taken:.1f}", f"{100 * (said / taken - 1):+.0f} %"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for data, outputs and the record; a new one")
    folder = parser.parse_args().folder.absolute()
    os.environ["WSSS_OUTPUTS"] = str(folder / "outputs")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    os.environ["OMP_NUM_THREADS"] = "1"  # several wait for each other on the processor's time
    root = shapes.generate(folder / "data", train=SIZES[-1] * TRAIN, val=SIZES[-1] * VAL)
    names = [lists(root, size) for size in SIZES]  # all before any run: they are part of the data
    data, clocks = datasets.open("shapes", root), []
    for each in names:
        experiment, last = planned(root, each)
        if each == names[-1]:
            asked = forecast.Asked(SIZES[-1] * TRAIN, len(data.classes), os.cpu_count(), 0)
            forecasts = forecast.forecast(last, data, asked)
        clocks.append(Clock())
        driver.run(experiment, last, say=clocks[-1].say, project=PROJECT)
    found, rows = timings.find(last, data), {}
    for item, each in zip(last, forecasts, strict=True):
        largest = max(found[item.name], key=lambda measurement: measurement.photos)
        *smaller, processor = [clock.seconds[item.name] for clock in clocks]
        line = forecast.scaled(list(zip(SIZES, smaller, strict=False)), SIZES[-1])
        rows[item.name] = (
            (each.seconds, largest.start + largest.work + largest.rest),
            (line, processor),
            (each.disk / 2**20, disk_space.taken(disk_space.files_of(item.folder)) / 2**20),
            (each.memory / 2**20, largest.memory["process"] / 2**20),
        )
    print(f"\n{compared(rows)}")


if __name__ == "__main__":
    main()
