"""Photos as tasks of a Ray cluster.

A task whose machine is lost is given to another one; photos are written whole or not at all, so
nothing is lost but what was under way.
"""

from contextlib import contextmanager

import ray
import torch

from wsss import mirror
from wsss.cluster import RETRIES, asker, connect, mirrored, resources
from wsss.devices import repeatable, reuse_memory
from wsss.errors import InputError, reason
from wsss.models.ready import with_ready_networks


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
    cpus, gpus = resources()
    options = {"max_retries": RETRIES}
    if gpus:
        predict = ray.remote(num_gpus=1, num_cpus=0, max_calls=0, **options)(_predict)
        postprocess = ray.remote(num_cpus=1, **options)(_postprocess)
    else:
        both = ray.remote(num_cpus=1, **options)(_both)
    with asker() as here, mirrored(job):
        # in a list, or Ray would unpack the networks anew for each photo
        sent = [ray.put((here, job))]

        def submit(id):
            if gpus:
                return postprocess.remote(sent, id, predict.remote(sent, id)).future()
            return both.remote(sent, id).future()

        try:
            yield submit, 2 * (cpus + gpus)
        except (ray.exceptions.RayError, ray.exceptions.RaySystemError) as fault:
            raise RuntimeError(
                f"the Ray cluster lost a photo's worker {RETRIES + 1} times ({reason(fault)}), "
                "most often because memory ran out; what is done is kept, and the same command "
                "goes on"
            ) from None


_held = {}  # of a worker, with networks and without: what it was sent, and the job that is ready


def _ready(sent, *, networks):
    """The job, made ready once in each worker."""
    reference = sent[0].hex()
    if _held.get(networks, (None,))[0] != reference:
        there, job = ray.get(sent[0])
        there.follow()
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
    except InputError as fault:
        return str(fault)
    finally:
        mirror.forget()


def _predict(sent, id):
    try:
        return _ready(sent, networks=True).predict(id)
    except InputError as fault:
        return fault
    finally:
        mirror.forget()


def _postprocess(sent, id, payload):
    if isinstance(payload, InputError):
        return str(payload)
    try:
        _ready(sent, networks=False).postprocess(id, payload)
    except InputError as fault:
        return str(fault)
    finally:
        mirror.forget()
