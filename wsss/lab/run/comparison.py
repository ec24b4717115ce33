"""The scores of a sweep side by side: a table, a figure, and a run in MLflow."""

import hashlib
import json
import time

import numpy as np
import pandas as pd

from wsss.io import atomic
from wsss.io.text import markdown_table
from wsss.lab import paths
from wsss.lab.record import delivery, provenance
from wsss.lab.record.journal import Journal


def compare(experiment, rows, names, given, *, project, say=print, common=None):
    """Write, draw and log the means and spreads over seeds.

    Args:
        experiment: the experiment's dict.
        rows: a dict per run: the columns ``names``, ``seed`` and the scores.
        names: columns that tell the points apart.
        given: what else makes this a different sweep, such as overrides.
        project: the ``Project`` that names the compared scores.
        say: receives the messages.
        common: parameter values to keep beside the table where no stage's run holds them.

    Returns:
        the table as Markdown.
    """
    table = pd.DataFrame(rows)
    order = list(project.scores)
    scores = sorted(
        (name for name in table if "/" in name), key=lambda name: order.index(name.split("/")[0])
    )
    mean, spread = _over_seeds(table, names, scores, project)
    text = _markdown(mean, spread, names)
    identity = [experiment["name"], given, table[[*names, "seed"]].to_dict("list")]
    digest = hashlib.blake2b(json.dumps(identity, default=str).encode(), digest_size=6).hexdigest()
    folder = paths.outputs_root() / "sweeps" / f"{experiment['name']}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic.write(folder / "sweep.md") as partial:
        partial.write_text(text + "\n")
    with atomic.write(folder / "sweep.csv") as partial:
        table.to_csv(partial, index=False)
    if common:
        atomic.save_json(folder / "parameters.json", common)
    if scores and names:
        last = [name for name in scores if name.split("/")[0] == scores[-1].split("/")[0]]
        # where photos were set apart to choose constants on, choose by these
        chosen = next((name for name in last if name.endswith("_tuning")), last[0])
        best = mean[chosen].idxmax()
        at = dict(zip(names, best if len(names) > 1 else [best], strict=True))
        point = ", ".join(f"{name} {value}" for name, value in at.items())
        say(f"highest {chosen}: {mean[chosen].max():.2f} at {point}")
        if project.draw_sweep:
            figure = project.draw_sweep(mean[chosen].reset_index(), names, chosen)
            figure.savefig(folder / "sweep.png", dpi=150)
    means = {}
    if not names:
        means = {f"mean {name}": mean[name].iloc[0] for name in scores}
        if len(table) > 1:
            spreads = {f"spread {name}": spread[name].iloc[0] for name in scores}
            means |= {name: value for name, value in spreads.items() if not np.isnan(value)}
    _record(experiment["name"], names, folder, means, say)
    say(f"written to {folder}")
    return text


def _over_seeds(table, names, scores, project):
    """Means and standard deviations of the scores, a row per point."""
    grouped = table.groupby(names, sort=False, dropna=False) if names else None
    mean = grouped[scores].mean() if names else table[scores].mean().to_frame().T
    spread = grouped[scores].std() if names else table[scores].std().to_frame().T
    for name in scores:
        stage, _ = project.scores[name.split("/")[0]]
        if stage in table:  # one run that all seeds share has no spread
            runs = grouped[stage].nunique() if names else table[[stage]].nunique()
            spread[name] = spread[name].where(runs.to_numpy() > 1)
    return mean, spread


def _markdown(mean, spread, names):
    cells = mean.map(lambda value: f"{value:.2f}") + spread.map(
        lambda value: "" if np.isnan(value) else f" ± {value:.2f}"
    )
    cells = cells.reset_index() if names else cells
    return markdown_table(cells.columns, cells.values.tolist())


def _record(experiment, names, folder, means, say):
    """Log a run in MLflow with the comparison's files and, over seeds alone, the means."""
    journal = Journal(folder, fresh=True)
    when = time.strftime("%Y-%m-%d %H:%M")
    tags = {"wsss.experiment": experiment, "wsss.sweep": "true"} | provenance.tags()
    journal.begin(experiment, f"sweep of {', '.join(names) or 'seeds'} {when}", tags)
    for name in ("sweep.md", "sweep.csv", "sweep.png", "parameters.json"):
        if (folder / name).exists():
            journal.file(folder / name)
    journal.metrics(means)
    journal.end("FINISHED")
    with delivery.Uploader(say) as uploader:
        uploader.watch(folder)
