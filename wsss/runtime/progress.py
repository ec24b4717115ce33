"""Progress with speed and time left: a bar for people, a line for the driver of notebooks."""

import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

FILE_VARIABLE = "WSSS_PROGRESS_FILE"
clock = tqdm.format_interval  # seconds as mm:ss or h:mm:ss

forward: Callable[[str], None] | None = None  # takes this process's progress instead of the file


def show(text: str) -> None:
    """Show another process's progress as this one's."""
    print(f"\r{text}", end="", file=sys.stderr, flush=True)
    _publish(text)


class progress(tqdm):
    """tqdm's bar, whose state is also a line in the file named by WSSS_PROGRESS_FILE."""

    about = ""  # shown in place of the count, such as the epoch and the loss

    def __init__(self, items: Iterable, label: str, **options: Any) -> None:
        # JupyterLab shows the error stream as an error
        file = sys.stdout if "ipykernel" in sys.modules else sys.stderr
        usual = {"unit": "photo", "mininterval": 0.5, "dynamic_ncols": True, "file": file}
        super().__init__(items, label, **usual | options)

    def display(self, *arguments, **options):
        _publish(self.line())
        return super().display(*arguments, **options)

    def close(self):
        finished = not self.disable and self.n == self.total
        super().close()
        if finished:
            _publish("figures and record")  # what follows the last bar of a stage

    def line(self) -> str:
        """The state, such as ``walk  45/100 photos  9.1 photos/s  00:06 left``."""
        state = self.format_dict
        done, total, unit = state["n"], state["total"], state["unit"]
        parts = [state["prefix"], self.about or f"{done}/{total or '?'} {unit}s"]
        if rate := state["rate"]:
            parts.append(f"{rate:.3g} {unit}s/s")
            parts += [f"{clock((total - done) / rate)} left"] if total else []
        return "  ".join(filter(None, parts))


def _publish(text):
    if forward:
        forward(text)
    elif path := os.environ.get(FILE_VARIABLE):
        partial = Path(path + ".partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)


class Screen:
    """The driver's view of running stages: on a terminal one live line, in a file a line per minute
    and stage. ``about`` returns the texts around the stages if several may run at once.
    """

    def __init__(
        self, about: Callable[[], tuple[str, str]] | None = None, say: Callable = print
    ) -> None:
        self._about, self._print, self._doing, self._shown_at = about, say, {}, {}
        self._live, self._lock = sys.stderr.isatty(), threading.RLock()

    def show(self, label: str, text: str) -> None:
        """Show a stage's progress."""
        with self._lock:
            self._doing[label] = text
            if self._live:
                self._write(self._line())
            elif time.monotonic() - self._shown_at.get(label, 0.0) > 60:
                self._shown_at[label] = time.monotonic()
                print(f"{label}  {text}", file=sys.stderr, flush=True)

    def hide(self, label: str) -> None:
        with self._lock:
            self._doing.pop(label, None)
            self._shown_at.pop(label, None)
            self._write("")

    def say(self, text: str) -> None:
        """Print a line between the live ones."""
        with self._lock:
            self._write("")
            self._print(text)

    def _line(self):
        if not self._about:
            return "  ".join(f"{label}  {text}" for label, text in self._doing.items())
        far = re.compile(r".*?((?:epoch )?\d+/\d+).*")  # all that there is room for
        running = [f"{label} " + far.sub(r"\1", text) for label, text in self._doing.items()]
        before, after = self._about()
        return f"{before} {len(running)} running: {', '.join(running)}{after}"

    def _write(self, line):
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            end = "" if line else "\r"
            print(f"\r{line[:width]:<{width}}{end}", end="", file=sys.stderr, flush=True)
