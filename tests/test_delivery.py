"""The record: on disk first, carried to MLflow whenever it answers, each entry once."""

import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import mlflow
import pytest
from servers import free_port, served

from wsss.errors import InputError
from wsss.io import atomic
from wsss.io.locks import lock_of
from wsss.lab import paths, results
from wsss.lab.record import delivery, journal, mlflow_store
from wsss.lab.record.journal import Journal


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, empty_store):
    for name in ("mlflow.db", "other.db"):
        shutil.copy(empty_store, tmp_path / name)
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return tmp_path


@pytest.fixture
def record():
    """A run of one stage with an entry of most kinds, ended."""
    record = Journal(paths.stage_folder("walk", "0a"))
    record.begin("toys", "walk", tags={"wsss.stage": "walk"})
    record.add("params", values={"beta": 4, "scales": [0.5, 1.0], "name": "x"})
    for step in range(3):
        record.metrics({"loss": 1 / (1 + step)}, step)
    (record.folder / "note.txt").write_text("seen")
    record.file(record.folder / "note.txt", "notes")
    (record.folder / "iou.json").write_text('{"columns": ["class", "IoU"], "data": [["cat", 50]]}')
    record.file(record.folder / "iou.json", kind="table")
    record.end("FINISHED")
    return record


def seen(run_id):
    """What MLflow holds of a run."""
    client = mlflow_store.client()
    run = client.get_run(run_id)
    steps = [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run_id, "loss")]
    files = [file.path for file in client.list_artifacts(run_id)]
    table = mlflow_store.iou_table(run).to_dict("list")
    return run.info.status, run.data.params, steps, files, table, run.info.end_time


def test_all_of_a_journal_is_in_mlflow_once_however_often_it_is_delivered(record):
    delivery.deliver(record.folder)
    run_id = delivery.run_of(record.folder)
    status, params, steps, files, table, _ = before = seen(run_id)
    assert status == "FINISHED" and params == {"beta": "4", "scales": "[0.5, 1.0]", "name": "x"}
    assert [(step, value) for step, value, _ in steps] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert sorted(files) == ["iou.json", "notes"] and table == {"class": ["cat"], "IoU": [50]}
    (record.folder / results.DELIVERED).unlink()  # as if it had been cut off before noting it
    delivery.deliver(record.folder)
    assert delivery.run_of(record.folder) == run_id and seen(run_id) == before
    assert not delivery.waiting(record.folder)


def test_a_store_that_does_not_know_the_run_gets_all_of_it(record, place, monkeypatch):
    delivery.deliver(record.folder)
    before = seen(delivery.run_of(record.folder))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'other.db'}")
    delivery.deliver(record.folder)
    assert seen(delivery.run_of(record.folder)) == before
    mlflow_store.client().delete_run(delivery.run_of(record.folder))
    delivery.deliver(record.folder)
    assert seen(delivery.run_of(record.folder)) == before


def test_what_goes_on_is_recorded_once(record):
    again = Journal(record.folder)
    again.begin("toys", "walk", tags={})
    for step in range(4):
        again.metrics({"loss": 1 / (1 + step)}, step)
    again.file(record.folder / "note.txt", "notes")
    again.end("FINISHED")
    delivery.deliver(record.folder)
    _, _, steps, *_ = seen(delivery.run_of(record.folder))
    assert [step for step, *_ in steps] == [0, 1, 2, 3]
    kinds = [entry["kind"] for entry, _ in journal.entries(record.folder)]
    assert kinds.count("file") == 1 and kinds[-3:] == ["resumed", "metrics", "end"]


@pytest.mark.parametrize("lost", range(1, 200, 13))
def test_a_cut_journal_loses_its_last_entries_alone(record, lost):
    """Power lost while it was written: whole lines stay, and what follows is not spoilt."""
    whole = [entry for entry, _ in journal.entries(record.folder)]
    content = record.path.read_bytes()
    record.path.write_bytes(content[:-lost])
    kept = [entry for entry, _ in journal.entries(record.folder)]
    assert kept == whole[: len(kept)] and len(kept) == content[:-lost].count(b"\n")
    Journal(record.folder).add("tags", values={"wsss.after": "yes"})
    *before, last = [entry for entry, _ in journal.entries(record.folder)]
    assert last["kind"] == "tags" and before == whole[: len(before)]  # one lacked but its newline


def test_bytes_that_are_no_entries_are_passed_over(record):
    lines = record.path.read_bytes().splitlines(keepends=True)
    lines[2] = b"\0" * (len(lines[2]) - 1) + b"\n"
    record.path.write_bytes(b"".join(lines))
    assert len(list(journal.entries(record.folder))) == len(lines) - 1
    assert delivery.deliver(record.folder) == []


def test_times_never_go_back(record, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1000.0)  # 1970
    Journal(record.folder).metrics({"loss": 0.1}, 9)
    times = [entry["time"] for entry, _ in journal.entries(record.folder)]
    assert times == sorted(times) and times[0] > 1e12


