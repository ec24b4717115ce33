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
    """A name that MLflow takes: ``_`` in place of characters that do not match ``allowed``; if that
    changes it, or it is too long or no plain path, with a digest that keeps it apart from others.
    """
    fit = re.sub(rf"(?!{allowed}).", "_", name, flags=re.DOTALL)
    fit = fit if posixpath.normpath(fit) == fit else fit.replace("/", "_")
    if fit == name and len(fit) <= longest:
        return name
    return f"{fit[: longest - 7]}-{hashlib.blake2b(name.encode(), digest_size=3).hexdigest()}"


def entries(folder: Path | str, offset: int = 0) -> Iterator[tuple[dict, int]]:
    """Yield ``(entry, offset behind it)`` of a folder's journal, but for lines cut by a crash."""
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


def beginning(folder: Path | str) -> dict:
    """The first entry of a folder's journal; empty if it is lost, or there is no journal."""
    return next((entry for entry, _ in entries(folder) if entry["kind"] == "run"), {})


class Journal:
    """The record of the run in a folder, with its ``current_tags``. One process at a time appends.

    Entries have a ``kind``, a ``time`` in milliseconds that never decreases, even if the clock is
    set back, and the fields that ``delivery`` needs for the kind. An entry that is present is not
    added again, so a resumed stage may record from its beginning; ``fresh`` begins a new record.
    """

    def __init__(self, folder: Path | str, *, fresh: bool = False):
        self.folder, self.path = Path(folder), Path(folder) / results.JOURNAL
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in (self.path, self.folder / results.DELIVERED) if fresh else ():
            path.unlink(missing_ok=True)
        self._time, self._known, self._metrics, self.current_tags = 0, set(), {}, {}
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

    def begin(self, experiment: str, name: str, *, tags: dict, parent: Path | None = None) -> None:
        """Begin a run in an MLflow experiment, inside that of a parent's folder, or resume it."""
        if beginning(self.folder):
            self.add("resumed")
            self.tags(tags)
        else:
            self.add("run", experiment=experiment, name=name, tags=tags, parent=parent)

    def end(self, status: str, error: str | None = None) -> None:
        """End the run: FINISHED, FAILED or KILLED, with a reason."""
        self.add("end", status=status, error=error)

    def tags(self, values: dict[str, str]) -> None:
        """Set the tags that change."""
        if new := {k: text for k, text in values.items() if self.current_tags.get(k) != text}:
            self.add("tags", values=new)

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Add the metrics that do not have this value at this step yet."""
        new = {k: float(v) for k, v in values.items() if self._metrics.get((k, step)) != float(v)}
        if new:
            self.add("metrics", values=new, step=step)

    def file(self, path: Path | str, to: str | None = None, *, kind: str = "file", **more) -> None:
        """Add a file of the folder, which has to stay there, as an artifact under ``to``."""
        name = Path(path).relative_to(self.folder).as_posix()
        self.add(kind, path=name, to=to, digest=contents.digest(path), **more)

    def _note(self, entry):
        self._time = max(self._time, entry.get("time", 0))
        self._known.add(_identity(entry))
        match entry:
            case {"kind": "run", "tags": tags} | {"kind": "tags", "values": tags}:
                self.current_tags |= tags
            case {"kind": "metrics", "values": values, "step": step}:
                self._metrics |= {(name, step): value for name, value in values.items()}


def _identity(entry):
    """An entry without its time, as JSON."""
    return json.dumps({k: v for k, v in entry.items() if k != "time"}, sort_keys=True, default=str)
