"""Photos as tasks of a Ray cluster.

A task whose machine is lost starts again on another one. Photos are written whole or not at all, so
only those in progress are lost.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import ray
import torch

from wsss.cluster.object_store import clear_scratch
from wsss.cluster.session import RETRIES, connect, driver, mirrored, resources
from wsss.errors import InputError, reason
from wsss.models.ready import with_ready_networks
from wsss.photos.jobs import Job
from wsss.runtime.devices import repeatable, reuse_memory


@contextmanager
def submitting(job: Job) -> Iterator[tuple[Callable[[str], Future], int]]:
    """Submit photos to the cluster within the block.

    Networks run on GPUs where the cluster has any, and what follows on its CPUs, so that neither
    waits for the other; without GPUs a CPU does both.

    Yields:
        a function that submits a photo's id and returns the future of its error message, or of
        None; and how many photos should be in progress at once.

    Raises:
        RuntimeError: a photo's worker was lost again and again.
    """
    connect()
    cpus, gpus = resources()
    options = {"max_retries": RETRIES}
    if gpus:
        predict = ray.remote(num_gpus=1, num_cpus=0, max_calls=0, **options)(_predict)
        postprocess = ray.remote(num_cpus=1, **options)(_postprocess)
    else:
        both = ray.remote(num_cpus=1, **options)(_both)
    with driver() as this, mirrored(job):
        # in a list, or Ray would unpack the networks anew for each photo
        sent = [ray.put((this, job))]

        def submit(id):
            if gpus:
                return postprocess.remote(sent, id, predict.remote(sent, id)).future()
            return both.remote(sent, id).future()

        try:
            yield submit, 2 * (cpus + gpus)
        except (ray.exceptions.RayError, ray.exceptions.RaySystemError) as error:
            raise RuntimeError(
                f"the Ray cluster lost a photo's worker {RETRIES + 1} times ({reason(error)}), "
                "most often because memory ran out; what is done is kept, and the same command "
                "continues"
            ) from None


_held = {}  # of a worker, with networks and without: the job's reference, and the job that is ready


def _ready(sent, *, networks):
    """The job, made ready once in each worker."""
    reference = sent[0].hex()
    if _held.get(networks, (None,))[0] != reference:
        sender, job = ray.get(sent[0])
        sender.prepare_worker()
        reuse_memory()
        torch.set_num_threads(1)  # a CPU for each worker
        _held[networks] = reference, with_ready_networks(job) if networks else job
    return _held[networks][1]


def _both(sent, id):
    try:
        job = _ready(sent, networks=True)
        if not job.done(id):  # by a worker that was lost right after
            with repeatable():
                job.postprocess(id, job.predict(id))
    except InputError as error:
        return str(error)
    finally:
        clear_scratch()


def _predict(sent, id):
    try:
        return _ready(sent, networks=True).predict(id)
    except InputError as error:
        return error
    finally:
        clear_scratch()


def _postprocess(sent, id, payload):
    if isinstance(payload, InputError):
        return str(payload)
    try:
        _ready(sent, networks=False).postprocess(id, payload)
    except InputError as error:
        return str(error)
    finally:
        clear_scratch()
