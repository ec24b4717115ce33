"""Completed stages as MLflow holds them, for reports and tables."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from wsss.errors import InputError, masked
from wsss.lab import results
from wsss.lab.record import delivery, mlflow_store


class Completed(NamedTuple):
    """A completed stage as MLflow holds it."""

    run_id: str
    metrics: dict[str, float]
    iou: pd.DataFrame | None  # its IoU table, if it logged one
    record: dict  # of ``results.completion``
    tags: dict[str, str]


def completed(folder: Path) -> Completed:
    """The completed stage in a folder, with its metrics of MLflow; InputError if there is none, its
    run is not FINISHED in MLflow, or has other metrics than the folder's record.
    """
    record = results.completion(folder)
    if record is None:
        raise InputError(f"{folder}: no completed stage here; run it first")
    try:
        delivery.deliver(folder)
    except delivery.StoreUnavailable as fault:
        again = "then give the same command again"
        raise InputError(f"{folder}: its record is not in MLflow yet: {fault}; {again}") from None
    run_id = delivery.run_of(folder)
    run = mlflow_store.find_run(run_id) if run_id else None
    if run_id is None or run is None or delivery.waiting(folder):
        uri = masked(mlflow_store.tracking_uri())
        raise InputError(f"{folder}: its record is not in {uri} yet; `wsss run` delivers it")
    if run.info.status != "FINISHED":
        raise InputError(f"run {run_id} is {run.info.status}, not FINISHED; run its stage again")
    names = {mlflow_store.metric_name(name): name for name in record["metrics"]}
    metrics = {names.get(name, name): value for name, value in run.data.metrics.items()}
    for name, value in record["metrics"].items():
        if value == value and metrics.get(name) != value:  # NaN is no number to compare
            raise InputError(
                f"{folder}: {results.COMPLETE} has {name} {value}, and its run {run_id} in MLflow "
                f"{metrics.get(name)}; delete the folder and run its stage again"
            )
    return Completed(run_id, metrics, mlflow_store.iou_table(run), record, run.data.tags)
