"""What a worker process does when it starts."""

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
