"""The paper's tables 1 to 4: our scores, each with its spread, its interval and its runs, beside
the published scores with their marks.
"""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from wsss.errors import InputError
from wsss.io import atomic
from wsss.io.text import csv_table, markdown_table
from wsss.lab import lineage, results
from wsss.lab.record import delivery
from wsss.metrics import iou
from wsss.photos.evaluation import Confusions, load_confusions

TITLES = {
    "table1": "Synthesized labels, image labels given",
    "table2": "Segmentation networks, IoU per class",
    "table3": "Segmentation networks from image labels",
    "table4": "Segmentation networks from image labels and from more",
}


class Score(NamedTuple):
    """A mean IoU in percent over runs that differ only in their seeds."""

    mean: float
    spread: float  # the sample's standard deviation over the seeds, nan for one
    low: float  # end of the mean's 95 % interval over bootstrap samples of the photos
    high: float
    classes: np.ndarray  # float64 (classes,): the mean IoU of each class in percent
    photos: int
    runs: tuple[str, ...]  # the MLflow run ids, one per seed


def score(confusions: Sequence[tuple[str, Confusions]], *, draws: int = 1000) -> Score:
    """The ``Score`` of runs, given as run id and counts, over the same photos; its interval is over
    ``draws`` bootstrap samples of them. Raises InputError if the runs scored different photos.
    """
    run_ids, each = zip(*confusions, strict=True)
    if any(one.ids != each[0].ids for one in each):
        runs = ", ".join(run_ids)
        raise InputError(f"runs {runs} scored different photos; compare runs of one id list")
    photos, square = len(each[0].ids), (each[0].num_classes,) * 2
    whole = np.stack([100 * iou(one.counts.sum(0).reshape(square)) for one in each])
    means = np.nanmean(whole, -1)
    random, drawn = np.random.default_rng(0), []
    for _ in range(draws):
        times = random.multinomial(photos, np.full(photos, 1 / photos))
        counts = np.stack([times @ one.counts for one in each])  # (seeds, C * C)
        drawn.append(np.nanmean(100 * iou(counts.reshape(-1, *square)), -1).mean())
    spread = float(means.std(ddof=1)) if len(means) > 1 else float("nan")
    low, high = map(float, np.percentile(drawn, [2.5, 97.5]))
    return Score(float(means.mean()), spread, low, high, whole.mean(0), photos, run_ids)


def scores(inputs: dict[str, Path]) -> dict[str, Score]:
    """The scores of an experiment at each step, over all seeds that it was run with. Returns dict
    of ``CAM``, ``CAM+RW``, ``CAM+RW+dCRF`` and ``network`` to ``Score``.

    Args:
        inputs: folders of completed runs of infer_cam, random_walk and evaluate. Runs that differ
            from one of them only in seeds (``lineage.siblings``) count too, if MLflow has them as
            finished.
    """
    walk = results.completed(inputs["random_walk"])
    steps = {
        "CAM": ("infer_cam", "cam"),
        "CAM+RW": ("random_walk", "walk"),
        **({"CAM+RW+dCRF": ("random_walk", "labels")} if walk["parameters"]["crf_steps"] else {}),
        "network": ("evaluate", "network"),
    }
    found = {}
    for title, (stage, name) in steps.items():
        confusions = []
        for folder in lineage.siblings(inputs[stage]):
            try:
                file = folder / "confusions" / f"{name}.npz"
                confusions.append((delivery.completed(folder).run_id, load_confusions(file)))
            except InputError as fault:
                if folder == inputs[stage]:
                    raise
                print(f"left out of the tables: {fault}")  # deleted, or not finished
        found[title] = score(confusions)
    return found


def paper(
    found: dict[str, Score], *, backbone: str, classes: Sequence[str], score_on: str, val_on: str
) -> dict[str, pd.DataFrame]:
    """Tables 1 to 4; beside other classes than VOC's no published score, so tables 1 and 2 alone.
    Returns name of each table to a frame; columns ``mark`` (*seen*, *recalled* or *ours*) and
    ``runs`` (MLflow run ids) give the source of each row.

    Args:
        found: from ``scores``.
        backbone: of our networks, for the row's name.
        classes: names of the object classes.
        score_on, val_on: the data of our scores, such as ``shapes train``.
    """
    published = json.loads(resources.files("wsss.report").joinpath("published.json").read_bytes())
    network, row, names = found["network"], f"ours, {backbone}", ["background", *classes]
    labels = [
        {"labels": title, "variant": row, **_ours(value, score_on, "mIoU")}
        for title, value in found.items()
        if title != "network"
    ]
    per_class = dict(zip(names, network.classes, strict=True)) | _ours(network, val_on, "mean")
    ours = {"network": row, "supervision": "image labels", **_ours(network, val_on, "val")}
    contents = {
        "table1": (labels, ["labels", "variant", "data", "mIoU"]),
        "table2": ([{"network": row, **per_class}], ["network", "data", *names, "mean"]),
        "table3": ([ours], ["network", "data", "val", "test"]),
        "table4": ([ours], ["supervision", "extra", "network", "data", "val", "test"]),
    }
    if names != published["classes"]:
        published, contents = {}, {name: contents[name] for name in ("table1", "table2")}
    for entry in published.get("table2", ()):
        figures = entry.pop("iou")
        entry |= dict(zip(names, figures, strict=True)) | {"mean": float(np.mean(figures))}
    tables, last = {}, ["spread", "95 % interval", "mark", "source", "runs"]
    for name, (rows, columns) in contents.items():
        given = {"data": "VOC 2012 train (1464)" if name == "table1" else "VOC 2012", "source": ""}
        frame = pd.DataFrame([*(given | entry for entry in published.get(name, ())), *rows])
        tables[name] = frame[[column for column in columns + last if column in frame]]
    return tables


def _ours(value, data, column):
    return {
        "data": f"{data} ({value.photos})",
        column: value.mean,
        "spread": value.spread,
        "95 % interval": f"{value.low:.1f} to {value.high:.1f}",
        "mark": "ours",
        "runs": " ".join(value.runs),
    }


def write(tables: dict[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Write each table as ``<name>.md``, ``.tex`` and ``.csv``; returns the paths."""
    paths = []
    for name, frame in tables.items():
        style = _short(frame).style.hide(axis="index")
        style.format(escape="latex").format_index(escape="latex", axis=1)
        texts = {
            "md": f"**{TITLES[name]}** (mIoU in percent)\n\n{markdown(frame)}\n",
            "tex": style.to_latex(hrules=True, caption=TITLES[name], label=f"tab:{name}"),
            "csv": csv_table(frame),
        }
        for suffix, text in texts.items():
            paths.append(folder / f"{name}.{suffix}")
            atomic.write_text(paths[-1], text)
    return paths


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table."""
    return markdown_table(frame.columns, _short(frame).values.tolist())


def _short(frame):
    """Cells as text; run ids cut to the eight characters that distinguish them."""
    texts = frame.astype(object).fillna("")
    texts = texts.map(lambda cell: f"{cell:.1f}" if isinstance(cell, float) else str(cell))
    return texts.assign(runs=[" ".join(run[:8] for run in runs.split()) for runs in texts["runs"]])
