"""One map over a list of photos: what exists is skipped, the rest is computed in parallel."""

import copy
import multiprocessing
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol

import torch
from torch import nn

from wsss.errors import InputError
from wsss.models.layers import fold_norms, fuse_activations
from wsss.runtime import engine
from wsss.runtime.devices import cores, pick_device, precision, repeatable, reuse_memory, timed_work
from wsss.runtime.processes import end_with
from wsss.runtime.progress import progress


class Job(Protocol):
    """What is done to a photo; picklable, and importable where the workers are.

    Its networks are attributes, which ``infer`` makes ready once in each process that runs them.
    """

    def done(self, id):
        """Whether the photo's results are there, whole."""

    def forward(self, id):
        """The networks' part; what it returns goes to ``finish``."""

    def finish(self, id, payload):
        """The rest, on the CPU, ending with an atomic write."""


class PhotosFailed(InputError):
    """Some photos could not be computed, the others could; the message names the first.

    Attributes:
        faults: photo id to what is wrong and the mend.
    """

    def __init__(self, faults):
        first = next(iter(faults.values()))
        more = f" (and {len(faults) - 1} more photos failed)" if len(faults) > 1 else ""
        super().__init__(first + more)
        self.faults = faults


def ready(network):
    """A copy of a network for inference alone, on the GPU where there is one.

    What would be done to its weights at each photo is done once: frozen norms are folded in, and
    convolutions keep them in the precision and the order in memory that they are computed in. On a
    processor they apply the activations that follow, too.
    """
    reuse_memory()
    device = pick_device()
    network = copy.deepcopy(network).to(device).eval().requires_grad_(False)
    fold_norms(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(precision(device), memory_format=torch.channels_last)
    if device.type == "cpu":
        fuse_activations(network)
    return network


def with_ready_networks(job):
    """A copy of a job whose networks are made ``ready``."""
    copied = copy.copy(job)
    for name, value in vars(job).items():
        if isinstance(value, nn.Module):
            setattr(copied, name, ready(value))
    return copied


@timed_work()
def infer(ids, job, *, label, processes=None):
    """Run a job over photos.

    With a GPU, this process runs ``forward`` and a pool runs ``finish``. Without one, each process
    of the pool runs both with its share of the threads: several small networks side by side keep
    the cores busier than one network on all of them. If an engine was chosen
    (``wsss.runtime.engine``), it runs both, and ``processes`` is ignored.

    Args:
        ids: photo ids.
        job: a ``Job``.
        label: for the progress line.
        processes: of the pool; 0 or None takes one a core, 1 does without a pool.

    Returns:
        how many photos were computed, the others having been there.

    Raises:
        PhotosFailed: after the last photo, if any failed for its input.
        RuntimeError: a process of the pool was killed; the photos that were done stay.
    """
    todo = [id for id in ids if not job.done(id)]
    if not todo:
        return 0
    if chosen := engine.handed_in(engine.PHOTOS):
        with chosen.submitting(job) as (submit, most):
            return _report(_through(todo, submit, label, most=most))
    processes = min(processes or cores(), len(todo))
    if processes == 1:
        _set_job(with_ready_networks(job), torch.get_num_threads())
        return _report([(id, _both(id)) for id in progress(todo, label, total=len(todo))])
    try:
        return _report(_pooled(todo, job, label, processes))
    except BrokenProcessPool:
        raise RuntimeError(
            f"a process that computes '{label}' was killed, most often because memory ran out; "
            "what is done is kept, and the same command goes on with the rest, with processes=1 "
            "in less memory"
        ) from None


def _pooled(todo, job, label, processes):
    """Photos' ids with their faults, in the order in which they were done."""
    here = with_ready_networks(job) if pick_device().type == "cuda" else None  # the GPU's process
    context = multiprocessing.get_context("spawn")
    threads = max(1, cores() // processes)
    theirs, ours = context.Pipe(duplex=False)
    settings = (job, threads, not here, theirs)
    with theirs, ours, ProcessPoolExecutor(processes, context, _initialise, settings) as pool:

        def submit(id):
            if here:
                return _submitted(pool, _finish, id, here.forward(id))
            return _submitted(pool, _both, id)

        try:
            return _through(todo, submit, label, most=2 * processes)
        except BrokenProcessPool:
            # ends a worker that was just starting when another was killed: the pool has lost sight
            # of it, and would wait for it forever
            ours.close()
            raise


def _through(todo, submit, label, *, most):
    """What ``_pooled`` returns; ``most`` photos are under way at once, since payloads of a fast
    forward must not pile up before a slow finish.
    """
    outcomes, waiting = [], {}  # what is under way, to the photo's id
    for count, id in enumerate(progress(todo, label, total=len(todo))):
        try:
            waiting[submit(id)] = id
        except InputError as fault:
            outcomes.append((id, str(fault)))
        last = count == len(todo) - 1
        while waiting and (last or len(waiting) >= most):
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            outcomes += [(waiting.pop(future), future.result()) for future in finished]
    return outcomes


def _submitted(pool, function, *arguments):
    """The future of a call, for which the pool may start one more worker."""
    try:
        return pool.submit(function, *arguments)
    except (ValueError, OSError) as fault:
        if getattr(fault, "errno", None):  # of the system
            raise
        raise BrokenProcessPool("a worker was killed while another one started") from fault


def _report(outcomes):
    """How many photos there were, or their faults raised as one."""
    faults = {id: fault for id, fault in outcomes if fault}
    if faults:
        raise PhotosFailed(faults)
    return len(outcomes)


_job = None  # of a worker process, set once when it starts


def _set_job(job, threads):
    global _job
    _job = job
    reuse_memory()
    torch.set_num_threads(threads)


def _initialise(job, threads, forward, line):
    """Set a worker up."""
    end_with(line)
    _set_job(with_ready_networks(job) if forward else job, threads)


def _both(id):
    try:
        with repeatable():
            _job.finish(id, _job.forward(id))
    except InputError as fault:
        return str(fault)


def _finish(id, payload):
    try:
        _job.finish(id, payload)
    except InputError as fault:
        return str(fault)
