"""What MLflow shows: names of runs, headline scores, an experiment's description and view."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress

from wsss.errors import InputError, masked
from wsss.lab import lineage
from wsss.lab.record import mlflow_store

MOST, LONGEST = 3, 24  # changes in a name, and characters of a value: a column is narrow
# Tags of MLflow's pages. The end of a view's tag is its key, as in ``viewStateShareKey=scores``.
LOCAL = "http://127.0.0.1:5000"  # of `make ui`
NOTE = "mlflow.note.content"
VIEW = "mlflow.sharedViewState.scores"
QUERY = "workflowType=machine_learning&viewStateShareKey=scores"  # of a page's address
LOSS = "metrics.`loss`"  # the column that rows of trainings fill
MOST_COLUMNS = 20  # a tag holds 5,000 characters


def title(changes: dict) -> str:
    """What distinguishes a run, such as ``beta 4, flip True``, by ``stage.parameter`` to value."""
    names = [name for name in changes if name.rpartition(".")[2] not in lineage.IRRELEVANT]
    lasts, parts = [name.rpartition(".")[2] for name in names], []
    for name, last in zip(names, lasts, strict=True):
        text = str(changes[name])
        text = text if len(text) <= LONGEST else f"…{text[-LONGEST + 1 :]}"
        label = last if lasts.count(last) == 1 else name
        parts.append(label if name == "smoke" else f"{label} {text}")
    parts[MOST:] = [f"+{len(parts) - MOST}"] if len(parts) > MOST else []
    return ", ".join(parts)


def headlines(metrics: dict[str, float], scores: Mapping[str, tuple[str, str]]) -> dict[str, float]:
    """The scores that MLflow shows first, ``title/list`` to percent with two decimals: one per
    metric of a stage, ``metric/list``, that has a title in ``Project.scores``. If constants were
    chosen on a part of a list, it is the score on the rest, ``<list>_held_out``.
    """
    found = {}
    for metric, (_, name) in scores.items():
        lists = [key.partition("/")[2] for key in metrics if key.startswith(f"{metric}/")]
        if name and lists:
            best = min(lists, key=lambda split: (not split.endswith("_held_out"), len(split)))
            found[f"{name}/{best}"] = round(metrics[f"{metric}/{best}"], 2)
    return found


def describe_experiment(name: str, description: str, *, columns: list[str]) -> None:
    """Give an experiment its description (Markdown) and a saved view of the runs table, ``Scores``,
    with ``columns`` of metrics beside those that it has, and the loss. What people changed stays.
    """
    client, experiment_id = mlflow_store.client(), mlflow_store.experiment_id(name)
    present = client.get_experiment(experiment_id).tags
    wanted = {"mlflow.experimentKind": "custom_model_development", NOTE: description}
    wanted = {tag: text for tag, text in wanted.items() if text and tag not in present}
    now = int(1000 * time.time())
    record = {"name": "Scores", "createdAt": now, "updatedAt": now}
    record |= json.loads(present.get(VIEW, "{}"))
    if record["updatedAt"] == record["createdAt"]:  # nobody saved another in its place
        before = json.loads(record.get("state", '{"selectedColumns": []}'))["selectedColumns"]
        before += [f"metrics.`{mlflow_store.metric_name(column)}`" for column in columns]
        selected = [*sorted({*before} - {LOSS})[:MOST_COLUMNS], LOSS]
        # in pixels; only of columns whose order is given
        widths = {"attributes.`Run Name`": 190} | dict.fromkeys(selected, 140) | {LOSS: 70}
        state = dict(searchFilter="", startTime="ALL", lifecycleFilter="Active", runsExpanded={})
        state |= dict(orderByKey="attributes.start_time", orderByAsc=False)
        state |= dict(datasetsFilter=[], modelVersionFilter="All Runs")
        state |= dict(selectedColumns=selected, columnOrder=[*widths], columnWidths=widths)
        wanted[VIEW] = json.dumps(record | {"state": json.dumps(state)})
    for tag, value in wanted.items():
        if value != present.get(tag):
            client.set_experiment_tag(experiment_id, tag, value)


def address(experiment: str) -> str:
    """Where a browser shows the view of an experiment: on the tracking server, or on the one that
    ``make ui`` starts; its first page if the store does not answer or has no such experiment.
    """
    uri = masked(mlflow_store.tracking_uri()).replace("***@", "")
    server = uri.rstrip("/") if uri.startswith("http") else LOCAL
    with suppress(InputError), mlflow_store.one_line_errors():
        if found := mlflow_store.client().get_experiment_by_name(experiment):
            return f"{server}/#/experiments/{found.experiment_id}/runs?{QUERY}"
    return server


def addresses() -> str:
    """A line with name and address for each experiment that has runs, the latest first."""
    client, started = mlflow_store.client(), {}
    for each in client.search_experiments():
        order = ["attributes.start_time DESC"]
        for run in client.search_runs([each.experiment_id], max_results=1, order_by=order):
            started[each.name] = run.info.start_time
    names = sorted(started, key=lambda name: -started[name])
    return "\n".join(f"{name}: {address(name)}" for name in names) or address("")
