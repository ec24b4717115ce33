"""One stage: its notebook run by papermill in a subprocess, watched, and its MLflow status set."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from wsss.errors import InputError
from wsss.io import atomic
from wsss.lab import paths, results
from wsss.lab.plan import Planned
from wsss.lab.record import mlflow_pages, mlflow_store, provenance, stage_run
from wsss.lab.record.delivery import Uploader
from wsss.lab.record.journal import Journal
from wsss.lab.run.resources import Share
from wsss.runtime.progress import FILE_VARIABLE, Screen, clock

# Optional to jsonschema, which would take a second or two to build this grammar of addresses; no
# notebook's schema uses it.
sys.modules.setdefault("rfc3987_syntax", None)  # pyright: ignore[reportArgumentType]

# On glibc, huge pages and a heap that is kept make training on CPU about a third faster:
# activations of many megabytes are otherwise mapped, faulted in and returned at every step.
ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:"
    "glibc.malloc.trim_threshold=17179869184"
}

# Runs papermill by its function, which alone can coalesce streams, and so keeps a progress bar to a
# line. Ends when its standard input closes, so with the driver even if that is killed; the kernel
# in turn ends without papermill. Affinity is set before any thread or process starts.
EXECUTE = """
import json, os, sys, threading
if os.environ.get("WSSS_CORES") and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, map(int, os.environ["WSSS_CORES"].split(",")))
sys.modules["rfc3987_syntax"] = None  # as above
import papermill
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
source, target, parameters = sys.argv[1:]
with open(parameters, encoding="utf-8") as file:
    values = json.load(file)
papermill.execute_notebook(
    source, target, values, kernel_name="python3", progress_bar=False, coalesce_streams=True
)
"""
LOG = "papermill.log"
FULL_DISK = 2**20  # bytes; a disk with less left is full


@dataclass
class Machine:
    """Where a run's stages work: the whole machine. ``parallel_runs`` gives shares of it.

    ``stage`` is a context around a stage's work, which waits for its ``Share`` of the machine.
    """

    screen: Screen = field(default_factory=Screen)  # shows progress and messages
    mark: str = ""  # before these
    stage: Callable[[Planned], AbstractContextManager[Share]] = lambda item: nullcontext(Share())
    check: Callable[[], None] = lambda: None  # KeyboardInterrupt if another thread stopped the run

    def say(self, text: str) -> None:
        self.screen.say(self.mark + text)


class StageFailed(RuntimeError):
    """A stage's notebook ended without completing; the message says where to look."""


def run_stage(
    experiment: str,
    item: Planned,
    *,
    parent: Path | None,
    label: str,
    uploader: Uploader,
    machine: Machine,
    later: float | None = None,
    scores: Mapping[str, tuple[str, str]] | None = None,
    tags: dict[str, str] | None = None,
) -> None:
    """Run a stage's notebook in a subprocess, watch it, and set its MLflow status from its results;
    InputError if the stage refused its input, StageFailed if it ended otherwise without completing.

    ``parent`` is the folder of the experiment's journal, ``later`` the seconds that all stages from
    this one on may take, ``scores`` those of Project.
    """
    if item.forced and item.folder.exists():
        shutil.rmtree(item.folder)
    status, kind, reason, code = "KILLED", "", "", None
    with machine.stage(item) as share:
        journal = Journal(item.folder)
        tags = {"wsss.stage": item.name, "wsss.experiment": experiment} | (tags or {})
        tags |= provenance.tags(share.core_count)
        name = " · ".join(filter(None, [item.name, mlflow_pages.title(item.changes)]))
        journal.begin(experiment, name, tags=tags, parent=parent)
        uploader.watch(item.folder)
        before, began = seconds_of(item.folder), time.monotonic()
        try:
            code = _execute(item, share, machine, label=label, uploader=uploader, later=later)
            kind, reason = _error(item.folder, code)
            status = "FAILED"
        finally:
            record = results.completion(item.folder)  # even if it was killed right after
            done = record and record["fingerprint"] == item.fingerprint
            if done and (code == 0 or not results.damage(item.folder)):
                status, reason = "FINISHED", ""
            seconds = before + time.monotonic() - began
            # a full disk must not hide why the stage failed
            with suppress(OSError) if status != "FINISHED" else nullcontext():
                atomic.save_json(item.folder / "run.json", {"seconds": seconds})
                if status == "FINISHED":
                    journal = Journal(item.folder)  # read again: the notebook has added to it
                    metrics = results.completed(item.folder)["metrics"]
                    first = mlflow_pages.headlines(metrics, scores or {})
                    journal.metrics(first | {"seconds": seconds})
                journal.end(status, f"{kind}: {reason}" if reason else None)
        if status == "FAILED" and kind == InputError.__name__:
            raise InputError(reason)
        if status == "FAILED":
            files = f"{item.folder / results.NOTEBOOK} and {item.folder / LOG}"
            fix = f"see {files}; the same command goes on from here"
            raise StageFailed(f"{item.name} failed: {kind}: {reason}; {fix}")


