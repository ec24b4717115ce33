"""The scores of a sweep side by side: a table, a figure, and a run in MLflow."""

import hashlib
import json
import time

import numpy as np
import pandas as pd

from wsss.io import atomic
from wsss.io.text import csv_table, markdown_table
from wsss.lab import paths
from wsss.lab.project import Project, Say
from wsss.lab.record import delivery, provenance
from wsss.lab.record.journal import Journal


def compare(
    experiment: dict,
    rows: list[dict],
    *,
    names: list[str],
    given: list,
    project: Project,
    say: Say = print,
    common: dict | None = None,
) -> str:
    """Write, draw and log the means and standard deviations over seeds; returns a Markdown table.

    Args:
        rows: a dict per run: ``seed``, the scores, and ``names``, which distinguish the points.
        given: what else makes this a different sweep, such as overrides.
        common: parameter values to keep beside the table if no stage's run holds them.
    """
    table = pd.DataFrame(rows)
    measured = [str(name) for name in table if "/" in str(name)]
    scores = [each for kind in project.scores for each in measured if each.split("/")[0] == kind]
    grouped = table.groupby(names or (lambda row: 0), sort=False, dropna=False)
    mean, spread = pd.DataFrame(grouped[scores].mean()), pd.DataFrame(grouped[scores].std())
    for name in scores:
        stage, _ = project.scores[name.split("/")[0]]
        if stage in table:  # a run that all seeds share has no spread
            spread.loc[grouped[stage].nunique() <= 1, name] = np.nan
    cells = mean.map("{:.2f}".format) + spread.map(" ± {:.2f}".format).where(spread.notna(), "")
    cells = cells.reset_index() if names else cells
    text = markdown_table(cells.columns, cells.values.tolist())
    points = {name: table[name].tolist() for name in [*names, "seed"]}
    identity = [experiment["name"], given, points]
    digest = hashlib.blake2b(json.dumps(identity, default=str).encode(), digest_size=6).hexdigest()
    folder = paths.outputs_root() / "sweeps" / f"{experiment['name']}-{digest}"
    atomic.write_text(folder / "sweep.md", text + "\n")
    atomic.write_text(folder / "sweep.csv", csv_table(table))
    if common:
        atomic.save_json(folder / "parameters.json", common)
    if scores and names:
        last = [name for name in scores if name.split("/")[0] == scores[-1].split("/")[0]]
        # constants are chosen on the photos set apart for it, if any
        chosen = next((name for name in last if name.endswith("_tuning")), last[0])
        best = mean.reset_index().iloc[[mean[chosen].argmax()]]
        point = ", ".join(f"{name} {best[name].iloc[0]}" for name in names)
        say(f"highest {chosen}: {best[chosen].iloc[0]:.2f} at {point}")
        if project.draw_sweep:
            figure = project.draw_sweep(mean[[chosen]].reset_index(), names, chosen)
            figure.savefig(folder / "sweep.png", dpi=150)
    means = {}
    if not names:
        pair = {"mean": mean, "spread": spread.dropna(axis="columns")}  # no spread for one run
        means = {f"{key} {name}": of.iloc[0][name] for key, of in pair.items() for name in of}
    _record(experiment["name"], names, folder, means, say)
    say(f"written to {folder}")
    return text


def _record(experiment, names, folder, means, say):
    """Log a run in MLflow with the comparison's files and, for seeds alone, the means."""
    journal = Journal(folder, fresh=True)
    title = f"sweep of {', '.join(names) or 'seeds'} {time.strftime('%Y-%m-%d %H:%M')}"
    tags = {"wsss.experiment": experiment, "wsss.sweep": "true"} | provenance.tags()
    journal.begin(experiment, title, tags=tags)
    for name in ("sweep.md", "sweep.csv", "sweep.png", "parameters.json"):
        if (folder / name).exists():
            journal.file(folder / name)
    journal.metrics(means)
    journal.end("FINISHED")
    with delivery.Uploader(say) as uploader:
        uploader.watch(folder)
