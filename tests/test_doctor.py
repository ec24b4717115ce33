"""``wsss doctor`` on a machine in order, and on one where something is missing."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import wsss
from wsss import cli
from wsss.cli import doctor
from wsss.crf import DenseCRF
from wsss.lab import paths


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Outputs and record in a folder of the test's own."""
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one experiment, whose data and weights are elsewhere."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(
        "common: {dataset: voc, data_root: kit, weights: net.pth}\n"
        "stages: {dataset: {}, train_cam: {checkpoint: ''}}\n"
        "smoke: {common: {dataset: shapes_few, data_root: few, weights: ''}}\n"
    )
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    return tmp_path


def without(monkeypatch, *programs):
    """No such programs on this machine."""
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name in programs else which(name))


def test_the_command_reports_every_check_and_exits_with_0(capsys):
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for subject in doctor.NEEDED | doctor.USEFUL:
        assert f" {subject} " in shown
    assert "MISSING" not in shown
    assert max(map(len, shown.splitlines())) <= 110


def test_the_command_exits_with_1_if_something_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'nowhere' / 'mlflow.db'}")
    assert cli.main(["doctor"]) == 1
    assert "MISSING tracking" in capsys.readouterr().out


def test_a_check_that_breaks_does_not_stop_the_others(monkeypatch, capsys):
    def broken():
        raise ImportError("libcudart.so.99:\nno such file")

    monkeypatch.setattr(doctor, "NEEDED", {"torch": broken, "disk": lambda: ("ok", "room")})
    monkeypatch.setattr(doctor, "USEFUL", {"git": broken})
    assert cli.main(["doctor"]) == 1
    fault = "ImportError: libcudart.so.99: no such file; install again: make install"
    assert capsys.readouterr().out.splitlines() == [
        f"MISSING torch     {fault}",
        "ok      disk      room",
        f"note    git       {fault}",
        "",
        "1 missing: fix that before you run the demo",
    ]


