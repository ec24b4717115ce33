"""What a run records, on disk first: a file that is only ever added to, from which ``delivery``
carries everything to MLflow, now or once its server is back.
"""

import json
import os
import time
from pathlib import Path

from wsss.io import atomic
from wsss.lab import results

STATES = ("run", "resumed", "end")  # kinds of entries that tell whether a run is at work


def entries(folder, offset=0):
    """Yield ``(entry, offset behind it)`` of a folder's journal from an offset on, both whole and
    readable: a line that was cut or is no JSON, as a loss of power may leave, is passed over.
    """
    try:
        with (Path(folder) / results.JOURNAL).open("rb") as file:
            file.seek(offset)
            for line in iter(file.readline, b""):
                if line.endswith(b"\n"):
                    offset += len(line)
                    entry = _parsed(line)
                    if entry:
                        yield entry, offset
    except FileNotFoundError:
        return


def _parsed(line):
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "kind" in entry else None


def ended(folder):
    """Whether a folder's run came to an end, or never began."""
    states = [entry["kind"] for entry, _ in entries(folder) if entry["kind"] in STATES]
    return not states or states[-1] == "end"


def run_header(folder):
    """``(experiment, tags)`` of a folder's run, the tags as they are now; ``("", {})`` without."""
    experiment, tags = "", {}
    for entry, _ in entries(folder):
        if entry["kind"] == "run":
            experiment, tags = entry["experiment"], tags | entry["tags"]
        elif entry["kind"] == "tags":
            tags |= entry["values"]
    return experiment, tags


class Journal:
    """The record of the run in a folder. One process at a time adds to it.

    Entries have a ``kind``, a ``time`` in milliseconds that never goes back, even where the clock
    was set back, and what ``delivery`` makes of the kind. What is there already is not added
    again, so that a stage that goes on may record from its beginning.

    Args:
        folder: where it is.
        fresh: whether what is there gives way, as the record of something that is now overwritten.
    """

    def __init__(self, folder, *, fresh=False):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / results.JOURNAL
        if fresh:
            for name in (results.JOURNAL, results.DELIVERED):
                (self.folder / name).unlink(missing_ok=True)
        self._time, self._known, self._metrics, self._tags = 0, set(), {}, {}
        for entry, _ in entries(self.folder):
            self._note(entry)

    def add(self, kind, **entry):
        """Add an entry, unless it is there; values are plain."""
        entry = {"kind": kind, **entry}
        if kind not in (*STATES, "tags") and _identity(entry) in self._known:
            return
        entry["time"] = max(int(1000 * time.time()), self._time)
        line = json.dumps(entry, default=str).encode() + b"\n"
        with self.path.open("ab") as file:
            if file.tell() and not self._ends_well():
                line = b"\n" + line
            file.write(line)
            file.flush()
            if kind in STATES:
                os.fsync(file.fileno())
        self._note(entry)

    def begin(self, experiment, name, tags, *, parent=None):
        """Begin the run, or go on with it where it began before.

        Args:
            experiment: name of the MLflow experiment.
            name: of the run.
            tags: name to text.
            parent: folder of the journal whose run this one is a child of.
        """
        if any(entry["kind"] == "run" for entry, _ in entries(self.folder)):
            self.add("resumed")
            self.tags(tags)
        else:
            parent = str(parent) if parent else None
            self.add("run", experiment=experiment, name=name, tags=tags, parent=parent)

    def end(self, status, error=None):
        """End the run: FINISHED, FAILED or KILLED, with a reason."""
        self.add("end", status=status, error=error)

    def tags(self, values):
        """Set tags, name to text, but for those that are as they were."""
        new = {name: text for name, text in values.items() if self._tags.get(name) != text}
        if new:
            self.add("tags", values=new)

    def metrics(self, values, step=0):
        """Add numbers by name, but for those that are there with this value at this step."""
        new = {
            name: float(value)
            for name, value in values.items()
            if self._metrics.get((name, step)) != float(value)
        }
        if new:
            self.add("metrics", values=new, step=step)

    def file(self, path, to=None, *, kind="file", **more):
        """Add a file of the folder, which has to stay there, as an artifact under ``to``."""
        path = Path(path)
        self.add(
            kind,
            path=path.relative_to(self.folder).as_posix(),
            to=to,
            digest=atomic.digest(path),
            **more,
        )

    def _ends_well(self):
        """Whether the last line is whole: what follows a cut one begins on a line of its own."""
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

    def _note(self, entry):
        self._time = max(self._time, entry.get("time", 0))
        self._known.add(_identity(entry))
        if entry["kind"] == "run":
            self._tags |= entry["tags"]
        elif entry["kind"] == "tags":
            self._tags |= entry["values"]
        elif entry["kind"] == "metrics":
            for name, value in entry["values"].items():
                self._metrics[name, entry["step"]] = value


def _identity(entry):
    """An entry without its time, as text."""
    return json.dumps({k: v for k, v in entry.items() if k != "time"}, sort_keys=True, default=str)
