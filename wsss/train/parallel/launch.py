"""A training function in several processes of one machine, joined by torch.distributed."""

import copy
import multiprocessing
import os
import pickle
import signal
import socket
import tempfile
import traceback
from contextlib import suppress
from datetime import timedelta
from functools import partial
from multiprocessing.connection import wait

import torch
import torch.distributed as dist

from wsss.errors import InputError, reason
from wsss.runtime import engine
from wsss.runtime.devices import cores
from wsss.runtime.processes import end_with_parent

# How long a process waits for the others before it takes them for stuck; those that are gone are
# told at once. The slowest thing that the others wait for is a checkpoint being written.
PATIENCE = timedelta(minutes=10)
# Seconds in which the death of a process is told after what it made others say: their connections
# to it break before it is gone.
AFTERMATH = 1
LEAVE = 30  # seconds that processes have to end once all is done; a second does on 2 cores


def launch(function, *arguments, processes, **callbacks):
    """Run a function in so many processes of this machine, joined by torch.distributed: gloo on
    the processor, nccl and a GPU each where there are GPUs. One process is a plain call. Where a
    Ray cluster was chosen (``wsss.runtime.engine``), its workers take the processes' place.

    Processes are spawned, never forked, so it does not matter what this one did before. Each gets
    its copies of the arguments and its share of the cores' threads, and none outlives this one.

    Args:
        function: importable, as are its arguments picklable; a script that launches has its own
            calls under ``if __name__ == "__main__":``.
        processes: how many, 1 or more, and no more than there are GPUs if any.
        callbacks: functions by name, which ``function`` takes as keyword arguments. They run here,
            in turn: of several processes, with what the first one calls them with, while it goes
            on; what the others call them with is dropped.

    Returns:
        what the first process's function returns.

    Raises:
        InputError: another number of processes was expected.
        TypeError: something cannot be sent to other processes.
        RuntimeError: a process was killed, or ended by itself.
        Exception: what the function raised in whichever process was first, with its traceback
            there as a note. In any of these cases the other processes are ended.
    """
    if chosen := engine.handed_in(engine.TRAINING):
        return chosen.launch(function, *arguments, processes=processes, **callbacks)
    if processes == 1:
        return function(*arguments, **callbacks)
    _check_number(processes)
    try:
        sent = pickle.dumps((function, arguments, list(callbacks)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"expected a function and arguments that other processes can import ({reason(error)}); "
            "define them in a module"
        ) from None
    context = multiprocessing.get_context("spawn")
    started, connections = [], []
    with tempfile.TemporaryDirectory(prefix="wsss-launch-") as folder:
        try:
            for rank in range(processes):
                here, there = context.Pipe()
                connections.append(here)
                process = context.Process(target=_run, args=(rank, processes, folder, there))
                process.start()
                started.append(process)
                there.close()  # or its end, when the process is gone, would not be seen here
            for rank, connection in enumerate(connections):
                # once all are starting, since it waits until the process is up
                try:
                    connection.send_bytes(sent)
                except OSError:
                    raise _ended(rank, started[rank]) from None
            result = _results(started, connections, callbacks)[0]
            for connection in connections:
                connection.close()  # which lets them go
            for process in started:
                process.join(LEAVE)
            return result
        finally:
            for process in started:
                process.kill()
                process.join()


def _check_number(processes):
    gpus = torch.cuda.device_count()
    if processes < 1 or 0 < gpus < processes:
        most = f" to {gpus}, one a GPU" if gpus else " or more"
        raise InputError(
            f"{processes} processes to train together: expected 1{most}; change train_processes"
        )


def _results(started, connections, callbacks):
    """What the processes' functions returned, by rank, their calls being made meanwhile."""
    results, error = {}, None
    waiting = dict(zip(connections, range(len(connections)), strict=True))
    while waiting and (ready := wait(waiting, AFTERMATH if error else None)):
        for connection in ready:
            rank = waiting[connection]
            try:
                kind, value = connection.recv()
            except (EOFError, OSError):
                raise _ended(rank, started[rank]) from None
            if kind == "call":
                name, given = value
                callbacks[name](*given)
                continue
            del waiting[connection]
            if kind == "error":
                error = error or value
            else:
                results[rank] = value
    if error:
        raise error
    return results


def _ended(rank, process):
    """The error of a process that is gone without a word."""
    process.join(AFTERMATH)
    who = f"process {rank} of those that train together"
    if process.exitcode is not None and process.exitcode < 0:
        return RuntimeError(
            f"{who} was killed (signal {-process.exitcode}), most often because memory ran out; "
            "the same command goes on from the last checkpoint"
        )
    return RuntimeError(
        f"{who} ended by itself with code {process.exitcode}; what it wrote says why; a script "
        'that trains has its calls under `if __name__ == "__main__":`'
    )


def _run(rank, processes, folder, connection):
    """A process's life."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, which the caller answers
    try:
        function, arguments, names = connection.recv()
        _join(rank, processes, folder)
        heard = partial(_say, connection) if rank == 0 else keep_silent
        callbacks = {name: partial(heard, name) for name in names}
        result = function(*arguments, **callbacks)
        outcome = "result", result if rank == 0 else None
    except Exception as error:
        error.add_note(f"in process {rank}:\n{traceback.format_exc()}")
        outcome = "error", sendable(error)
    connection.send_bytes(pickle.dumps(outcome))
    # to leave now would break off what others are still in the middle of
    with suppress(EOFError, OSError):
        connection.recv_bytes()
    if dist.is_initialized():
        dist.destroy_process_group()


def _join(rank, processes, folder):
    """Have this process be one of those that train together."""
    torch.set_num_threads(max(1, cores() // processes))
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(rank)
    # nothing outside this machine is asked for, nor listened to
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    os.environ |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    dist.init_process_group(
        "nccl" if gpu else "gloo",
        store=dist.FileStore(f"{folder}/store", processes),
        rank=rank,
        world_size=processes,
        timeout=PATIENCE,
    )


def _say(connection, name, *given):
    connection.send_bytes(pickle.dumps(("call", (name, given))))


def keep_silent(*_):
    """What is called where nobody listens."""


def sendable(error):
    """An error, or what it says where it cannot be sent."""
    try:
        pickle.dumps(error)
        if str(copy.copy(error)) == str(error):  # made again from the same parts
            return error
    except Exception:  # whatever its class makes of being copied
        pass
    return RuntimeError(f"{type(error).__name__}: {reason(error)}")
