"""Processes that start and end with others."""

import multiprocessing
import os
import threading


def end_with(line):
    """Have this process end when the writing end of a pipe is closed, if only because the process
    that holds it ended, in whatever way.

    Args:
        line: the reading end, a ``multiprocessing.connection.Connection``.
    """
    threading.Thread(target=lambda: (line.poll(None), os._exit(1)), daemon=True).start()


def end_with_parent(*_):
    """Have this process end when the one that started it does, even one that was killed, and even
    one that was killed before this was called.

    What torch's loader has for this takes for the parent whoever is it when the worker is up.
    """
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def is_running(process):
    """Whether there is a process of this number, or, where the system cannot be asked, might be."""
    if os.name != "posix":  # elsewhere the question ends the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # of another user
    return True
