"""Processes that exit with others, and whether a process is running."""

import multiprocessing
import os
import threading
from multiprocessing.connection import Connection


def end_with(line: Connection) -> None:
    """Exit this process when the other end of the pipe closes (e.g. its owner died).

    Args:
        line: the reading end.
    """
    threading.Thread(target=lambda: (line.poll(None), os._exit(1)), daemon=True).start()


def exit_with_parent(*_: object) -> None:
    """Exit this process when its parent dies, or at once if it is already dead.

    torch's own watchdog records the parent after start-up, too late if the parent is already dead.
    """
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def is_running(process: int) -> bool:
    """Whether a process with this id is running; true where the system cannot be asked."""
    if os.name != "posix":  # os.kill(process, 0) would kill it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True
