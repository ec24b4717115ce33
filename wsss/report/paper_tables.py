"""The paper's tables 1 to 4: our scores, each with its spread, its interval and its runs, beside
the published figures with their marks.
"""

import json
from importlib import resources
from typing import NamedTuple

import numpy as np
import pandas as pd

from wsss.errors import InputError
from wsss.io import atomic
from wsss.io.text import markdown_table
from wsss.lab import lineage, results
from wsss.lab.record import finished_runs
from wsss.metrics import iou
from wsss.photos.evaluation import load_confusions

TITLES = {
    "table1": "Synthesized labels, image labels given",
    "table2": "Segmentation networks, IoU a class",
    "table3": "Segmentation networks from image labels",
    "table4": "Segmentation networks from image labels and from more",
}
SUPERVISION = {
    "I": "image labels",
    "P": "points",
    "S": "scribbles",
    "B": "boxes",
    "F": "masks",
}


class Score(NamedTuple):
    """A mean IoU in percent over runs that differ in nothing but their seeds.

    Attributes:
        mean, spread: over the seeds; the spread is the sample's standard deviation, nan for one.
        low, high: the 95 % interval of the mean when photos are drawn with replacement.
        classes: the mean IoU of each class in percent, float64 (classes,).
        photos: how many.
        runs: the MLflow run ids, one a seed.
    """

    mean: float
    spread: float
    low: float
    high: float
    classes: np.ndarray
    photos: int
    runs: tuple


def score(confusions, *, draws=1000, seed=0):
    """The ``Score`` of runs over the same photos.

    Args:
        confusions: (run id, ``Confusions``) of each run.
        draws: of as many photos, with replacement, for the interval.
        seed: of the draws.

    Raises:
        InputError: the runs scored other photos.
    """
    run_ids, each = zip(*confusions, strict=True)
    if any(one.ids != each[0].ids for one in each):
        raise InputError(
            f"runs {', '.join(run_ids)} scored different photos; compare runs of one id list"
        )
    photos, square = len(each[0].ids), (each[0].num_classes,) * 2
    whole = np.stack([100 * iou(one.counts.sum(0).reshape(square)) for one in each])
    means = np.nanmean(whole, -1)
    random, drawn = np.random.default_rng(seed), []
    for _ in range(draws):
        times = random.multinomial(photos, np.full(photos, 1 / photos))
        counts = np.stack([times @ one.counts for one in each])  # (seeds, C * C)
        drawn.append(np.nanmean(100 * iou(counts.reshape(-1, *square)), -1).mean())
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Score(
        mean=float(means.mean()),
        spread=float(means.std(ddof=1)) if len(means) > 1 else float("nan"),
        low=float(low),
        high=float(high),
        classes=whole.mean(0),
        photos=photos,
        runs=run_ids,
    )


def scores(inputs):
    """The scores of an experiment at each step, over all seeds that it was run with.

    Args:
        inputs: folders of completed runs of infer_cam, random_walk and evaluate; with each count
            those that differ from it only in seeds (``stages.siblings``) and that MLflow holds as
            finished.

    Returns:
        dict of ``CAM``, ``CAM+RW``, ``CAM+RW+dCRF`` and ``network`` to ``Score``.
    """
    steps = {
        "CAM": ("infer_cam", "cam"),
        "CAM+RW": ("random_walk", "walk"),
        "CAM+RW+dCRF": ("random_walk", "labels"),
        "network": ("evaluate", "network"),
    }
    found = {}
    for title, (stage, name) in steps.items():
        confusions = []
        for folder in lineage.siblings(inputs[stage]):
            try:
                run = finished_runs.completed(folder)
                counted = load_confusions(folder / "confusions" / f"{name}.npz")
            except InputError as fault:
                if folder == inputs[stage]:
                    raise
                print(f"left out of the tables: {fault}")  # deleted, or not finished
                continue
            confusions.append((run.run_id, counted))
        found[title] = score(confusions)
    if results.completion(inputs["random_walk"])["parameters"]["crf_steps"] == 0:
        del found["CAM+RW+dCRF"]
    return found


