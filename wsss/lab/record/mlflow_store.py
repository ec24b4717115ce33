"""MLflow's tracking store; whatever asks it raises InputError if it does not answer."""

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
# seconds until an unavailable server is noticed, not MLflow's minutes: people wait for it
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
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks


def tracking_uri() -> str:
    """Where runs are recorded: MLFLOW_TRACKING_URI, or ``mlflow.db`` in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _address(paths.project_root() / "mlflow.db")


def _address(database):
    """The URI of a SQLite file; the second form has MLflow make no folders of the quoted name."""
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
    """A client of the tracking store, which is created on first use; InputError if it cannot be."""
    with one_line_errors():
        if (database := sqlite_file()) and not database.exists():
            _create(database)
        _check_database(tracking_uri())
        mlflow.set_tracking_uri(tracking_uri())
        return MlflowClient()


@lru_cache  # once per store that opens
def _check_database(uri):
    """Connect to a store that is a database, since MLflow tries for minutes before it gives up."""
    if uri.startswith(("sqlite", "postgresql", "mysql", "mssql")):
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
        sqlalchemy.inspect(engine).get_table_names()


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
    """Create a database whole: MLflow cannot open one with some of its tables."""
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
    """What tells this store from others, whatever its address: when it was created, in ms."""
    return _identity(tracking_uri())


@lru_cache
def _identity(uri):
    with one_line_errors("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"):
        return str(client().get_experiment("0").creation_time or masked(uri))
    return masked(uri)  # it does not say


def metric_name(name: str) -> str:
    """A metric's name as MLflow takes it: ``miou/train_x-1f2e3d`` for an id list ``train+x``."""
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
    folder = _artifact_folder(file) if (file := sqlite_file()) else None  # a server has its own
    with one_line_errors("RESOURCE_ALREADY_EXISTS"):
        return client().create_experiment(name, artifact_location=folder)
    return experiment_id(name)  # another process created it


def unreachable(fault: Exception) -> str:
    """One line, with the fix, for a store that does not answer or cannot be used."""
    uri, cause = tracking_uri(), reason(fault)[:200]
    misspelt = isinstance(fault, ImportError | ValueError | ArgumentError)  # or without its driver
    if re.search(r"failed with error code 40[13]\b", reason(fault)):
        found = f"server {uri} does not let this user in"
        user = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        fix = f"set {user} to those of one who may record"
    elif re.match("https?://|postgresql|mysql|mssql", uri) and not misspelt:
        found = f"store {uri} does not answer"
        fix = "start its server, or set MLFLOW_TRACKING_URI to where it is"
    else:
        found = f"store {uri} cannot be used"
        cause = "its scheme is none of MLflow's" if "unsupported URI" in cause else cause
        file = Path(uri.removeprefix("file://")).absolute()
        file = file / "mlflow.db" if file.is_dir() else file
        such = f"{SQLITE}{'/home/me/mlflow.db' if ':' in uri[5:] else file} or http://HOST:5000"
        fix = f"make it usable, or set MLFLOW_TRACKING_URI to an address such as {such}"
    return masked(f"the tracking {found} ({cause}); {fix}")


def find_run(run_id: str) -> Run | None:
    """A run of the store, or None if there is none of that id or it was deleted."""
    with one_line_errors("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # or not an id
        run = client().get_run(run_id)
        return run if run.info.lifecycle_stage == "active" else None
    return None


def model_version(uri: str) -> str:
    """``models:/NAME/VERSION`` of ``models:/NAME``, the newest; InputError if there is none. Other
    addresses, such as ``models:/NAME@ALIAS``, are returned unchanged.
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
    there = f"{did_you_mean(name, names)}; the models are: {', '.join(names)}"
    there = f"; it has the versions {', '.join(map(str, known))}" if known else there
    raise InputError(masked(f"{uri}: not in {tracking_uri()}{there}"))


def artifacts(uri: str) -> Path:
    """The local folder of ``runs:/ID/PATH`` or ``models:/NAME/VERSION``; InputError without one."""
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
