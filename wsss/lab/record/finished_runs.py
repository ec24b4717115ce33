"""Completed stages as MLflow holds them: what reports and tables are made of."""

from contextlib import suppress
from typing import NamedTuple

import pandas as pd
from mlflow.entities import RunStatus

from wsss.errors import InputError, masked
from wsss.lab import results
from wsss.lab.record import delivery, mlflow_store


class Completed(NamedTuple):
    """A completed stage as MLflow holds it."""

    run_id: str
    metrics: dict
    iou: pd.DataFrame | None  # its IoU table, where it logged one
    record: dict  # what ``complete`` wrote
    tags: dict  # of the run


def completed(folder):
    """The completed stage in a folder, its figures read from MLflow.

    Raises:
        InputError: no completed stage there, or its run is not FINISHED in MLflow.
    """
    record = results.completion(folder)
    if record is None:
        raise InputError(f"{folder}: no completed stage here; run it first")
    with suppress(delivery.StoreUnavailable):  # told by what follows
        delivery.deliver(folder)
    run_id = delivery.run_of(folder)
    run = run_id and mlflow_store.find_run(run_id)
    if not run or delivery.waiting(folder):
        raise InputError(
            masked(
                f"{folder}: its record is not in {mlflow_store.tracking_uri()} yet; start the "
                "server, or set MLFLOW_TRACKING_URI to where it is, and give the same command again"
            )
        )
    if run.info.status != RunStatus.to_string(RunStatus.FINISHED):
        raise InputError(f"run {run_id} is {run.info.status}, not FINISHED; run its stage again")
    return Completed(run_id, run.data.metrics, mlflow_store.iou_table(run), record, run.data.tags)
