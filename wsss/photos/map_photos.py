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
from wsss.runtime.processes import exit_with_parent
from wsss.runtime.progress import progress


class PhotosFailed(InputError):
    """Some photos failed, the others are done. ``faults`` maps a photo's id to its error message;
    the first one is this error's.
    """

    def __init__(self, faults: dict[str, str]) -> None:
        first = next(iter(faults.values()))
        more = f" (and {len(faults) - 1} more photos failed)" if len(faults) > 1 else ""
        super().__init__(first + more)
        self.faults = faults


@timed_work()
def infer(ids: Sequence[str], job: Job, *, label: str, processes: int | None = None) -> int:
    """Run a job over photos; returns how many were computed, the others were done before.

    With a GPU, this process runs ``predict`` and a pool runs ``postprocess``. Without one, each
    process of the pool runs both on an equal number of threads: several small networks in parallel
    keep the cores busier than one network on all of them. The pool has ``processes``; 0 or None
    takes one per core, 1 runs without a pool. If an engine was chosen (``wsss.runtime.engine``), it
    runs both, and ``processes`` is ignored.

    Raises PhotosFailed after the last photo, if any failed because of its input, and RuntimeError
    if a process of the pool was killed; finished photos stay.
    """
    todo = [photo_id for photo_id in ids if not job.done(photo_id)]
    processes = min(processes or cores(), len(todo))
    if not todo:
        return 0
    if chosen := engine.handed_in(engine.PHOTOS):
        with chosen.submitting(job) as (submit, most):
            outcomes = _collect(todo, submit, label, most=most)
    elif processes == 1:
        reuse_memory()
        job = with_ready_networks(job)
        outcomes = [(photo_id, compute(job, photo_id)) for photo_id in progress(todo, label)]
    else:
        outcomes = _pooled(todo, job, label, processes)
    if faults := {photo_id: fault for photo_id, fault in outcomes if fault}:
        raise PhotosFailed(faults)
    return len(outcomes)


def _pooled(todo, job, label, processes):
    """``_collect`` with a pool of processes."""
    on_gpu = with_ready_networks(job) if pick_device().type == "cuda" else None
    threads = max(1, cores() // processes)
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(processes, context, _initialise, (job, threads, not on_gpu)) as pool:

        def submit(photo_id):
            payload = [on_gpu.predict(photo_id)] if on_gpu else []
            try:
                return pool.submit(_compute_here, photo_id, *payload)
            except (ValueError, OSError) as error:
                if getattr(error, "errno", None):  # of the system
                    raise
                raise BrokenProcessPool("a worker was killed while another one started") from error

        try:
            return _collect(todo, submit, label, most=2 * processes)
        except BrokenProcessPool:
            # the pool does not know of a worker that was just starting when another was killed,
            # and this process could not exit before it
            for worker in set(multiprocessing.active_children()) - set(others):
                worker.kill()
            raise RuntimeError(
                f"a process that computes '{label}' was killed, most often because memory ran out; "
                "finished photos are kept; run the same command again for the others, with "
                "processes=1 to use less memory"
            ) from None


def _collect(todo, submit, label, *, most):
    """(photo id, error message or None) of each photo, in the order of completion. At most ``most``
    are in progress, since payloads must not pile up before a slow ``postprocess``.
    """
    outcomes, waiting = [], {}  # future of a photo in progress to its id
    for count, photo_id in enumerate(progress(todo, label), 1):
        try:
            waiting[submit(photo_id)] = photo_id
        except InputError as fault:
            outcomes.append((photo_id, str(fault)))
        while waiting and (count == len(todo) or len(waiting) >= most):
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            outcomes += [(waiting.pop(future), future.result()) for future in finished]
    return outcomes


_job: Job  # of this worker, set once when it starts


def _initialise(job, threads, predicts):
    """Prepare a worker; its networks are made ready only if it predicts."""
    global _job
    exit_with_parent()
    reuse_memory()
    torch.set_num_threads(threads)
    _job = with_ready_networks(job) if predicts else job


def _compute_here(*given):
    return compute(_job, *given)


def compute(job: Job, photo_id: str, *payload: object) -> str | None:
    """Compute a photo, or only postprocess its payload; returns the message of an InputError."""
    try:
        with repeatable():
            job.postprocess(photo_id, *(payload or [job.predict(photo_id)]))
    except InputError as fault:
        return str(fault)