def test_a_refused_entry_is_reported_and_the_rest_delivered(record):
    record.add("params", values={"beta": 5})  # MLflow lets no parameter change
    record.metrics({"after": 1.0})
    (line,) = delivery.deliver(record.folder)
    assert "params refused" in line and "beta" in line
    run = mlflow_store.client().get_run(delivery.run_of(record.folder))
    assert run.data.metrics["after"] == 1 and run.data.params["beta"] == "4"


def test_a_killed_process_leaves_a_run_that_is_settled_as_failed(place):
    parent = Journal(paths.outputs_root() / "runs" / "toys-1")
    parent.begin("toys", "toys", tags={})
    child = Journal(paths.stage_folder("walk", "0b"))
    child.begin("toys", "walk", tags={}, parent=parent.folder)
    assert delivery.pending() == [parent.folder, child.folder]
    with lock_of(child.folder, "driver"):  # it is at work elsewhere
        delivery.close_stale_runs()
    assert delivery.pending() == [child.folder]
    delivery.close_stale_runs()
    assert delivery.pending() == []
    runs = {folder: delivery.run_of(folder) for folder in (parent.folder, child.folder)}
    for run_id in runs.values():
        run = mlflow_store.client().get_run(run_id)
        assert run.info.status == "FAILED" and "killed" in run.data.tags["wsss.error"]
    assert run.data.tags["mlflow.parentRunId"] == runs[parent.folder]
    child.begin("toys", "walk", tags={})
    about = {"stage": "walk", "fingerprint": "0b", "data_digest": "d", "metrics": {}}
    about |= {"parameters": {}, "inputs": {}, "ended": 1.0}
    atomic.save_json(child.folder / "complete.json", about)  # the driver did not live to see it
    delivery.close_stale_runs()
    run = mlflow_store.client().get_run(runs[child.folder])
    assert run.info.status == "FINISHED" and "wsss.error" not in run.data.tags


def test_children_that_are_delivered_at_once_have_one_parent(place, monkeypatch):
    """As by the tasks of an array, which share the outputs of one that was cut off."""
    parent = Journal(paths.outputs_root() / "runs" / "toys-2")
    parent.begin("toys", "toys", tags={})
    children = [Journal(paths.stage_folder("walk", name)) for name in ("0c", "0d")]
    for child in children:
        child.begin("toys", "walk", tags={}, parent=parent.folder)
    client, made = type(mlflow_store.client()), []
    real = client.create_run

    def slowly(self, *given, run_name, **more):
        made.append(run_name)
        time.sleep(0.3)
        return real(self, *given, run_name=run_name, **more)

    monkeypatch.setattr(client, "create_run", slowly)
    mlflow_store.experiment_id("toys")
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(delivery.deliver, [child.folder for child in children]))
    assert sorted(made) == ["toys", "walk", "walk"]


def test_a_record_that_cannot_be_carried_is_reported_by_its_own_reason(record):
    lines = record.path.read_bytes().splitlines(keepends=True)
    record.path.write_bytes(b"".join(lines[1:]))
    with pytest.raises(InputError, match=r"has lost its beginning; run it again$"):
        delivery.deliver(record.folder)


def test_addresses_keep_their_passwords_to_themselves(record, monkeypatch):
    record.add("params", values={"data_root": "https://me:hunter2@host/photos"})
    delivery.deliver(record.folder)
    params = mlflow_store.client().get_run(delivery.run_of(record.folder)).data.params
    assert params["data_root"] == "https://***@host/photos"
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hunter2@127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    record.metrics({"after": 1.0})
    with pytest.raises(InputError, match=r"does not answer.*start its server") as raised:
        delivery.deliver(record.folder)
    assert "hunter2" not in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.slow
def test_what_a_server_has_missed_is_delivered_when_it_is_back(record, place, monkeypatch):
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{place / 'server.db'}"]
    command += ["--artifacts-destination", str(place / "artifacts")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    printed = []
    with delivery.Uploader(printed.append) as uploader:
        uploader.watch(record.folder)
        assert not uploader.upload() and "work goes on" in printed[0]
        with served(command, port, place / "log", ready="/health", environment=quiet):
            assert (
                uploader.upload() and "answers again" in printed[1] and uploader.unavailable == ""
            )
            before = seen(delivery.run_of(record.folder))
        Journal(record.folder).metrics({"loss": 0.1}, 3)
        assert not uploader.upload()
    assert delivery.waiting(record.folder)  # the block ended without the server
    with served(command, port, place / "log2", ready="/health", environment=quiet):
        delivery.close_stale_runs()
        after = seen(delivery.run_of(record.folder))
    assert [step for step, *_ in after[2]] == [0, 1, 2, 3] and after[2][:3] == before[2]
    assert delivery.run_of(record.folder)
    assert mlflow.get_tracking_uri().endswith(str(port))
