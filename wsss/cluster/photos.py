"""Photos as tasks of a Ray cluster. A task whose machine is lost starts again on another one; as
photos are written whole or not at all, only those in progress are lost.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import lru_cache

import ray
import torch

from wsss.cluster.object_store import clear_scratch
from wsss.cluster.session import RETRIES, connect, driver, resources
from wsss.errors import InputError, reason
from wsss.models.ready import with_ready_networks
from wsss.photos.jobs import Job
from wsss.photos.map_photos import compute
from wsss.runtime.devices import reuse_memory


@contextmanager
def submitting(job: Job) -> Iterator[tuple[Callable[[str], Future], int]]:
    """Within the block, a function that submits a photo's id and returns the future of its error
    message, or of None; and how many photos should be in progress at once.

    Networks run on GPUs if the cluster has any, and the rest of the job on its CPUs, so that
    neither waits for the other; without GPUs a CPU does both. Raises RuntimeError if a photo's
    worker was lost repeatedly.
    """
    connect()
    cpus, gpus = resources()
    on_gpu = ray.remote(num_gpus=1, num_cpus=0, max_calls=0, max_retries=RETRIES)(_predict)
    on_cpu = ray.remote(num_cpus=1, max_retries=RETRIES)(_compute)
    with driver(job) as sender:
        # in a list, or Ray would unpack the networks anew for each photo
        sent = [ray.put((sender, job))]

        def submit(photo_id):
            payload = [on_gpu.remote(sent, photo_id)] if gpus else []
            return on_cpu.remote(sent, photo_id, *payload).future()

        try:
            yield submit, 2 * (cpus + gpus)
        except ray.exceptions.RayError as error:
            raise RuntimeError(
                f"the Ray cluster lost a photo's worker {RETRIES + 1} times ({reason(error)}), "
                "most often because memory ran out; finished photos are kept; run the same "
                "command again to continue"
            ) from None


@lru_cache(maxsize=2)  # with networks ready and without
def _ready(reference, *, networks):
    """The job, prepared once in each worker."""
    sender, job = ray.get(reference)
    sender.prepare_worker()
    reuse_memory()
    torch.set_num_threads(1)  # each worker has one CPU
    return with_ready_networks(job) if networks else job


def _predict(sent, photo_id):
    try:
        return _ready(sent[0], networks=True).predict(photo_id)
    except InputError as error:
        return error
    finally:
        clear_scratch()


def _compute(sent, photo_id, *payload):
    """``compute``, by the job that was sent; a payload may be the error of ``_predict``."""
    try:
        if payload and isinstance(payload[0], InputError):
            raise payload[0]
        job = _ready(sent[0], networks=not payload)
        # a worker that was lost right after may have written the photo
        return None if job.done(photo_id) else compute(job, photo_id, *payload)
    except InputError as error:
        return str(error)
    finally:
        clear_scratch()
