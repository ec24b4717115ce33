"""What ``wsss plan`` says of the built-in dataset's experiment beside what its run then takes:
``python -m benchmarks.planned FOLDER``, some ten minutes on 2 idle cores.

The experiment, with fewer passes, is run on some photos and on twice as many; from these two it is
planned for four times as many, and then run on those.
"""

import argparse
import os
from pathlib import Path

from wsss import datasets, disk, driver, measured, pipeline, plan, report, stages
from wsss.datasets import shapes

SIZES = (1, 2, 4)
TRAIN, VAL = 240, 60  # photos of the first size
PASSES = {"train_cam": 10, "train_affinity": 5, "train_segmentation": 8}


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
    """The experiment's plan on some id lists of a dataset."""
    experiment = pipeline.read_experiment(stages.project_root() / "experiments" / "shapes.yaml")
    changes = {stage: {"epochs": count} for stage, count in PASSES.items()}
    changes |= {"common": names | {"data_root": str(root)}, "evaluate": {"model_name": ""}}
    return experiment, pipeline.plan(experiment, changes)


def compared(forecasts, found, folders):
    """A Markdown table: seconds, bytes and memory of each stage, said and taken."""
    header = ["stage", "said, s", "taken, s", "error", "said, MiB", "taken, MiB", "error"]
    header += ["memory said, MiB", "taken, MiB", "error"]
    rows, sums = [], [0.0] * 4
    for each, (measurement,) in zip(forecasts, found, strict=True):
        pairs = [
            (each.seconds, measurement.work + measurement.rest),
            (each.disk / 2**20, disk.taken(disk.files_of(folders[each.name])) / 2**20),
            (each.memory / 2**20, measurement.memory["process"] / 2**20),
        ]
        sums = [total + value for total, value in zip(sums, sum(pairs[:2], ()), strict=True)]
        rows.append([each.name, *(text for pair in pairs for text in told(*pair))])
    rows.append(["all", *told(*sums[:2]), *told(*sums[2:]), "", "", ""])
    return report.markdown_table(header, rows)


def told(said, taken):
    return f"{said:.1f}", f"{taken:.1f}", f"{100 * (said / taken - 1):+.0f} %"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for data, outputs and the record; empty")
    folder = parser.parse_args().folder.absolute()
    os.environ["WSSS_OUTPUTS"] = str(folder / "outputs")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    root = shapes.generate(folder / "data", train=SIZES[-1] * TRAIN, val=SIZES[-1] * VAL)
    names = [lists(root, size) for size in SIZES]  # all before any run: they are part of the data
    data, largest = datasets.open("shapes", root), SIZES[-1] * TRAIN
    for each in names[:-1]:
        driver.run(*planned(root, each))
    _, first = planned(root, names[0])
    asked = plan.Asked(largest, len(data.classes), os.cpu_count(), 0)
    forecasts = plan.forecast(first, data, asked)
    experiment, last = planned(root, names[-1])
    driver.run(experiment, last)
    found = measured.find(last, data)
    taken = [[m for m in found[item.name] if m.values == item.values] for item in last]
    folders = {item.name: item.folder for item in last}
    print("\n" + compared(forecasts, taken, folders))


if __name__ == "__main__":
    main()
