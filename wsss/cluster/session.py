"""The machines of a Ray cluster, on which photos and trainings are worked on. Ray is the optional
extra ``wsss[cluster]``.

Machines need the same wsss, and either the folders of data and of outputs at the same paths or a
``wsss.io.mirror`` of them.
"""

import logging
import platform
import socket
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import ray

import wsss
from wsss.errors import InputError, reason
from wsss.io import mirror as io_mirror
from wsss.lab import paths as lab_paths
from wsss.runtime.engine import ray_address

ANSWER = 10  # seconds that a cluster has to answer
RETRIES = 3  # of what a process or a machine was lost with


class Asker(NamedTuple):
    """What the machine that asks has others compare themselves with."""

    version: str  # of wsss
    mark: Path  # a file among its outputs
    mirror: str | None  # its address

    def follow(self):
        """Have this process work for the one that asks.

        Raises:
            InputError: this machine's wsss or folders are others.
        """
        if self.version != wsss.__version__:
            raise InputError(
                f"{platform.node()}: expected wsss {self.version} as on the machine that asks, got "
                f"{wsss.__version__}; install that one"
            )
        io_mirror.work_from(self.mirror)
        if not self.mirror and not self.mark.exists():
            raise InputError(
                f"{platform.node()}: {self.mark.parent} is not the folder that it is on the "
                "machine that asks; mount it at this path, or give a --mirror"
            )


@contextmanager
def asker():
    """This machine's ``Asker``, for as long as the block lasts."""
    root = lab_paths.outputs_root()
    root.mkdir(parents=True, exist_ok=True)
    mark = root / f".seen-{uuid.uuid4().hex}"
    mark.touch()
    try:
        yield Asker(wsss.__version__, mark, io_mirror.address())
    finally:
        mark.unlink(missing_ok=True)


@contextmanager
def mirrored(sent):
    """Have the mirror, if there is one, hold what is sent to other machines names of files and
    folders, and have these afterwards what it holds of them, however the block ends.
    """
    paths = io_mirror.paths_in(sent) if io_mirror.address() else ()
    if not paths:
        yield
        return
    io_mirror.bring(paths)
    try:
        yield
    finally:
        io_mirror.fetch(paths)


def connect():
    """Be one of a cluster's drivers, if this process is not yet.

    Raises:
        InputError: no cluster answers there.
    """
    if ray.is_initialized():
        return
    address = ray_address()
    try:
        if ":" in address:  # or Ray would wait for minutes
            host, _, port = address.rpartition("/")[2].rpartition(":")
            socket.create_connection((host, int(port)), timeout=ANSWER).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as fault:
        raise InputError(
            f"no Ray cluster answers at '{address}' ({reason(fault)}); start one with `ray start "
            "--head`, give its --address HOST:PORT, set RAY_AUTH_MODE=token if it asks for a token"
        ) from None


def resources():
    """How many CPUs and GPUs the cluster has that this process is connected to."""
    found = ray.cluster_resources()
    return int(found.get("CPU", 0)), int(found.get("GPU", 0))


def check():
    """InputError where the cluster does not answer."""
    connect()
    ray.shutdown()
