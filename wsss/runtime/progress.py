"""Progress with an ETA: a line for people, and a file for the driver that watches the kernel."""

import os
import re
import shutil
import sys
import threading
import time
from functools import partial
from pathlib import Path

from tqdm import tqdm

FILE_VARIABLE = "WSSS_PROGRESS_FILE"

_handed_on = None  # what this process's progress is shown to, where that is not the file


def forward_to(tell):
    """Have a function shown how far this process is, in a text, as often as the file would be."""
    global _handed_on
    _handed_on = tell


def show(text):
    """Show how far another process is, which has handed on this text, as if it were this one."""
    print(f"\r{text}", end="", file=sys.stderr, flush=True)
    path = os.environ.get(FILE_VARIABLE)
    if path:
        _write(path, text)


def progress(items, label, *, total=None, initial=0, unit="photo"):
    """Iterate over ``items`` and show how far it is; likewise in the file named by
    WSSS_PROGRESS_FILE.
    """
    path = os.environ.get(FILE_VARIABLE)
    tell = _handed_on or (partial(_write, path) if path else None)
    last = 0.0
    with tqdm(
        items,
        desc=label,
        total=total,
        initial=initial,
        unit=unit,
        mininterval=0.5,
        dynamic_ncols=True,
    ) as bar:
        for item in bar:
            yield item
            if tell and time.monotonic() - last > 0.5:
                last = time.monotonic()
                tell(str(bar))
        if tell:
            tell(str(bar))


def _write(path, text):
    partial = Path(path + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


class Screen:
    """What the driver shows of stages at work: one live line of all of them; where output is a
    file, a line a minute for each.

    Args:
        about: a function that gives what comes before and after them where several may be at work.
        say: prints a line.
    """

    def __init__(self, about=None, say=print):
        self._about, self._print, self._doing, self._shown_at = about, say, {}, {}
        self._live, self._lock = sys.stderr.isatty(), threading.RLock()

    def show(self, label, text):
        """Show how far a stage is."""
        with self._lock:
            self._doing[label] = text
            if self._live:
                self._write(self._line())
            elif time.monotonic() - self._shown_at.get(label, 0.0) > 60:
                self._shown_at[label] = time.monotonic()
                print(f"{label}  {text}", file=sys.stderr, flush=True)

    def hide(self, label):
        """Show nothing more of a stage."""
        with self._lock:
            for known in (self._doing, self._shown_at):
                known.pop(label, None)
            self._write("")

    def say(self, text):
        """Print a line between the live ones."""
        with self._lock:
            self._write("")
            self._print(text)

    def _line(self):
        if not self._about:
            return "  ".join(f"{label}  {text}" for label, text in self._doing.items())
        parts = []
        for label, text in self._doing.items():
            share = re.search(r"\d+%", text)  # of a bar, which takes too much room
            parts.append(f"{label} {share[0] if share else text}")
        before, after = self._about()
        return f"{before} {len(parts)} running: {', '.join(parts)}{after}"

    def _write(self, line):
        """Put a text where the live line is."""
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            end = "" if line else "\r"
            print(f"\r{line[:width]:<{width}}{end}", end="", file=sys.stderr, flush=True)
