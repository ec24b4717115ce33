"""Completed stages as MLflow holds them, for reports and tables."""

from contextlib import suppress
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
    """The completed stage in a folder, with its metrics of MLflow; InputError if there is none, or
    its run is not FINISHED in MLflow.
    """
    record = results.completion(folder)
    if record is None:
        raise InputError(f"{folder}: no completed stage here; run it first")
    with suppress(delivery.StoreUnavailable):  # reported below
        delivery.deliver(folder)
    run_id = delivery.run_of(folder)
    run = mlflow_store.find_run(run_id) if run_id else None
    if run_id is None or run is None or delivery.waiting(folder):
        uri = masked(mlflow_store.tracking_uri())
        raise InputError(
            f"{folder}: its record is not in {uri} yet; start the server, or set "
            "MLFLOW_TRACKING_URI to where it is, and give the same command again"
        )
    if run.info.status != "FINISHED":
        raise InputError(f"run {run_id} is {run.info.status}, not FINISHED; run its stage again")
    return Completed(run_id, run.data.metrics, mlflow_store.iou_table(run), record, run.data.tags)
