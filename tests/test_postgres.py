"""One tracking server for many machines: MLflow with PostgreSQL behind it, both real, and eight
processes that record at once.
"""

import base64
import json
import multiprocessing
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import free_port, served

from wsss.errors import InputError
from wsss.lab import paths
from wsss.lab.record import delivery, mlflow_store, stage_run
from wsss.lab.record.journal import Journal

pytestmark = pytest.mark.slow

WRITERS = 8
STEPS = 40  # of each writer, half of them before the server is killed
NAMES = [f"loss/{name}" for name in "abc"]
SECRET = "correct-horse-battery"  # of the database, and of MLflow's users
USERS = ("ann", "bob")
ADMIN = "admin"


@pytest.fixture(scope="module")
def database():
    """``(URI, password file)`` of an empty database in a PostgreSQL of its own."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("no PostgreSQL on this machine: install Debian's package postgresql")
    # it refuses to run as root; Debian's package makes a user for it
    other = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="wsss-postgres-"))  # pytest's are not open to that user
    try:
        (folder / "password").write_text(SECRET)
        if other:
            owner = pwd.getpwnam("postgres")
            for path in (folder, folder / "password"):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        command = [programs[-1], "--pgdata", folder / "data", "--username", "wsss", "--no-sync"]
        command += ["--auth", "scram-sha-256", "--pwfile", folder / "password"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **other)
        port = free_port()
        settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
        command = [programs[-1].with_name("postgres"), "-D", folder / "data", "-p", str(port)]
        command += [word for setting in settings for word in ("-c", setting)]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **other)
        try:
            ready = [programs[-1].with_name("pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
            deadline = time.monotonic() + 20
            while subprocess.run(ready).returncode:
                assert server.poll() is None and time.monotonic() < deadline, (
                    folder / "log"
                ).read_text()
                time.sleep(0.1)
            passwords = folder / "passwords"
            passwords.write_text(f"127.0.0.1:{port}:postgres:wsss:{SECRET}\n")
            passwords.chmod(0o600)  # or it is passed over
            yield f"postgresql+psycopg://wsss@127.0.0.1:{port}/postgres", passwords
        finally:
            server.send_signal(signal.SIGINT)  # which does not wait for those that are connected
            server.wait(20)
    finally:
        shutil.rmtree(folder)


@contextmanager
def tracked(database, folder, port):
    """MLflow's server, which asks for a password, with a database behind it; killed at the end of
    the block.
    """
    uri, passwords = database
    users = folder / "users.ini"
    users.write_text(
        f"[mlflow]\ndefault_permission = EDIT\ndatabase_uri = {uri}\nadmin_username = {ADMIN}\n"
        "auth_cache_ttl_seconds = 60\n"
    )
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--app-name", "basic-auth", "--backend-store-uri", uri]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    settings = {
        "PGPASSFILE": str(passwords),
        "MLFLOW_AUTH_CONFIG_PATH": str(users),
        "MLFLOW_AUTH_ADMIN_PASSWORD": SECRET,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": SECRET,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with served(
        command,
        port,
        folder / "server.log",
        ready="/health",
        environment=settings,
        stop=signal.SIGKILL,
    ):
        yield


def make_user(port, name):
    """What the page's curl does."""
    given = json.dumps({"username": name, "password": SECRET}).encode()
    token = base64.b64encode(f"{ADMIN}:{SECRET}".encode()).decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/2.0/mlflow/users/create",
        given,
        {"Content-Type": "application/json", "Authorization": f"Basic {token}"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 200


def value(number, name, step):
    """What a writer records: nothing that another one does."""
    return number + NAMES.index(name) / 10 + step / 1000


def write(number, folder, together, back):
    """One of several processes: a run of one stage, as a driver and a notebook record it."""
    os.environ[stage_run.DRIVEN_VARIABLE] = "1"
    os.environ["MLFLOW_TRACKING_USERNAME"] = USERS[number % len(USERS)]
    Journal(folder).begin("together", f"writer {number}", tags={})
    printed = []
    together.wait()
    with delivery.Uploader(printed.append) as uploader:
        uploader.watch(folder)
        uploader.upload()
        run = stage_run.StageRun(
            "walk", {"number": number}, inputs={}, folder=folder, data_digest="d"
        )
        for step in range(STEPS):
            if step == STEPS // 2:
                back.wait()
            run.log_metrics({name: value(number, name, step) for name in NAMES}, step)
        path = folder / "note.txt"
        path.write_text(f"of {number}")
        run.log_file(path, "notes")
        run.complete({"labels_miou": number})
        Journal(folder).end("FINISHED")
    (folder.parent / f"{number}.printed").write_text(json.dumps(printed))


def test_eight_processes_record_at_one_server_that_is_killed_meanwhile(
    database, tmp_path, monkeypatch
):
    """Every value is there once, and every file."""
    port = free_port()
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    folders = [paths.stage_folder("walk", f"{number:02}") for number in range(WRITERS)]
    context = multiprocessing.get_context("forkserver")  # one that imports, for all
    context.set_forkserver_preload(["wsss.lab.record.delivery", "wsss.lab.record.stage_run"])
    together, back = context.Barrier(WRITERS + 1), context.Event()
    writers = [
        context.Process(target=write, args=(number, folder, together, back), daemon=True)
        for number, folder in enumerate(folders)
    ]
    for writer in writers:
        writer.start()
    with tracked(database, tmp_path, port):
        for name in USERS:
            make_user(port, name)
        together.wait(60)
        deadline = time.monotonic() + 60
        while not all(delivery.run_of(folder) for folder in folders):
            assert time.monotonic() < deadline and all(writer.is_alive() for writer in writers)
            time.sleep(0.01)
        assert any(delivery.waiting(folder) for folder in folders)  # it is in the middle of it
    with tracked(database, tmp_path, port):
        back.set()
        for writer in writers:
            writer.join(60)
            assert writer.exitcode == 0
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "nobody")
        Journal(paths.stage_folder("walk", "ff")).begin("together", "no user's", tags={})
        with pytest.raises(InputError, match="does not let this user in"):
            delivery.deliver(paths.stage_folder("walk", "ff"))
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USERS[0])
        delivery.close_stale_runs()  # of those that had ended before it was back
        client = mlflow_store.client()
        runs = client.search_runs([mlflow_store.experiment_id("together")])
        ids = {delivery.run_of(folder) for folder in folders}
        assert ids == {run.info.run_id for run in runs if "number" in run.data.params}
        assert len(runs) == WRITERS + 1
        for run in runs:
            if run.info.run_id not in ids:
                continue
            number = int(run.data.params["number"])
            assert run.info.status == "FINISHED" and run.data.metrics["labels_miou"] == number
            for name in NAMES:
                history = client.get_metric_history(run.info.run_id, name)
                found = Counter((metric.step, metric.value) for metric in history)
                assert found == Counter((step, value(number, name, step)) for step in range(STEPS))
            note = mlflow_store.artifacts(f"runs:/{run.info.run_id}/notes/note.txt")
            assert note.read_text() == f"of {number}"
    for path in tmp_path.glob("outputs/walk/*.printed"):
        assert {line.split("; ")[-1] for line in json.loads(path.read_text())} <= {
            "work goes on, and its record waits on disk",
            "the tracking store answers again",
        }