def _execute(item, share, machine, *, label, uploader, later):
    """Run a notebook and show its progress; returns the exit code of its process."""
    label, began = machine.mark + label, time.monotonic()
    parameters, progress = item.folder / "parameters.json", item.folder / ".progress"
    atomic.save_json(parameters, item.values)
    environment = {
        "MLFLOW_TRACKING_URI": mlflow_store.tracking_uri(),
        stage_run.DRIVEN_VARIABLE: "1",
        FILE_VARIABLE: str(progress),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "WSSS_PROJECT": str(paths.project_root()),  # the same, wherever it starts
        "WSSS_OUTPUTS": str(item.folder.parents[1]),
        # the kernel of this Python, before any other of the name
        "JUPYTER_PATH": str(Path(sys.prefix, "share", "jupyter")),
    }
    notebooks = _pattern(item.stage.path), _pattern(item.folder / results.NOTEBOOK)
    with (item.folder / LOG).open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", EXECUTE, *notebooks, parameters],
            stdin=subprocess.PIPE,  # closed when this process ends, even if it is killed
            stdout=output,
            stderr=subprocess.STDOUT,
            env=ALLOCATOR | os.environ | environment | share.environment(),
            cwd=paths.project_root(),
        )
    try:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
                break
            machine.check()
            passed = time.monotonic() - began
            text = f"starting  {clock(passed)}"
            with suppress(FileNotFoundError):
                text = progress.read_text("utf-8")
            if later and later > passed:
                text += f"  (chain about {clock(later - passed)})"
            note = "  (tracking store unavailable)" if uploader.unavailable else ""
            machine.screen.show(label, text + note)
    finally:
        machine.screen.hide(label)
        process.terminate()
        process.communicate()  # closes its input, waits
        progress.unlink(missing_ok=True)
    return process.returncode


def _pattern(path):
    """A path as papermill wants it, which puts parameters in place of ``{name}``."""
    return str(path).replace("{", "{{").replace("}", "}}")


def dry_run(planned: list[Planned]) -> str:
    """Which stages are done, and the papermill commands of the others, a parameter a line."""
    lines = []
    for item in planned:
        if item.done:
            lines.append(f"# {item.name}: done, {item.folder}")
            continue
        why = f" (code changed: {', '.join(item.changed)})" if item.changed else ""
        why = f" ({item.damage})" if item.damage else why
        source = item.stage.path.relative_to(paths.project_root())
        words: list[list] = [["papermill", _pattern(source)]]
        words.append([_pattern(item.folder / results.NOTEBOOK)])
        for name, value in item.values.items():
            if value != item.stage.parameters[name].default:
                several = isinstance(value, list)
                words.append(["-y", f"{name}: {value}"] if several else ["-p", name, value])
        command = " \\\n    ".join(shlex.join(map(str, each)) for each in words)
        lines += [f"# {item.name}: to do{why}, into {item.folder}", command]
    done = sum(item.done for item in planned)
    return "\n".join([*lines, f"# {done} of {len(planned)} stages are done"])


def seconds_of(folder: Path) -> float:
    """Seconds that a stage took, all attempts together."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return float(json.loads((folder / "run.json").read_bytes())["seconds"])
    return 0.0


def _error(folder, code):
    """``(name, message)`` of the exception that ended a notebook, or of how its process ended."""
    import nbformat  # slow to import

    with suppress(OSError, ValueError):  # none, or cut short
        for cell in nbformat.read(folder / results.NOTEBOOK, as_version=4).cells:
            for output in cell.get("outputs", ()):
                if output.output_type == "error":
                    return output.ename, " ".join(output.evalue.split())
    if code == 0:
        fault = "its notebook ran to the end but left no result with this fingerprint; code or data"
        return "Stopped", f"{fault} may have changed meanwhile; give the same command again"
    if shutil.disk_usage(folder).free < FULL_DISK:  # the log's end is lost
        return "OSError", f"no room left for {folder}; free some"
    if code < 0:
        return "Stopped", f"its process was killed by signal {-code}"
    lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "Stopped", (lines or ["its process ended without a message"])[-1][:300]


def keep_notebook(folder: Path) -> None:
    """Log a stage's executed notebook as .ipynb and .html, complete or not."""
    import nbformat
    from nbconvert import HTMLExporter

    notebook = folder / results.NOTEBOOK
    try:
        html, _ = HTMLExporter().from_filename(str(notebook))
    except (FileNotFoundError, ValueError, nbformat.ValidationError):
        return  # papermill was killed before or while it wrote it
    page, journal = notebook.with_suffix(".html"), Journal(folder)
    atomic.write_text(page, html)
    for path in (notebook, page):
        journal.file(path, "notebook")
