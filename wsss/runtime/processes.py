"""Processes that exit with their parent, and whether a process is running."""

import multiprocessing
import os
import threading


def exit_with_parent(*_: object) -> None:
    """Exit this process when its parent dies, or at once if it is already dead."""
    # torch's own watchdog asks for the parent after start-up, when it may already be dead
    parent = multiprocessing.parent_process()
    assert parent, "this process was not started by multiprocessing"

    def wait():
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def is_running(process: int) -> bool:
    """Whether a process with this id is running; true on systems that do not report it."""
    if os.name != "posix":  # os.kill(process, 0) would kill it
        return True
    try:
        os.kill(process, 0)
    except OSError as error:  # for another user's, PermissionError
        return not isinstance(error, ProcessLookupError)
    return True
