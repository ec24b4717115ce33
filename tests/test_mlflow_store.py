"""The tracking store's database: made whole, or not at all."""

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from types import SimpleNamespace

import mlflow
import pytest

from wsss.errors import InputError
from wsss.lab.record import mlflow_store


@pytest.fixture
def database(tmp_path, monkeypatch):
    path = tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    return path


def use(name):
    """What a process does that comes first to a store."""
    from wsss.lab.record import mlflow_store  # reads its variables at import

    mlflow_store.experiment_id(name)


def test_a_process_killed_while_it_makes_the_store_leaves_a_store_that_opens(database):
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=use, args=("first",))
    process.start()
    deadline = time.monotonic() + 60
    # while its tables are made, and before it has its name
    while not any(_parts(database).values()):
        assert time.monotonic() < deadline and process.is_alive()
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not database.exists()
    assert _parts(database)  # it was in the middle of it

    use("second")
    assert mlflow_store.client().get_experiment_by_name("second")
    assert not _parts(database)


def test_processes_that_come_at_once_share_one_store(database):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=use, args=(f"of {number}",)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    found = {each.name for each in mlflow_store.client().search_experiments()}
    assert {"of 0", "of 1"} <= found


def test_an_experiment_that_another_process_is_quicker_to_make_is_shared(database, monkeypatch):
    first = mlflow_store.experiment_id("shared")
    client = type(mlflow_store.client())
    asked, real = [], client.get_experiment_by_name

    def too_early(self, name):
        asked.append(name)
        return None if len(asked) == 1 else real(self, name)

    monkeypatch.setattr(client, "get_experiment_by_name", too_early)
    assert mlflow_store.experiment_id("shared") == first and len(asked) == 2


@pytest.mark.parametrize("code", [401, 403])
def test_a_server_that_does_not_let_one_in_is_reported_as_such(code, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@host")
    printed = (
        f"API request to endpoint /x failed with error code {code} != 200. Response body: 'No'"
    )
    message = mlflow_store.unreachable(mlflow.MlflowException(printed))
    assert "does not let this user in" in message and "MLFLOW_TRACKING_USERNAME" in message
    assert "http://***@host" in message and "\n" not in message


def _parts(database):
    """What of the store is half made: path to bytes."""
    sizes = {}
    for path in database.parent.glob(".mlflow.db.*.partial*"):
        with suppress(FileNotFoundError):  # gone meanwhile
            sizes[path] = path.stat().st_size
    return sizes


def test_who_finds_an_experiment_made_meanwhile_takes_it(database, monkeypatch):
    made = mlflow_store.experiment_id("toys")
    ask, first = mlflow_store.MlflowClient.get_experiment_by_name, [None]
    monkeypatch.setattr(
        mlflow_store.MlflowClient,
        "get_experiment_by_name",
        lambda client, name: first.pop() if first else ask(client, name),
    )
    assert mlflow_store.experiment_id("toys") == made


def test_a_model_without_a_version_is_its_newest_and_those_that_exist_are_listed(monkeypatch):
    versions = [SimpleNamespace(version=str(number)) for number in (9, 10, 1)]

    class Client:
        def search_model_versions(self, query):
            return versions if query == "name = 'net'" else []

        def search_registered_models(self):
            return [SimpleNamespace(name="net"), SimpleNamespace(name="other")]

    monkeypatch.setattr(mlflow_store, "client", Client)
    for given in ("models:/net", "models:/net/latest", "models:/net/10"):
        assert mlflow_store.model_version(given) == "models:/net/10"
    assert mlflow_store.model_version("models:/net/1") == "models:/net/1"
    assert mlflow_store.model_version("models:/net@best") == "models:/net@best"
    with pytest.raises(InputError, match=r"^models:/net/2: not in .*; it has .* 1, 9, 10$"):
        mlflow_store.model_version("models:/net/2")
    with pytest.raises(InputError, match=r"\(did you mean 'net'\?\); the models are: net, other$"):
        mlflow_store.model_version("models:/nte")
