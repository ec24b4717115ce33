"""What MLflow shows: names of runs, headline scores, an experiment's description and view."""

import json
import time

from wsss.lab import lineage
from wsss.lab.record import mlflow_store

MOST = 3  # changes in a name, which is shown in a narrow column
LONGEST = 24  # characters of a value in a name

# Tags of MLflow's pages. The end of a view's tag is its key, as in ``viewStateShareKey=scores``.
NOTE = "mlflow.note.content"
KIND = "mlflow.experimentKind"
VIEW = "mlflow.sharedViewState.scores"


def title(changes: dict) -> str:
    """What distinguishes a run, such as ``beta 4, flip True``; empty if nothing does.

    Args:
        changes: ``stage.parameter`` (or ``common.parameter``) to value, and ``smoke`` to True for
            the smoke size. Parameters that cannot change results are left out.
    """
    short = {name: name.rpartition(".")[2] for name in changes}
    short = {name: last for name, last in short.items() if last not in lineage.IRRELEVANT}
    parts = []
    for name, last in short.items():
        text = str(changes[name])
        text = text if len(text) <= LONGEST else f"…{text[-LONGEST + 1 :]}"
        label = last if [*short.values()].count(last) == 1 else name
        parts.append(label if name == "smoke" else f"{label} {text}")
    more = [f"+{len(parts) - MOST}"] if len(parts) > MOST else []
    return ", ".join([*parts[:MOST], *more])


def headlines(metrics: dict[str, float], scores: dict[str, tuple[str, str]]) -> dict[str, float]:
    """The scores that MLflow shows first: one per titled metric.

    Args:
        metrics: of a stage, ``metric/list`` to number. If constants were chosen on a part of a
            list, the score on the rest, ``<list>_held_out``, is taken.
        scores: as ``Project.scores``.

    Returns:
        ``title/list`` to percent, rounded to two decimals, since the runs table shows all digits.
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
    with ``columns`` of metrics. Tags that exist stay, since people may have changed them.
    """
    client, experiment_id = mlflow_store.client(), mlflow_store.experiment_id(name)
    wanted = {KIND: "custom_model_development", NOTE: description}
    if columns:
        selected = [f"metrics.`{mlflow_store.metric_name(column)}`" for column in columns]
        # in pixels; only of columns whose order is given
        widths = {"attributes.`Run Name`": 260} | dict.fromkeys(selected, 170)
        state = dict(searchFilter="", startTime="ALL", lifecycleFilter="Active", runsExpanded={})
        state |= dict(orderByKey="attributes.start_time", orderByAsc=False)
        state |= dict(datasetsFilter=[], modelVersionFilter="All Runs")
        state |= dict(selectedColumns=selected, columnOrder=list(widths), columnWidths=widths)
        now = int(1000 * time.time())
        record = {"name": "Scores", "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
        wanted[VIEW] = json.dumps(record)
    present = client.get_experiment(experiment_id).tags
    for tag, value in wanted.items():
        if value and tag not in present:
            client.set_experiment_tag(experiment_id, tag, value)
