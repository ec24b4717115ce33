"""The machines of a Ray cluster: photos are tasks of it. Ray is the optional extra
``wsss[cluster]``.

Machines need the same wsss, and the folders of data and of outputs at the same paths. A task whose
machine is lost is given to another one; photos are written whole or not at all, so nothing is lost
but what was under way.
"""

import logging
import platform
import socket
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import ray
import torch

import wsss
from wsss import stages
from wsss.devices import repeatable, reuse_memory
from wsss.engines import ray_address
from wsss.errors import InputError, reason
from wsss.infer import Job, with_ready_networks

ANSWER = 10  # seconds that a cluster has to answer
RETRIES = 3  # of a task whose worker or machine is gone


class Sent(NamedTuple):
    """What a worker gets once: a job, and what tells that it is in the right place."""

    job: Job
    version: str  # of wsss
    mark: Path  # a file that all machines see


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


def check():
    """InputError where the cluster does not answer."""
    connect()
    ray.shutdown()


@contextmanager
def submitting(job):
    """Photos handed to the cluster, within the block.

    Networks run on GPUs where the cluster has any, and what follows on its CPUs, so that neither
    waits for the other; without GPUs a CPU does both.

    Yields:
        a function from a photo's id to the ``concurrent.futures.Future`` of its fault, or of None;
        and how many photos should be under way at once.
    """
    connect()
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    root = stages.outputs_root()
    root.mkdir(parents=True, exist_ok=True)
    mark = root / f".seen-{uuid.uuid4().hex}"
    mark.touch()
    # in a list, or Ray would unpack the networks anew for each photo
    sent = [ray.put(Sent(job, wsss.__version__, mark))]
    options = {"max_retries": RETRIES}
    if gpus:
        forward = ray.remote(num_gpus=1, num_cpus=0, max_calls=0, **options)(_forward)
        finish = ray.remote(num_cpus=1, **options)(_finish)
    else:
        both = ray.remote(num_cpus=1, **options)(_both)

    def submit(id):
        if gpus:
            return finish.remote(sent, id, forward.remote(sent, id)).future()
        return both.remote(sent, id).future()

    try:
        yield submit, 2 * (cpus + gpus)
    except (ray.exceptions.RayError, ray.exceptions.RaySystemError) as fault:
        raise RuntimeError(
            f"the Ray cluster lost a photo's worker {RETRIES + 1} times ({reason(fault)}), most "
            "often because memory ran out; what is done is kept, and the same command goes on"
        ) from None
    finally:
        mark.unlink(missing_ok=True)


_held = None, None  # of a worker: what it was sent, and the job that is ready


def _ready(sent, *, networks):
    """The job, made ready once in each worker."""
    global _held
    key = sent[0].hex(), networks
    if _held[0] != key:
        job, version, mark = ray.get(sent[0])
        if version != wsss.__version__:
            raise InputError(
                f"{platform.node()}: expected wsss {version} as on the machine that asks, got "
                f"{wsss.__version__}; install that one"
            )
        if not mark.exists():
            raise InputError(
                f"{platform.node()}: {mark.parent} is not the folder that it is on the machine "
                "that asks; mount it at this path"
            )
        reuse_memory()
        torch.set_num_threads(1)  # a CPU for each worker
        _held = key, with_ready_networks(job) if networks else job
    return _held[1]


def _both(sent, id):
    try:
        job = _ready(sent, networks=True)
        if not job.done(id):  # by a worker that was lost right after
            with repeatable():
                job.finish(id, job.forward(id))
    except InputError as fault:
        return str(fault)


def _forward(sent, id):
    try:
        return _ready(sent, networks=True).forward(id)
    except InputError as fault:
        return fault


def _finish(sent, id, payload):
    if isinstance(payload, InputError):
        return str(payload)
    try:
        _ready(sent, networks=False).finish(id, payload)
    except InputError as fault:
        return str(fault)
