"""The connection to a Ray cluster, whose machines need the same version of wsss, and either the
same folders of data and outputs at the same paths or a mirror of them (``object_store``).
"""

import logging
import os
import platform
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple

import ray

import wsss
from wsss.cluster import object_store
from wsss.errors import InputError, reason
from wsss.lab.paths import outputs_root
from wsss.runtime import engine

ANSWER_SECONDS = 10  # timeout of a connection to a cluster
RETRIES = 3  # restarts of a task or a training after its process or machine was lost


def start(address: str | None = None, mirror: str | None = None) -> None:
    """Use a Ray cluster, by its ``ray.init`` address or None for the one that this machine is part
    of, in this process and those that it starts; with the address of a ``mirror`` if its machines
    share no folder. Raises InputError if the cluster or the mirror does not answer.
    """
    names = {"photos": "wsss.cluster.photos", "training": "wsss.cluster.training"}
    engine.choose(**names, address=address or "auto")
    connect()
    ray.shutdown()  # each notebook's process connects by itself
    object_store.choose(mirror)


def connect() -> None:
    """Connect this process to the chosen cluster, or raise InputError if none answers."""
    if ray.is_initialized():
        return
    address = os.environ.get(engine.ADDRESS) or "auto"
    try:
        if ":" in address:  # without this check, Ray waits for minutes
            host, _, port = address.rpartition("/")[2].rpartition(":")
            socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"no Ray cluster answers at '{address}' ({reason(error)}); start one with `ray start "
            "--head`, give its --address HOST:PORT, set RAY_AUTH_MODE=token if it asks for a token"
        ) from None


def resources() -> tuple[int, int]:
    """The numbers of CPUs and GPUs of the connected cluster."""
    found = ray.cluster_resources()
    return int(found.get("CPU", 0)), int(found.get("GPU", 0))


class Driver(NamedTuple):
    """What a worker must know about the machine that sends it work."""

    version: str  # of wsss
    marker: Path  # a file in the driver's outputs folder
    mirror: str | None  # its address

    def prepare_worker(self) -> None:
        """Prepare this worker; raise InputError for another version of wsss or other folders."""
        if self.version != wsss.__version__:
            raise InputError(
                f"{platform.node()}: expected wsss {self.version} as on the driver's machine, got "
                f"{wsss.__version__}; install the driver's version"
            )
        object_store.work_from(self.mirror)
        if not self.mirror and not self.marker.exists():
            raise InputError(
                f"{platform.node()}: expected the driver's folder {self.marker.parent}, got a "
                "folder without its files; mount it at this path, or give a --mirror"
            )


@contextmanager
def driver(sent: object) -> Iterator[Driver]:
    """This machine as the ``Driver`` of workers. With a mirror, the paths that ``sent`` refers to
    are uploaded before the block and downloaded after it, even on error.
    """
    mirror, root = object_store.address(), outputs_root()
    root.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(prefix=".driver-", dir=root) as marker, ExitStack() as stack:
        if mirror and (paths := object_store.paths_in(sent)):
            object_store.upload(paths)
            stack.callback(object_store.download, paths)
        yield Driver(wsss.__version__, Path(marker.name), mirror)
