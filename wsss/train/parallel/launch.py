"""Run a training function in several processes of one machine, joined by torch.distributed."""

import os
import pickle
import signal
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

from wsss.errors import InputError, reason
from wsss.runtime import engine
from wsss.runtime.devices import cores
from wsss.runtime.processes import exit_with_parent
from wsss.train.parallel import messages


def launch(function: Callable, *arguments: Any, processes: int, **callbacks: Callable) -> Any:
    """Run a function in several processes and return what process 0 returned. One process is a
    plain call. If a Ray cluster was chosen (``wsss.runtime.engine``), its workers run the function.

    Processes are spawned and joined by gloo on CPUs, by nccl on GPUs, one GPU each. They get copies
    of the arguments and an equal number of threads, and exit when this process does. Raises
    InputError for more processes than this machine can run, TypeError for what cannot be pickled,
    RuntimeError if a process was killed or exited, and the first error raised in any process, with
    its traceback as a note.

    Args:
        function: importable, its arguments picklable. A script that calls this must do so under
            ``if __name__ == "__main__":``.
        processes: 1 or more; at most the number of GPUs, if any.
        callbacks: keyword arguments of ``function``. Calls by process 0 run in this process, in
            order and asynchronously; calls by the others are dropped.
    """
    if chosen := engine.handed_in(engine.TRAINING):
        return chosen.launch(function, *arguments, processes=processes, **callbacks)
    if processes == 1:
        return function(*arguments, **callbacks)
    gpus = torch.cuda.device_count()
    if processes < 1 or 0 < gpus < processes:
        expected = f"1 to {gpus}, one per GPU" if gpus else "1 or more"
        raise InputError(f"train_processes {processes}: expected {expected}; change it")
    try:
        task = pickle.dumps((function, arguments, list(callbacks)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"expected a function and arguments that other processes can import ({reason(error)}); "
            "define them in a module"
        ) from None
    context = multiprocessing.get_context("spawn")
    started: dict[Any, Any] = {}  # an end of a pipe to the process at its other end, by rank
    with tempfile.TemporaryDirectory(prefix="wsss-launch-") as folder:
        try:
            for rank in range(processes):
                end, other = context.Pipe()
                name, given = f"training process {rank}", (other, rank, processes, folder)
                process = context.Process(target=_run, args=given, name=name)
                process.start()
                started[end] = process
                other.close()  # so that the death of the process is an end of file
            for end in started:
                # as an argument of the process its tensors would be shared, not copied
                with suppress(OSError):  # the process is dead, which _serve reports
                    end.send_bytes(task)
            result = _serve(started, callbacks)
            for end in started:
                end.close()  # on which the process exits
            for process in started.values():
                process.join(messages.EXIT_TIMEOUT)
            return result
        finally:
            for process in started.values():
                process.kill()
                process.join()


def _serve(started, callbacks):
    """Run the callbacks until process 0 returns a result, which this returns too."""
    error: Any = None
    ready: list[Any]
    while ready := wait(list(started), messages.ERROR_GRACE_SECONDS if error else None):
        for end in ready:
            try:
                name, *given = end.recv()
            except (EOFError, OSError):
                raise _death(started[end]) from None
            if name == "return":  # a keyword, so no callback has this name
                return given[0]
            if name == "raise":
                error = error or given[0]
            else:
                callbacks[name](*given)
    raise error


def _death(process):
    process.join(messages.ERROR_GRACE_SECONDS)
    code = process.exitcode or 0
    how = f"was killed (signal {-code}), most often because memory ran out; run the same command "
    how += "again to resume from the last checkpoint"
    if code >= 0:
        how = f"exited with code {code}; its output says why; a script that trains needs "
        how += '`if __name__ == "__main__":`'
    return RuntimeError(f"{process.name} {how}")


def _run(end, rank, processes, folder):
    def send(*message):
        end.send_bytes(pickle.dumps(message))

    exit_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent ends this process
    # neither contact other machines nor let them connect
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    os.environ |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    try:
        task = end.recv()
        torch.set_num_threads(max(1, cores() // processes))
        if gpu := torch.cuda.is_available():
            torch.cuda.set_device(rank)
        backend, store = "nccl" if gpu else "gloo", f"file://{folder}/store"
        timeout = messages.COLLECTIVE_TIMEOUT
        dist.init_process_group(backend, store, timeout, world_size=processes, rank=rank)
        messages.call(task, rank=rank, send=send)
    except Exception as error:
        send("raise", messages.picklable_error(error, f"process {rank}"))
    with suppress(EOFError, OSError):  # peers may still need this process
        end.recv_bytes()
    if dist.is_initialized():
        dist.destroy_process_group()
