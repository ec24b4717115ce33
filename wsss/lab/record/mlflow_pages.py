"""What people see of runs in MLflow's pages: names that tell runs apart, a few figures that come
first, a description with the scores, and a view of the runs table with those figures.
"""

import json
import time

from wsss.lab import lineage
from wsss.lab.record import mlflow_store

MOST = 3  # changes that a name tells; it stands in a narrow column
LONGEST = 24  # characters of a value in a name

# Tags of MLflow's pages. They read a saved view by the end of its tag's name, which is also what
# ``viewStateShareKey=scores`` in an address opens.
NOTE = "mlflow.note.content"
KIND = "mlflow.experimentKind"
VIEW = "mlflow.sharedViewState.scores"


def title(changes):
    """What sets a run apart, such as ``beta 4, flip True``; empty where nothing does.

    Args:
        changes: ``stage.parameter`` (or ``common.parameter``) to value, and ``smoke`` to True at an
            experiment's smoke size. What makes no other experiment is not told.
    """
    told = {
        name: value
        for name, value in changes.items()
        if name.rpartition(".")[2] not in lineage.IRRELEVANT
    }
    short = [name.rpartition(".")[2] for name in told]
    parts = []
    for (name, value), last in zip(told.items(), short, strict=True):
        text = str(value)
        text = text if len(text) <= LONGEST else f"…{text[-LONGEST + 1 :]}"
        label = last if short.count(last) == 1 else name
        parts.append(label if name == "smoke" else f"{label} {text}")
    more = [f"+{len(parts) - MOST}"] if len(parts) > MOST else []
    return ", ".join([*parts[:MOST], *more])


def run_name(first, *parts):
    """A run's name of its parts, those that are empty left out."""
    return " · ".join(filter(None, [first, *parts]))


def headlines(metrics, scores):
    """The scores that come first: of each step the score on one id list, by its title.

    Args:
        metrics: a stage's, ``figure/list`` to number. Where constants were chosen on a part of a
            list, the figure is that of the rest, ``<list>_held_out``.

    Returns:
        name to percent, rounded to two decimals: the runs table shows all that there are.
    """
    found = {}
    for figure, (_, name) in scores.items():
        lists = [metric.partition("/")[2] for metric in metrics if metric.startswith(f"{figure}/")]
        if name and lists:
            best = min(lists, key=lambda split: (not split.endswith("_held_out"), len(split)))
            found[f"{name}/{best}"] = round(metrics[f"{figure}/{best}"], 2)
    return found


def describe_experiment(name, description, columns):
    """Give an experiment its description and a saved view of the runs table, ``Scores``, unless it
    has them: people may change both.

    Args:
        name: of the experiment.
        description: Markdown.
        columns: names of metrics that the view shows.
    """
    client, id = mlflow_store.client(), mlflow_store.experiment_id(name)
    now = int(1000 * time.time())
    wanted = {KIND: "custom_model_development", NOTE: description}
    if columns:
        shown = [f"metrics.`{column}`" for column in columns]
        # the pages take widths, in pixels, of the columns whose order is given
        widths = {"attributes.`Run Name`": 260} | dict.fromkeys(shown, 170)
        state = {
            "searchFilter": "",
            "orderByKey": "attributes.start_time",
            "orderByAsc": False,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
            "selectedColumns": shown,
            "columnOrder": list(widths),
            "columnWidths": widths,
            "runsExpanded": {},
        }
        record = {"name": "Scores", "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
        wanted[VIEW] = json.dumps(record)
    there = client.get_experiment(id).tags
    for tag, value in wanted.items():
        if value and tag not in there:
            client.set_experiment_tag(id, tag, value)
