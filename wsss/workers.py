"""What a worker process does when it starts."""

import multiprocessing
import os
import threading


def end_with_parent(*_):
    """Have this process end when the one that started it does, even one that was killed, and even
    one that was killed before this was called.

    What torch's loader has for this takes for the parent whoever is it when the worker is up.
    """
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
