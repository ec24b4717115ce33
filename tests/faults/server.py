"""A tracking server that is away for a while, or for good."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from . import results
from .disk import one_line
from .life import live

AWAY = 60.0  # seconds
WHEN = "train_cam"  # the stage during which it goes
UNTIL = "evaluate"  # a run that outlives it goes so far


class Server:
    """MLflow's own server on this machine, with its database and files in a folder."""

    def __init__(self, folder):
        folder.mkdir()
        self.folder, self._process = folder, None
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PATH": path} | quiet,
                start_new_session=True,  # its workers end with it
            )
        until = time.monotonic() + 120
        while time.monotonic() < until and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"mlflow server does not answer; see {self.folder / 'server.log'}")

    def stop(self):
        """End it, as a machine that goes down."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def running(self):
        return self._process is not None


def _recorded(expected, chain, until):
    """What the store has otherwise than it should, with every step of training once."""
    return results.compare(expected, chain, until=until) + results.still_running(chain)


def away(place, expected, pace, say):
    server = Server(place.root / "server-away")
    chain = place.chain("away", uri=server.uri)
    server.start()
    gone = []

    def leave(watch):
        now = time.monotonic()
        if not gone and watch.stage == WHEN and WHEN in watch.worked:
            server.stop()
            gone.append(now)
        elif gone and not server.running() and now > gone[0] + AWAY:
            server.start()

    try:
        life = live(chain, "--until", UNTIL, each=leave)
        say(f"server away: exit code {life.code}")
        if not gone:
            return [*life.faults, "it never went away"]
        if not server.running():
            return [*life.faults, "the run ended before the server was back"]
        return life.faults + _recorded(expected, chain, UNTIL)
    finally:
        server.stop()


def gone(place, expected, pace, say):
    server = Server(place.root / "server-gone")
    chain = place.chain("gone", uri=server.uri)
    server.start()

    def leave(watch):
        if watch.stage == WHEN and WHEN in watch.worked:
            server.stop()

    try:
        life = live(chain, codes=(0, 1, 2), each=leave)
        faults = life.faults + (one_line(life) if life.code else [])
        if server.running():
            faults.append("it never went away")
        say(f"server gone: exit code {life.code} after {', '.join(life.ran)}")
        say(f"server gone: {(life.output.strip().splitlines() or ['nothing'])[-1]}")
        server.stop()
        server.start()
        life = live(chain)
        return faults + life.faults + _recorded(expected, chain, None)
    finally:
        server.stop()