def test_credentials_are_not_shown(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "NEEDED", {"tracking": doctor.tracking_store})
    monkeypatch.setattr(doctor, "USEFUL", {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://me:hunter2@host/x?token=hunter2")
    assert cli.main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "ftp://***@host/x?token=***" in shown and "hunter2" not in shown


def test_long_lines_go_on_below(monkeypatch, capsys):
    text = "word " * 40 + "/path" * 50
    monkeypatch.setattr(doctor, "NEEDED", {"disk": lambda: ("note", text)})
    monkeypatch.setattr(doctor, "USEFUL", {})
    assert cli.main(["doctor"]) == 0
    first, *others = capsys.readouterr().out.partition("\nnext: ")[0].splitlines()
    assert first.startswith("note    disk      word")
    assert others and max(map(len, [first, *others])) <= 110
    assert all(line.startswith(" " * 18) for line in others)


def test_an_old_python(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    mark, text = doctor.python()
    assert mark == "MISSING" and "3.10.4" in text and "make install PYTHON=" in text


@pytest.mark.parametrize(
    ("versions", "mark", "expected"),
    [
        ({"numpy": "2.1.0", "mlflow": "3.7.1rc1", "pytest": "9"}, "ok", "3 packages"),
        ({"numpy": "1.26.4", "mlflow": "3.7", "pytest": "9"}, "MISSING", "numpy 1.26.4 (needs"),
        ({"mlflow": "3.17.0", "pytest": "9"}, "MISSING", "numpy is not installed"),
        ({"numpy": "2.0", "mlflow": "3.7"}, "note", "for dev only: pytest is not installed"),
        ({"numpy": "2.0", "mlflow": "3.7", "pytest": "9", "ray": "2.60"}, "ok", "4 packages"),
        (
            {"numpy": "2.0", "mlflow": "3.7", "pytest": "9", "ray": "2.9"},
            "note",
            "for cluster only: ray 2.9 (needs >=2.52): pip install -e '.[cluster]'",
        ),
    ],
)
def test_packages_out_of_bounds(monkeypatch, versions, mark, expected):
    def distributions(name):
        return [SimpleNamespace(version=versions[name])] if name in versions else []

    requires = ["numpy>=2.0", "mlflow<4,>=3.7", 'pytest>=8.3; extra == "dev"']
    requires += ['ray[default,train]>=2.52; extra == "cluster"']
    monkeypatch.setattr(metadata, "requires", lambda name: requires)
    monkeypatch.setattr(metadata, "distributions", distributions)
    found, text = doctor.packages()
    assert found == mark and expected in text
    assert (text.endswith("make install") or ": pip install" in text) == (mark != "ok")


def test_no_compiler_is_missed_only_until_pydensecrf_is_built(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    mark, text = doctor.compiler()
    assert mark == "note" and "install g++" in text
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    mark, text = doctor.compiler()
    assert mark == "MISSING" and "install g++" in text


def test_a_dense_crf_that_computes_nonsense(monkeypatch):
    monkeypatch.setattr(DenseCRF, "infer", lambda self, scores, steps: np.full_like(scores, np.nan))
    mark, text = doctor.dense_crf()
    assert mark == "MISSING" and "pip install --force-reinstall" in text


def test_a_gpu_is_named(monkeypatch):
    card = SimpleNamespace(name="Test GPU", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    mark, text = doctor.torch_device()
    assert mark == "ok" and "Test GPU, 80 GiB, bfloat16" in text


def test_little_memory(monkeypatch):
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**19}
    monkeypatch.setattr(os, "sysconf", pages.get)
    mark, text = doctor.machine()
    assert mark == "note" and "2.0 GiB" in text and "processes=1" in text


def test_a_small_disk(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    asked = []

    def disk_usage(path):
        asked.append(path)
        return usage(2**30, 2**30 - 2**28, 2**28)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    mark, text = doctor.disk()
    assert mark == "MISSING" and "0.2 GiB" in text and "set WSSS_OUTPUTS" in text
    assert asked == [tmp_path]  # outputs/ is not there yet
    assert "1,747 photos" in text  # 2**28 bytes, 150 KiB each


def test_a_folder_that_is_not_ours(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    mark, text = doctor.disk()
    assert mark == "MISSING" and "set WSSS_OUTPUTS" in text


def test_a_store_in_a_file(monkeypatch, tmp_path):
    path = tmp_path / "mlflow.db"
    assert doctor.tracking_store()[0] == "ok"
    assert not path.exists()
    store = sqlite3.connect(path)
    store.execute("CREATE TABLE runs (id)")
    assert doctor.tracking_store()[0] == "ok"
    monkeypatch.setattr(doctor, "LOCK_SECONDS", 0.1)
    store.execute("BEGIN IMMEDIATE")
    mark, text = doctor.tracking_store()
    assert mark == "MISSING" and "locked" in text and "MLFLOW_TRACKING_URI" in text
    store.close()


@pytest.mark.parametrize("kind", ["no folder", "a folder", "other bytes"])
def test_a_store_that_cannot_be_written(monkeypatch, tmp_path, kind):
    path = tmp_path / "store" / "mlflow.db"
    if kind == "a folder":
        path.mkdir(parents=True)
    elif kind == "other bytes":
        path.parent.mkdir()
        path.write_bytes(b"not a database" * 99)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    mark, text = doctor.tracking_store()
    assert mark == "MISSING" and "set MLFLOW_TRACKING_URI" in text


class Answers(BaseHTTPRequestHandler):
    """A tracking server that knows one experiment; everything else asks who is there."""

    def do_GET(self):
        known = self.path.startswith("/api/2.0/mlflow/experiments/get?")
        self.send_response(200 if known else 401)
        self.end_headers()
        if known:
            experiment = {"experiment_id": "0", "name": "Default", "creation_time": 1}
            self.wfile.write(json.dumps({"experiment": experiment}).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """The address of a server on this machine."""
    service = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=service.serve_forever)
    thread.start()
    yield f"127.0.0.1:{service.server_port}"
    service.shutdown()
    thread.join()
    service.server_close()


def test_a_server(monkeypatch, server):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@{server}/")
    assert doctor.tracking_store() == ("ok", f"http://me:secret@{server}/")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{server}/deeper")
    mark, text = doctor.tracking_store()
    assert mark == "MISSING" and "does not let this user in" in text and "401" in text


def test_a_server_that_is_not_there(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")  # a port for other things
    mark, text = doctor.tracking_store()
    assert mark == "MISSING" and "does not answer" in text and "set MLFLOW_TRACKING_URI" in text


def test_stores_of_other_kinds(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "NEEDED", {"tracking": doctor.tracking_store})
    monkeypatch.setattr(doctor, "USEFUL", {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg2://me:secret@host/runs")
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("note ") and "secret" not in shown
    for address in ("file:///runs", "sqlite:///:memory:"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert doctor.tracking_store()[0] == "MISSING"


def test_data_and_weights_that_experiments_name(project):
    mark, text = doctor.data()
    assert mark == "note" and text.startswith("none; generated when needed: few; missing: ")
    assert "missing: kit (for mine), net.pth (for mine): README.md" in text
    (project / "kit" / "JPEGImages").mkdir(parents=True)
    mark, text = doctor.data()
    assert mark == "note" and text.startswith("kit;") and "missing: net.pth (for mine):" in text
    (project / "net.pth").touch()
    assert doctor.data() == ("ok", "kit, net.pth; generated when needed: few")
    assert not (project / "few").exists()


def test_no_browser_and_no_git(monkeypatch):
    without(monkeypatch, "chromium", "git")
    for check, fix in (
        (doctor.browser, "apt install chromium"),
        (doctor.git, "install git"),
    ):
        mark, text = check()
        assert mark == "note" and fix in text


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_a_project_outside_git(project):
    mark, text = doctor.git()
    assert mark == "note" and "not a git repository" in text
    subprocess.run(["git", "init", "-q", project], check=True)
    who = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    commit = [*who, "commit", "-q", "--allow-empty", "-m", "first"]
    subprocess.run(["git", "-C", project, *commit], check=True)
    assert doctor.git()[0] == "ok"


def test_it_starts_without_torch_and_without_numpy():
    program = (
        "import sys; sys.modules['torch'] = sys.modules['numpy'] = None\n"
        "from wsss import cli; sys.exit(cli.main(['doctor']))"
    )
    root = os.path.dirname(os.path.dirname(wsss.__file__))
    command = [sys.executable, "-c", program]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert answer.returncode == 1 and not answer.stderr
    marks = {line[8:18].strip(): line[:8].strip() for line in answer.stdout.splitlines()}
    assert marks["torch"] == marks["dense CRF"] == "MISSING"
    assert marks["python"] == marks["packages"] == marks["machine"] == "ok"
