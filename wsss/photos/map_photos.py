"""Run a job over a list of photos: skip those that are done, compute the others in parallel."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import torch

from wsss.errors import InputError
from wsss.models.ready import with_ready_networks
from wsss.photos.jobs import Job
from wsss.runtime import engine
from wsss.runtime.devices import cores, pick_device, repeatable, reuse_memory, timed_work
from wsss.runtime.processes import end_with
from wsss.runtime.progress import progress


class PhotosFailed(InputError):
    """Some photos failed, the others are done; the message names the first that failed.

    Attributes:
        faults: photo id to the message: what is wrong and the fix.
    """

    def __init__(self, faults: dict[str, str]) -> None:
        first = next(iter(faults.values()))
        more = f" (and {len(faults) - 1} more photos failed)" if len(faults) > 1 else ""
        super().__init__(first + more)
        self.faults = faults


@timed_work()
def infer(ids: Sequence[str], job: Job, *, label: str, processes: int | None = None) -> int:
    """Run a job over photos.

    With a GPU, this process runs ``predict`` and a pool runs ``postprocess``. Without one, each
    process of the pool runs both on its share of the threads: several small networks in parallel
    keep the cores busier than one network on all of them. If an engine was chosen
    (``wsss.runtime.engine``), it runs both, and ``processes`` is ignored.

    Args:
        ids: photo ids.
        job: what is done to each photo.
        label: of the progress line.
        processes: of the pool; 0 or None takes one a core, 1 runs without a pool.

    Returns:
        how many photos were computed; the others were done before.

    Raises:
        PhotosFailed: after the last photo, if any failed because of its input.
        RuntimeError: a process of the pool was killed; photos that are done stay.
    """
    todo = [photo_id for photo_id in ids if not job.done(photo_id)]
    if not todo:
        return 0
    if chosen := engine.handed_in(engine.PHOTOS):
        with chosen.submitting(job) as (submit, most):
            return _report(_through(todo, submit, label, most=most))
    processes = min(processes or cores(), len(todo))
    if processes == 1:
        _set_job(with_ready_networks(job), torch.get_num_threads())
        return _report([(each, _both(each)) for each in progress(todo, label, total=len(todo))])
    try:
        return _report(_pooled(todo, job, label, processes))
    except BrokenProcessPool:
        raise RuntimeError(
            f"a process that computes '{label}' was killed, most often because memory ran out; "
            "what is done is kept, and the same command goes on with the rest, with processes=1 "
            "in less memory"
        ) from None


def _pooled(todo, job, label, processes):
    """(photo id, fault or None) of each photo, in the order in which they were done."""
    here = with_ready_networks(job) if pick_device().type == "cuda" else None  # the GPU's process
    context = multiprocessing.get_context("spawn")
    threads = max(1, cores() // processes)
    theirs, ours = context.Pipe(duplex=False)
    settings = (job, threads, not here, theirs)
    with theirs, ours, ProcessPoolExecutor(processes, context, _initialise, settings) as pool:

        def submit(photo_id):
            if here:
                return _submitted(pool, _postprocess, photo_id, here.predict(photo_id))
            return _submitted(pool, _both, photo_id)

        try:
            return _through(todo, submit, label, most=2 * processes)
        except BrokenProcessPool:
            # end a worker that was just starting when another was killed: the pool no longer knows
            # of it and would wait forever
            ours.close()
            raise


def _through(todo, submit, label, *, most):
    """The result of ``_pooled``; at most ``most`` photos are in progress, since payloads of a fast
    ``predict`` must not pile up before a slow ``postprocess``.
    """
    outcomes, waiting = [], {}  # future of a photo in progress to its id
    for count, photo_id in enumerate(progress(todo, label, total=len(todo))):
        try:
            waiting[submit(photo_id)] = photo_id
        except InputError as fault:
            outcomes.append((photo_id, str(fault)))
        last = count == len(todo) - 1
        while waiting and (last or len(waiting) >= most):
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            outcomes += [(waiting.pop(future), future.result()) for future in finished]
    return outcomes


def _submitted(pool, function, *arguments):
    """The future of a call; the pool may start one more worker for it."""
    try:
        return pool.submit(function, *arguments)
    except (ValueError, OSError) as fault:
        if getattr(fault, "errno", None):  # of the system
            raise
        raise BrokenProcessPool("a worker was killed while another one started") from fault


def _report(outcomes):
    """The number of photos; raises all their faults as one."""
    faults = {photo_id: fault for photo_id, fault in outcomes if fault}
    if faults:
        raise PhotosFailed(faults)
    return len(outcomes)


_job: Job  # of this process, set once when it starts


def _set_job(job, threads):
    global _job
    _job = job
    reuse_memory()
    torch.set_num_threads(threads)


def _initialise(job, threads, predicts, line):
    """Set a worker up; its networks are prepared only if it predicts."""
    end_with(line)
    _set_job(with_ready_networks(job) if predicts else job, threads)


def _both(photo_id):
    try:
        with repeatable():
            _job.postprocess(photo_id, _job.predict(photo_id))
    except InputError as fault:
        return str(fault)


def _postprocess(photo_id, payload):
    try:
        _job.postprocess(photo_id, payload)
    except InputError as fault:
        return str(fault)
