"""A server of another program, for the time of a test."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def served(command, port, log, *, ready, environment=None, stop=signal.SIGTERM):
    """Run a server until the block ends, entered once it answers.

    Args:
        command: its arguments; it has to listen on 127.0.0.1 at ``port``.
        log: file for what it prints.
        ready: path of the URL that it answers with 200 when it is up.
        environment: variables to add.
        stop: the signal that ends it and what it started.

    Yields:
        its URL.
    """
    url = f"http://127.0.0.1:{port}"
    # what a server starts in turn lies beside this Python, activated or not
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PATH": path} | (environment or {}),
            start_new_session=True,  # its workers end with it
        )
    try:
        for _ in range(600):
            if process.poll() is not None:
                pytest.fail(f"{command[0]} ended: {log.read_text()[-2000:]}")
            try:
                with urllib.request.urlopen(url + ready, timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        else:
            pytest.fail(f"{command[0]} does not answer: {log.read_text()[-2000:]}")
        yield url
    finally:
        with suppress(ProcessLookupError):  # it may have ended by itself
            os.killpg(process.pid, stop)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
