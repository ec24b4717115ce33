"""Append-only log of a run; ``delivery`` uploads it to MLflow, now or when the server is back."""

import hashlib
import json
import os
import posixpath
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from wsss.io import contents
from wsss.lab import results

STATES = ("run", "resumed", "end")  # kinds of entries that say whether a run is active


def legal(name: str, allowed: str, longest: int) -> str:
    """A name that MLflow takes: ``_`` in place of characters that do not match ``allowed``, and
    then, or if it is too long or no plain path, a digest that keeps it apart from others.
    """
    fit = re.sub(rf"(?!{allowed}).", "_", name, flags=re.DOTALL)
    fit = fit if posixpath.normpath(fit) == fit else fit.replace("/", "_")
    if fit == name and len(fit) <= longest:
        return name
    return f"{fit[: longest - 7]}-{hashlib.blake2b(name.encode(), digest_size=3).hexdigest()}"


def entries(folder: Path | str, offset: int = 0) -> Iterator[tuple[dict, int]]:
    """Yield ``(entry, offset behind it)`` of a folder's journal from an offset on; lines that are
    cut or not JSON, as after a loss of power, are skipped.
    """
    path = Path(folder) / results.JOURNAL
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if line.endswith(b"\n"):
                offset += len(line)
                with suppress(ValueError):
                    entry = json.loads(line)
                    if isinstance(entry, dict) and "kind" in entry:
                        yield entry, offset


def ended(folder: Path | str) -> bool:
    """Whether a folder's run ended or never began."""
    states = [entry["kind"] for entry, _ in entries(folder) if entry["kind"] in STATES]
    return not states or states[-1] == "end"


def run_header(folder: Path | str) -> tuple[str, dict[str, str]]:
    """``(experiment, current tags)`` of a folder's run; ``("", {})`` without one."""
    experiment, tags = "", {}
    for entry, _ in entries(folder):
        tags |= _tags(entry)
        if entry["kind"] == "run":
            experiment = entry["experiment"]
    return experiment, tags


def _tags(entry):
    """The tags that an entry sets."""
    return entry.get({"run": "tags", "tags": "values"}.get(entry["kind"]), {})


class Journal:
    """The record of the run in a folder. One process at a time appends to it.

    Entries have a ``kind``, a ``time`` in milliseconds that never decreases, even if the clock is
    set back, and the fields that ``delivery`` needs for the kind. An entry that is present is not
    added again, so a resumed stage may record from its beginning.

    With ``fresh``, a new record takes the place of the present one.
    """

    def __init__(self, folder: Path | str, *, fresh: bool = False):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / results.JOURNAL
        for path in (self.path, self.folder / results.DELIVERED) if fresh else ():
            path.unlink(missing_ok=True)
        self._time, self._known, self._metrics, self._tags = 0, set(), {}, {}
        for entry, _ in entries(self.folder):
            self._note(entry)

    def add(self, kind: str, **entry) -> None:
        """Append an entry of plain values, unless it is present."""
        entry = {"kind": kind, **entry}
        if kind not in (*STATES, "tags") and _identity(entry) in self._known:
            return
        entry["time"] = max(int(1000 * time.time()), self._time)
        line = json.dumps(entry, default=str).encode() + b"\n"
        with self.path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                line = line if file.read() == b"\n" else b"\n" + line  # after a cut line
            file.write(line)
            file.flush()
            if kind in STATES:
                os.fsync(file.fileno())
        self._note(entry)

    def begin(
        self, experiment: str, name: str, *, tags: dict[str, str], parent: Path | str | None = None
    ) -> None:
        """Begin the run called ``name`` in an MLflow experiment, or resume it; ``parent`` is the
        folder of the parent run's journal.
        """
        if any(entry["kind"] == "run" for entry, _ in entries(self.folder)):
            self.add("resumed")
            self.tags(tags)
        else:
            parent = str(parent) if parent else None
            self.add("run", experiment=experiment, name=name, tags=tags, parent=parent)

    def end(self, status: str, error: str | None = None) -> None:
        """End the run: FINISHED, FAILED or KILLED, with a reason."""
        self.add("end", status=status, error=error)

    def tags(self, values: dict[str, str]) -> None:
        """Set the tags that change."""
        new = {name: text for name, text in values.items() if self._tags.get(name) != text}
        if new:
            self.add("tags", values=new)

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Add the metrics that do not have this value at this step yet."""
        known = self._metrics
        new = {k: float(v) for k, v in values.items() if known.get((k, step)) != float(v)}
        if new:
            self.add("metrics", values=new, step=step)

    def file(self, path: Path | str, to: str | None = None, *, kind: str = "file", **more) -> None:
        """Add a file of the folder, which has to stay there, as an artifact under ``to``."""
        name = Path(path).relative_to(self.folder).as_posix()
        self.add(kind, path=name, to=to, digest=contents.digest(path), **more)

    def _note(self, entry):
        self._time = max(self._time, entry.get("time", 0))
        self._known.add(_identity(entry))
        self._tags |= _tags(entry)
        if entry["kind"] == "metrics":
            self._metrics |= {(k, entry["step"]): v for k, v in entry["values"].items()}


def _identity(entry):
    """An entry without its time, as JSON."""
    return json.dumps({k: v for k, v in entry.items() if k != "time"}, sort_keys=True, default=str)
