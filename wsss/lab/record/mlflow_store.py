"""MLflow's tracking store: its address, creation and reading."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # would break our own
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # at the end of each run
# Notice an unavailable server in seconds, not in MLflow's minutes: readers are people who wait, and
# writers keep their record on disk.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("PGCONNECT_TIMEOUT", "10")

import mlflow
import pandas as pd
import sqlalchemy
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import ArgumentError

from wsss.errors import InputError, did_you_mean, masked, reason
from wsss.io import atomic
from wsss.io.locks import lock_of
from wsss.lab import paths
from wsss.lab.record.journal import legal

SQLITE = "sqlite:///"  # of a URI, before the database's path

logging.getLogger("alembic").setLevel(logging.WARNING)
# MLflow prints a traceback of each fault that it raises; ours are one line
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def tracking_uri() -> str:
    """Where runs are recorded: MLFLOW_TRACKING_URI, or ``mlflow.db`` in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _address(paths.project_root() / "mlflow.db")


def _address(database):
    """The URI of a SQLite file. ``%`` and ``?`` of its path are quoted, in a form from which MLflow
    does not make folders with the quoted name.
    """
    if not re.search("[%?]", str(database)):
        return f"{SQLITE}{database}"
    return sqlalchemy.URL.create("sqlite+pysqlite", database=str(database)).render_as_string()


@contextmanager
def one_line_errors(*passed_over: str) -> Iterator[None]:
    """Whatever a store that does not answer makes the block raise becomes an InputError; MLflow's
    errors of the codes ``passed_over`` end the block.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as fault:  # of MLflow, a driver, a place of files, a page that is not MLflow's
        if getattr(fault, "error_code", "") not in passed_over:
            raise InputError(unreachable(fault)) from None


def client() -> MlflowClient:
    """A client of the tracking store, which is created on first use; InputError if its address is
    wrong, or it is a database that cannot be opened.
    """
    with one_line_errors():
        database = sqlite_file()
        if database and not database.exists():
            _create(database)
        _check_database(tracking_uri())
        mlflow.set_tracking_uri(tracking_uri())
        return MlflowClient()


@lru_cache  # once per store that opens
def _check_database(uri):
    """Connect to a store that is a database, since MLflow tries for minutes before it gives up."""
    if uri.startswith(("sqlite", "postgresql", "mysql", "mssql")):
        engine = sqlalchemy.create_engine(uri)
        try:
            sqlalchemy.inspect(engine).get_table_names()
        finally:
            engine.dispose()


def sqlite_file() -> Path | None:
    """The store's SQLite file, or None if it is a server."""
    uri = tracking_uri()
    if not uri.startswith("sqlite"):
        return None
    path = sqlalchemy.make_url(uri).database
    if path in (None, "", ":memory:"):
        raise InputError(unreachable(ValueError("it is lost with its process")))
    return Path(path)


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
            SqlAlchemyStore(_address(partial), _artifact_folder(database)).engine.dispose()


def _artifact_folder(database):
    return (database.resolve().parent / "mlartifacts").as_uri()


def identity() -> str:
    """What tells this store from another one, whatever its address: when it was created, in
    milliseconds; its address if it does not say. InputError if it does not answer.
    """
    return _identity(tracking_uri())


@lru_cache
def _identity(uri):
    with one_line_errors("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"):
        return str(client().get_experiment("0").creation_time or masked(uri))
    return masked(uri)


def metric_name(name: str) -> str:
    """A metric's name as MLflow takes it, such as ``cam_miou/train_x-1f2e3d`` for an id list called
    ``train+x``.
    """
    return legal(name, r"[\w.\- /:]", 250)


def check_model_name(name: str) -> None:
    """InputError if MLflow would not register a model under this name."""
    if not re.fullmatch(r"(?!\.\.|\.$|\s*$)[^/:]{1,256}", name):
        expected = "expected a name without '/' and ':' and a leading '..'"
        raise InputError(f"model_name: {expected}, but got '{name}'; change it")


def experiment_id(name: str) -> str:
    """The id of an MLflow experiment, created if needed; InputError if it was deleted."""
    found = client().get_experiment_by_name(name)
    if found and found.lifecycle_stage != "active":
        fix = f"restore it: mlflow experiments restore --experiment-id {found.experiment_id}"
        uri = masked(tracking_uri())
        raise InputError(f"the experiment '{name}' was deleted in the tracking store {uri}; {fix}")
    if found:
        return found.experiment_id
    database = sqlite_file()
    folder = _artifact_folder(database) if database else None  # a server has its own
    with one_line_errors("RESOURCE_ALREADY_EXISTS"):
        return client().create_experiment(name, artifact_location=folder)
    return experiment_id(name)  # another process created it


def unreachable(fault: Exception) -> str:
    """One line, with the fix, for a store that does not answer or cannot be used."""
    uri, cause = tracking_uri(), reason(fault)[:200]
    if re.search(r"failed with error code 40[13]\b", reason(fault)):
        return masked(
            f"the tracking server {uri} does not let this user in ({cause}); set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to those of one who may record"
        )
    misspelt = ImportError | ValueError | ArgumentError  # or without its driver
    if re.match("https?://|postgresql|mysql|mssql", uri) and not isinstance(fault, misspelt):
        return masked(
            f"the tracking store {uri} does not answer ({cause}); start its server, or set "
            "MLFLOW_TRACKING_URI to where it is"
        )
    if "unsupported URI" in cause:
        cause = "its scheme is none of MLflow's"
    file = Path(uri.removeprefix("file://")).absolute()
    file = "/home/me/mlflow.db" if ":" in uri[5:] else file / ("mlflow.db" if file.is_dir() else "")
    return masked(
        f"the tracking store {uri} cannot be used ({cause}); make it usable, or set "
        f"MLFLOW_TRACKING_URI to an address such as {SQLITE}{file} or http://HOST:5000"
    )


def find_run(run_id: str) -> Run | None:
    """A run of the store, or None if there is none of that id or it was deleted; InputError if the
    store does not answer.
    """
    with one_line_errors("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # or not an id
        run = client().get_run(run_id)
        return run if run.info.lifecycle_stage == "active" else None
    return None


def model_version(uri: str) -> str:
    """``models:/NAME/VERSION`` of ``models:/NAME``, the newest; InputError if there is no such
    model or version. Other addresses, such as ``models:/NAME@ALIAS``, are returned unchanged.
    """
    name, _, version = uri.removeprefix("models:/").partition("/")
    if "@" in name or name.startswith("m-"):  # an alias; a logged model's own id
        return uri
    with one_line_errors():
        found = client().search_model_versions(f"name = '{name}'")
        known = sorted(int(each.version) for each in found)
        names = [each.name for each in client().search_registered_models()]
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
