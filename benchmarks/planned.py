"""What ``wsss plan`` says of the built-in dataset's experiment beside what its run then takes:
``python -m benchmarks.planned FOLDER``, some minutes a round on 2 idle cores.

The experiment, with fewer passes, is run on some photos, on twice and on four times as many, in
rounds, each with a seed of its own. From the two smaller sizes it is planned for the largest, and
compared with what that took. Of each size the quickest round counts, as in every plan.
"""

import argparse
import os
from pathlib import Path

from wsss import datasets, disk, driver, measured, pipeline, plan, report, stages
from wsss.datasets import shapes

SIZES = (1, 2, 4)
TRAIN, VAL = 120, 30  # photos of the first size
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


def planned(root, names, seed=0):
    """The experiment and its plan on some id lists of a dataset."""
    experiment = pipeline.read_experiment(stages.project_root() / "experiments" / "shapes.yaml")
    changes = {stage: {"epochs": count} for stage, count in PASSES.items()}
    changes |= {
        "common": names | {"data_root": str(root), "seed": seed},
        "evaluate": {"model_name": ""},
    }
    return experiment, pipeline.plan(experiment, changes)


def compared(forecasts, taken):
    """A Markdown table: seconds, bytes and memory of each stage, said and taken.

    Args:
        forecasts: a list of ``plan.Forecast``.
        taken: stage's name to its seconds, bytes and bytes of memory.
    """
    header = ["stage", "said, s", "taken, s", "error", "said, MiB", "taken, MiB", "error"]
    header += ["memory said, MiB", "taken, MiB", "error"]
    rows, sums = [], [0.0] * 4
    for each in forecasts:
        seconds, size, memory = taken[each.name]
        pairs = [
            (each.seconds, seconds),
            (each.disk / 2**20, size / 2**20),
            (each.memory / 2**20, memory / 2**20),
        ]
        sums = [total + value for total, value in zip(sums, sum(pairs[:2], ()), strict=True)]
        rows.append([each.name, *(text for pair in pairs for text in told(*pair))])
    rows.append(["all", *told(*sums[:2]), *told(*sums[2:]), "", "", ""])
    return report.markdown_table(header, rows)


def told(said, taken):
    return f"{said:.1f}", f"{taken:.1f}", f"{100 * (said / taken - 1):+.0f} %"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", type=Path, help="for data, outputs and the record; what it has of them is used"
    )
    parser.add_argument("--rounds", type=int, default=1, help="of all sizes (1)")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    os.environ["WSSS_OUTPUTS"] = str(folder / "outputs")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    root = shapes.generate(folder / "data", train=SIZES[-1] * TRAIN, val=SIZES[-1] * VAL)
    names = [lists(root, size) for size in SIZES]  # all before any run: they are part of the data
    data = datasets.open("shapes", root)
    for seed in range(arguments.rounds):
        for each in names:
            driver.run(*planned(root, each, seed))
        _, last = planned(root, names[-1])
        found = measured.find(last, data)
        split = {item.name: disk.photos_of(item.name, item.values, data) for item in last}
        smaller = {
            name: [each for each in some if each.photos < len(split[name])]
            for name, some in found.items()
        }
        asked = plan.Asked(SIZES[-1] * TRAIN, len(data.classes), os.cpu_count(), 0)
        taken = {}
        for item in last:
            largest = [m for m in found[item.name] if m.photos == len(split[item.name])]
            taken[item.name] = (
                min(m.work for m in largest) + min(m.rest for m in largest),
                disk.taken(disk.files_of(item.folder)),
                max(m.memory["process"] for m in largest),
            )
        forecasts = plan.forecast(last, data, asked, smaller)
        print(f"\n{seed + 1} rounds\n\n{compared(forecasts, taken)}\n", flush=True)


if __name__ == "__main__":
    main()
