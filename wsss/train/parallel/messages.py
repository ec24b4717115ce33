"""Timeouts and errors shared by training processes and their caller, on one machine and on Ray."""

import copy
import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from wsss.errors import reason

COLLECTIVE_TIMEOUT = timedelta(minutes=10)  # the longest regular wait is for a checkpoint
ERROR_GRACE_SECONDS = 1  # to learn of a death after a peer's error, a broken connection
EXIT_TIMEOUT = 30  # seconds for processes to exit after the result; on 2 cores they take one


class PeerLost(RuntimeError):
    """Another training process is gone or does not answer."""


def call(task: tuple[Callable, tuple, list[str]], *, rank: int, send: Callable) -> None:
    """Call a function in a process; process 0 sends its calls of callbacks and its result."""
    function, arguments, names = task  # names of the callbacks
    report = send if rank == 0 else lambda *_: None
    report("return", function(*arguments, **{name: partial(report, name) for name in names}))


def picklable_error(error: Exception, where: str) -> Exception:
    """The error being handled, with its traceback and origin as a note. An error that pickling
    would change becomes a RuntimeError with its type and first line.
    """
    try:
        pickle.dumps(error)
        same = str(copy.copy(error)) == str(error)  # made again from the same parts
    except Exception:  # whatever its class raises
        same = False
    if not same:
        error = RuntimeError(f"{type(error).__name__}: {reason(error)}")
    error.add_note(f"in {where}:\n{traceback.format_exc()}")
    return error
