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

    Networks run on GPUs if the cluster has any, and the rest of the job on its CPUs, so that
    neither waits for the other; without GPUs a CPU does both.

    Yields:
        a function that submits a photo's id and returns the future of its error message, or of
        None; and how many photos should be in progress at once.

    Raises:
        RuntimeError: a photo's worker was lost repeatedly.
    """
    connect()
    cpus, gpus = resources()
    options = {"max_retries": RETRIES}
    if gpus:
        predict = ray.remote(num_gpus=1, num_cpus=0, max_calls=0, **options)(_predict)
        postprocess = ray.remote(num_cpus=1, **options)(_postprocess)
    else:
        both = ray.remote(num_cpus=1, **options)(_both)
    with driver() as sender, mirrored(job):
        # in a list, or Ray would unpack the networks anew for each photo
        sent = [ray.put((sender, job))]

        def submit(photo_id):
            if gpus:
                payload = predict.remote(sent, photo_id)
                return postprocess.remote(sent, photo_id, payload).future()
            return both.remote(sent, photo_id).future()

        try:
            yield submit, 2 * (cpus + gpus)
        except ray.exceptions.RayError as error:
            raise RuntimeError(
                f"the Ray cluster lost a photo's worker {RETRIES + 1} times ({reason(error)}), "
                "most often because memory ran out; finished photos are kept; run the same "
                "command again to continue"
            ) from None


_held = {}  # a worker's job and its reference, with networks ready (key True) and without (False)


def _ready(sent, *, networks):
    """The job, prepared once in each worker."""
    reference = sent[0].hex()
    if _held.get(networks, (None,))[0] != reference:
        sender, job = ray.get(sent[0])
        sender.prepare_worker()
        reuse_memory()
        torch.set_num_threads(1)  # each worker has one CPU
        _held[networks] = reference, with_ready_networks(job) if networks else job
    return _held[networks][1]


def _both(sent, photo_id):
    try:
        job = _ready(sent, networks=True)
        if not job.done(photo_id):  # by a worker that was lost right after
            with repeatable():
                job.postprocess(photo_id, job.predict(photo_id))
    except InputError as error:
        return str(error)
    finally:
        clear_scratch()


def _predict(sent, photo_id):
    try:
        return _ready(sent, networks=True).predict(photo_id)
    except InputError as error:
        return error
    finally:
        clear_scratch()


def _postprocess(sent, photo_id, payload):
    if isinstance(payload, InputError):
        return str(payload)
    try:
        _ready(sent, networks=False).postprocess(photo_id, payload)
    except InputError as error:
        return str(error)
    finally:
        clear_scratch()
