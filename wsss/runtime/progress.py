"""Progress with speed and time left: a bar for people, a line for the driver of notebooks."""

import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tqdm import tqdm

FILE_VARIABLE = "WSSS_PROGRESS_FILE"

_forward: Callable[[str], None] | None = None  # takes this process's progress instead of the file


def forward_to(function: Callable[[str], None]) -> None:
    """Send the text of this process's progress to a function instead of the file."""
    global _forward
    _forward = function


def show(text: str) -> None:
    """Show another process's progress as this one's."""
    print(f"\r{text}", end="", file=sys.stderr, flush=True)
    _publish(text)


def progress(
    items: Iterable, label: str, *, total: int | None = None, initial: int = 0, unit: str = "photo"
) -> "Bar":
    """Iterate with a ``Bar``, whose line is also in the file named by WSSS_PROGRESS_FILE."""
    # JupyterLab shows the error stream as an error
    file = sys.stdout if "ipykernel" in sys.modules else sys.stderr
    options = {"unit": unit, "mininterval": 0.5, "dynamic_ncols": True, "file": file}
    return Bar(items, label, total, initial=initial, **options)


def clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Bar(tqdm):
    """A bar that also tells its state in a line.

    Attributes:
        about: shown in place of the count, such as the epoch and the loss.
    """

    about = ""

    def display(self, *arguments, **options):
        _publish(self.line())
        return super().display(*arguments, **options)

    def close(self):
        finished = not self.disable and self.n == self.total
        super().close()
        if finished:
            _publish("figures and record")  # what follows the last bar of a stage

    def line(self) -> str:
        """The state, such as ``walk  45/100 photos  9.1 photos/s  0:06 left``."""
        state = self.format_dict
        done, total, unit = state["n"], state["total"], state["unit"]
        parts = [state["prefix"], self.about or f"{done}/{total or '?'} {unit}s"]
        fresh = done - state["initial"]
        rate = state["rate"] or (fresh / state["elapsed"] if state["elapsed"] else 0)
        if fresh and rate:
            parts.append(f"{rate:.3g} {unit}s/s")
            parts += [f"{clock((total - done) / rate)} left"] if total else []
        return "  ".join(filter(None, parts))


def _publish(text):
    if _forward:
        _forward(text)
    elif path := os.environ.get(FILE_VARIABLE):
        partial = Path(path + ".partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)


class Screen:
    """The driver's view of running stages: one live line for all of them on a terminal; in a file,
    a line per minute and stage. ``about`` returns the texts before and after the stages if several
    may run at once; ``say`` prints a line.
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
        """Remove a stage from the line."""
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
        # of a line, which takes too much room, only how far it is
        far = re.compile(r".*?((?:epoch )?\d+/\d+).*")
        shares = {each: far.sub(r"\1", text) for each, text in self._doing.items()}
        before, after = self._about()
        running = ", ".join(f"{label} {share}" for label, share in shares.items())
        return f"{before} {len(shares)} running: {running}{after}"

    def _write(self, line):
        """Replace the live line."""
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            end = "" if line else "\r"
            print(f"\r{line[:width]:<{width}}{end}", end="", file=sys.stderr, flush=True)
