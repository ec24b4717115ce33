"""MLflow's tracking store: its address, creation and reading."""

import logging
import os
import re
from pathlib import Path

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # would break our own
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # at the end of each run
# Notice an unavailable server in seconds, not in MLflow's minutes: readers are people who wait, and
# writers keep their record on disk.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

import mlflow
import pandas as pd
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from wsss.errors import InputError, did_you_mean, masked, reason
from wsss.io import atomic
from wsss.io.locks import lock_of
from wsss.lab import paths

SQLITE = "sqlite:///"  # of a URI, before the database's path

for logger in ("mlflow.store.db.utils", "alembic"):
    logging.getLogger(logger).setLevel(logging.WARNING)


def tracking_uri() -> str:
    """Where runs are recorded: MLFLOW_TRACKING_URI, or ``mlflow.db`` in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{paths.project_root() / 'mlflow.db'}"


def client() -> MlflowClient:
    """A client of the tracking store, which is created on first use."""
    database = _database()
    if database and not database.exists():
        _create(database)
    mlflow.set_tracking_uri(tracking_uri())
    return MlflowClient()


def _database():
    """The store's SQLite file, or None if it is a server."""
    uri = tracking_uri()
    if not uri.startswith(SQLITE):
        return None
    return Path(uri.removeprefix(SQLITE).partition("?")[0])


def _create(database):
    """Create a missing database with MLflow's tables atomically: MLflow cannot open a database with
    some of its tables, as a killed process would leave.
    """
    with lock_of(database, "creation"):
        if database.exists():  # created by another process meanwhile
            return
        for leftover in database.parent.glob(f".{database.name}.*.partial*"):
            leftover.unlink()
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # slow to import

        with atomic.write(database) as partial:
            SqlAlchemyStore(f"{SQLITE}{partial}", _artifact_folder(database)).engine.dispose()


def _artifact_folder(database):
    return (database.resolve().parent / "mlartifacts").as_uri()


def experiment_id(name: str) -> str:
    """The id of an MLflow experiment, created if needed."""
    found = client().get_experiment_by_name(name)
    if found:
        return found.experiment_id
    database = _database()
    folder = _artifact_folder(database) if database else None  # a server has its own
    try:
        return client().create_experiment(name, artifact_location=folder)
    except mlflow.MlflowException as fault:
        if fault.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return experiment_id(name)  # another process created it


def unreachable(fault: Exception) -> str:
    """One line for a store that does not answer."""
    uri, cause = tracking_uri(), reason(fault)[:200]
    if re.search(r"failed with error code 40[13]\b", reason(fault)):
        return masked(
            f"the tracking server {uri} does not let this user in ({cause}); set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to those of one who may record"
        )
    return masked(
        f"the tracking store {uri} does not answer ({cause}); start its server, or set "
        "MLFLOW_TRACKING_URI to where it is"
    )


def find_run(run_id: str) -> Run | None:
    """A run of the store, or None if there is none of that id or it was deleted; InputError if the
    store does not answer.
    """
    try:
        run = client().get_run(run_id)
    except mlflow.MlflowException as fault:
        missing = re.search("not found|does not exist|no such", str(fault), re.IGNORECASE)
        if missing or fault.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise InputError(unreachable(fault)) from None
    return run if run.info.lifecycle_stage == "active" else None


def model_version(uri: str) -> str:
    """``models:/NAME/VERSION`` of ``models:/NAME``, the newest; InputError if there is no such
    model or version. Other addresses, such as ``models:/NAME@ALIAS``, are returned unchanged.
    """
    name, _, version = uri.removeprefix("models:/").partition("/")
    if "@" in name or name.startswith("m-"):  # an alias; a logged model's own id
        return uri
    try:
        found = client().search_model_versions(f"name = '{name}'")
        known = sorted(int(each.version) for each in found)
        names = [each.name for each in client().search_registered_models()]
    except mlflow.MlflowException as fault:
        raise InputError(unreachable(fault)) from None
    if known and version in ("", "latest", *map(str, known)):
        return f"models:/{name}/{version if version.isdecimal() else known[-1]}"
    versions = ", ".join(map(str, known))
    there = f"it has the versions {versions}" if known else f"the models are: {', '.join(names)}"
    close = did_you_mean(name, names) if not known else ""
    raise InputError(masked(f"{uri}: not in {tracking_uri()}{close}; {there}"))


def artifacts(uri: str) -> Path:
    """The local folder of ``runs:/ID/PATH`` or ``models:/NAME/VERSION``, downloaded if the store is
    remote; InputError if there is no such run, model or path.
    """
    try:
        client()  # sets the store
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except (mlflow.MlflowException, OSError) as error:
        fault = f"{uri}: not in {tracking_uri()} ({reason(error)}); check the name"
        raise InputError(masked(fault)) from None


def iou_table(run: Run) -> pd.DataFrame | None:
    """A run's IoU table, if it logged one."""
    if "iou.json" not in [item.path for item in client().list_artifacts(run.info.run_id)]:
        return None
    return client().load_table(run.info.experiment_id, "iou.json", [run.info.run_id])
