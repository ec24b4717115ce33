"""MLflow's tracking store: where it is, and what of it is read."""

import logging
import os
import re
from pathlib import Path

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # its lines break ours
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # at the end of each run
# Who reads waits for a person, and who writes keeps what cannot be delivered: a server that is away
# should be noticed in seconds, not in the minutes that these are by default.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

import mlflow
from mlflow.tracking import MlflowClient

from wsss.errors import InputError, masked
from wsss.io import atomic
from wsss.io.locks import lock_of
from wsss.lab import paths

SQLITE = "sqlite:///"  # of a URI, before the database's path

logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)


def tracking_uri():
    """Where runs are recorded: MLFLOW_TRACKING_URI, or ``mlflow.db`` in the repository."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{paths.project_root() / 'mlflow.db'}"


def client():
    """A client of the tracking store, which is created on first use."""
    if database := _database():
        _create(database)
    mlflow.set_tracking_uri(tracking_uri())
    return MlflowClient()


def _database():
    """The file that the store is, or None where it is a server's."""
    uri = tracking_uri()
    if not uri.startswith(SQLITE):
        return None
    return Path(uri.removeprefix(SQLITE).partition("?")[0])


def _create(database):
    """Make a database with MLflow's tables where there is none, whole or not at all: a process that
    is killed while MLflow makes them leaves one that MLflow never opens again.
    """
    if database.exists():
        return
    with lock_of(database, "creation"):
        if database.exists():  # by now
            return
        for leftover in database.parent.glob(f".{database.name}.*.partial*"):
            leftover.unlink()
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # slow to import

        with atomic.write(database) as partial:
            SqlAlchemyStore(f"{SQLITE}{partial}", _artifact_folder(database)).engine.dispose()


def _artifact_folder(database):
    """Where a database's runs have their files, as a URI."""
    return (database.resolve().parent / "mlartifacts").as_uri()


def experiment_id(name):
    """The id of the MLflow experiment of that name, made where it is not there."""
    found = client().get_experiment_by_name(name)
    if found:
        return found.experiment_id
    database = _database()
    artifacts = database and _artifact_folder(database)  # a server keeps them where it was told to
    try:
        return client().create_experiment(name, artifact_location=artifacts)
    except mlflow.MlflowException as fault:
        if fault.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return client().get_experiment_by_name(name).experiment_id  # another process was quicker


def absent(fault):
    """Whether an ``MlflowException`` says that there is no such thing, rather than that the store
    cannot be asked.
    """
    return fault.error_code == "RESOURCE_DOES_NOT_EXIST" or bool(
        re.search("not found|does not exist|no such", str(fault), re.IGNORECASE)
    )


def unreachable(fault):
    """One line for a store that cannot be asked."""
    reason = (str(fault).strip() or type(fault).__name__).splitlines()[0]
    if re.search(r"failed with error code 40[13]\b", reason):
        return masked(
            f"the tracking server {tracking_uri()} does not let this user in ({reason[:200]}); set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to those of one who may record"
        )
    return masked(
        f"the tracking store {tracking_uri()} does not answer ({reason[:200]}); start its server, "
        "or set MLFLOW_TRACKING_URI to where it is"
    )


def find_run(run_id):
    """A run of the store, or None where it has none of that id or one that was deleted.

    Raises:
        InputError: the store cannot be asked.
    """
    try:
        run = client().get_run(run_id)
    except mlflow.MlflowException as fault:
        if absent(fault):
            return None
        raise InputError(unreachable(fault)) from None
    return run if run.info.lifecycle_stage == "active" else None


def run_tags(run_id):
    """A run's tags by name.

    Raises:
        InputError: no such run.
    """
    run = find_run(run_id)
    if run is None:
        raise InputError(masked(f"run {run_id}: not in {tracking_uri()}; check its id"))
    return run.data.tags


def artifacts(uri):
    """The local folder of a run's or a model's files, copied there where the store is elsewhere.

    Args:
        uri: ``runs:/ID/PATH`` or ``models:/NAME/VERSION``.

    Raises:
        InputError: nothing there.
    """
    try:
        client()  # sets the store
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except (mlflow.MlflowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            masked(f"{uri}: not in {tracking_uri()} ({reason}); check the name")
        ) from None


def iou_table(run):
    """A run's IoU table, or None where it logged none; from ``find_run``."""
    if not any(
        artifact.path == "iou.json" for artifact in client().list_artifacts(run.info.run_id)
    ):
        return None
    return client().load_table(run.info.experiment_id, "iou.json", [run.info.run_id])