def paper(found, *, backbone, classes, score_on, val_on):
    """Tables 1 to 4 as data frames.

    Args:
        found: from ``scores``.
        backbone: of our networks, for the row's name.
        classes: names of the object classes.
        score_on, val_on: what our scores were made on, such as ``shapes train``.

    Returns:
        dict of ``table1`` to ``table4`` to a frame; columns ``mark`` (*seen*, *recalled* or *ours*)
        and ``runs`` (MLflow run ids) say where each row comes from.
    """
    published = json.loads(resources.files("wsss.report").joinpath("published.json").read_text())
    network, row = found["network"], f"ours, {backbone}"
    labels = [
        {
            "labels": entry["method"],
            "variant": entry.get("variant"),
            "data": "VOC 2012 train (1464)",
            "mIoU": entry["miou"],
            **_mark(entry),
        }
        for entry in published["label_synthesis_voc12_train"]
    ] + [
        {"labels": title, "variant": row, **_ours(value, score_on, "mIoU")}
        for title, value in found.items()
        if title != "network"
    ]
    names = ["background", *classes]
    per_class = [
        {
            "network": entry["method"],
            "data": f"VOC 2012 {entry['split']}",
            **dict(zip(published["per_class_order"], entry["iou"], strict=True)),
            "mean": float(np.mean(entry["iou"])),
            **_mark(entry),
        }
        for entry in published["per_class_voc12"]
        if names == published["per_class_order"]  # other classes have no place beside VOC's
    ] + [
        {
            "network": row,
            **dict(zip(names, network.classes, strict=True)),
            **_ours(network, val_on, "mean"),
        }
    ]
    image_labels = [_network(entry) for entry in published["image_label_methods_voc12"]] + [
        {"network": row, **_ours(network, val_on, "val")}
    ]
    stronger = [
        {"supervision": SUPERVISION[entry["supervision"]], "extra": entry.get("extra")}
        | _network(entry)
        for entry in published["stronger_supervision_voc12"]
    ] + [{"supervision": SUPERVISION["I"], "network": row, **_ours(network, val_on, "val")}]
    tables = {}
    for name, rows in zip(TITLES, (labels, per_class, image_labels, stronger), strict=True):
        frame = pd.DataFrame(rows)
        last = [c for c in ("spread", "95 % interval", "mark", "source", "runs") if c in frame]
        tables[name] = frame[[c for c in frame if c not in last] + last]
    return tables


def _mark(entry):
    return {"mark": entry["status"], "source": entry.get("source")}


def _network(entry):
    return {
        "network": entry["method"],
        "data": "VOC 2012",
        "val": entry.get("val"),
        "test": entry.get("test"),
        **_mark(entry),
    }


def _ours(value, data, column):
    return {
        "data": f"{data} ({value.photos})",
        column: value.mean,
        "spread": value.spread,
        "95 % interval": f"{value.low:.1f} to {value.high:.1f}",
        "mark": "ours",
        "runs": " ".join(value.runs),
    }


def write(tables, folder):
    """Each table as ``<name>.md``, ``.tex`` and ``.csv``; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, frame in tables.items():
        texts = {
            ".md": f"**{TITLES[name]}** (mIoU in percent)\n\n{markdown(frame)}\n",
            ".tex": latex(frame, name),
            ".csv": frame.to_csv(index=False),
        }
        for suffix, text in texts.items():
            path = folder / f"{name}{suffix}"
            with atomic.write(path) as partial:
                partial.write_text(text)
            paths.append(path)
    return paths


def _text(value):
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _short(frame):
    """Cells as text; run ids cut to the eight characters that tell them apart."""
    frame = frame.map(_text)
    frame["runs"] = [" ".join(run[:8] for run in runs.split()) for runs in frame["runs"]]
    return frame


def markdown(frame):
    """A frame as a Markdown table."""
    return markdown_table(frame.columns, _short(frame).values.tolist())


def latex(frame, name):
    """A frame as a LaTeX table of that label."""
    frame = _short(frame)
    text = (
        frame.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    )
    return text.to_latex(hrules=True, caption=TITLES[name], label=f"tab:{name}")
