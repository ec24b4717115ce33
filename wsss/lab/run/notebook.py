"""One stage: its notebook run by papermill in a subprocess, watched, and its MLflow status set."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext, suppress

from wsss.errors import InputError
from wsss.io import atomic
from wsss.lab import paths, results
from wsss.lab.record import mlflow_pages, mlflow_store, provenance, stage_run
from wsss.lab.record.journal import Journal
from wsss.lab.run.resources import Share
from wsss.runtime.progress import FILE_VARIABLE, Screen

# A grammar of addresses, which takes jsonschema a second or two to make when it checks a first
# notebook, and which no notebook is checked by.
sys.modules.setdefault("rfc3987_syntax", None)

# On glibc, huge pages and a heap that is kept make training on CPU about a third faster:
# activations of many megabytes are otherwise mapped, faulted in and given back at every step.
ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:"
    "glibc.malloc.trim_threshold=17179869184"
}

# What runs a stage: papermill by its own function, since only that can coalesce streams, which
# keeps a progress bar to one line of the executed notebook. It ends with the driver, even one that
# was killed, which closes its standard input; the kernel in turn ends without papermill.
# Threads and processes are kept to the cores that it keeps itself to before it starts any.
EXECUTE = """
import json, os, sys, threading
if os.environ.get("WSSS_CORES") and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, map(int, os.environ["WSSS_CORES"].split(",")))
sys.modules["rfc3987_syntax"] = None  # as above
import papermill
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
source, target, parameters = sys.argv[1:]
with open(parameters) as file:
    values = json.load(file)
papermill.execute_notebook(
    source, target, values, kernel_name="python3", progress_bar=False, coalesce_streams=True
)
"""


LITTLE = 2**20  # bytes free of a disk that is full


class Alone:
    """Where a run's stages work when it has the machine for itself; ``lanes`` has others."""

    def __init__(self):
        screen = Screen()
        self.show, self.hide = screen.show, screen.hide

    def stage(self, item):
        """Around a stage's work: gives its ``Share`` of the machine, once it is free."""
        return nullcontext(Share())

    def check(self):
        """Raise KeyboardInterrupt where the run is to stop though this thread was not told."""


class StageFailed(RuntimeError):
    """A stage's notebook ended without completing; the message says where to look."""


def run_stage(experiment, item, parent, label, uploader, say, *, tags=None, lane=None):
    """One notebook in a subprocess, watched, and its run's status set from what it left behind.

    Args:
        experiment: its name.
        item: a ``pipeline.Planned`` that is not done.
        parent: folder of the journal whose run the stage's becomes a child of.
        label: for the progress line.
        uploader: the ``delivery.Courier`` that takes the record to MLflow.
        say: what is told to people goes through it.
        tags: more of them for the run.
        lane: where it runs, an ``Alone`` or what has its methods; None has it run alone.

    Raises:
        InputError: the stage refused what it was given.
        StageFailed: it ended otherwise without completing.
    """
    lane = lane or Alone()
    if item.forced and item.folder.exists():
        shutil.rmtree(item.folder)
    with lane.stage(item) as share:
        _run(experiment, item, parent, label, uploader, say, tags or {}, lane, share)


def _run(experiment, item, parent, label, uploader, say, tags, lane, share):
    journal = Journal(item.folder)
    tags = {"wsss.stage": item.name, "wsss.experiment": experiment} | tags
    name = mlflow_pages.run_name(item.name, mlflow_pages.title(item.changes))
    journal.begin(experiment, name, tags | provenance.tags(share.count), parent=parent)
    uploader.watch(item.folder)
    before = seconds_of(item.folder)
    parameters, notebook = item.folder / "parameters.json", item.folder / results.NOTEBOOK
    atomic.save_json(parameters, item.values)
    watched, log = item.folder / ".progress", item.folder / "papermill.log"
    environment = (
        ALLOCATOR
        | os.environ
        | {
            "MLFLOW_TRACKING_URI": mlflow_store.tracking_uri(),
            stage_run.DRIVEN_VARIABLE: "1",
            FILE_VARIABLE: str(watched),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        | share.environment()
    )
    began = time.monotonic()
    status, error, code = "KILLED", None, None
    try:
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", EXECUTE, item.stage.path, notebook, parameters],
                stdin=subprocess.PIPE,  # closed when this process ends, in whatever way
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=paths.project_root(),
            )
            try:
                _watch(process, watched, label, uploader, lane)
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
                process.stdin.close()
                code = process.returncode
        status, error = "FAILED", _error(notebook, log, code)
    finally:
        if _is_complete(item, code):  # also where it was killed, or is to stop, right after
            status, error = "FINISHED", None
        seconds = before + time.monotonic() - began
        watched.unlink(missing_ok=True)
        with suppress(OSError) if status != "FINISHED" else nullcontext():  # such as a full disk
            atomic.save_json(item.folder / "run.json", {"seconds": seconds})
            if status == "FINISHED":
                journal = Journal(item.folder)  # anew: the notebook has added to it
                journal.metrics({"seconds": seconds})
            journal.end(status, error and f"{error[0]}: {error[1]}")
    if status == "FAILED":
        if error[0] == InputError.__name__:
            raise InputError(error[1])
        raise StageFailed(
            f"{item.name} failed: {error[0]}: {error[1]}; see {notebook} and {log}; the same "
            "command goes on from here"
        )
    metrics = results.completion(item.folder)["metrics"]
    figures = "  ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items())[:6])
    say(f"{label}: done in {seconds:.0f} s  {figures}")


def _is_complete(item, code):
    """Whether a stage whose process ended with ``code`` has left all that the next run reuses."""
    record = results.completion(item.folder)
    if not record or record["fingerprint"] != item.fingerprint:
        return False
    return code == 0 or not results.damage(item.folder)


def dry_run(planned):
    """The plain papermill commands of what would run, one per line."""
    lines = []
    for item in planned:
        if item.done:
            lines.append(f"# {item.name}: done, {item.folder}")
            continue
        words = ["papermill", item.stage.path.relative_to(paths.project_root())]
        words.append(item.folder / results.NOTEBOOK)
        for name, value in item.values.items():
            if value != item.stage.parameters[name].default:
                several = isinstance(value, list)
                words += ["-y", f"{name}: {value}"] if several else ["-p", name, value]
        lines.append(shlex.join(map(str, words)))
    return "\n".join(lines)


def seconds_of(folder):
    """Seconds that a stage took, all attempts at it."""
    try:
        return float(json.loads((folder / "run.json").read_text())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def _watch(process, path, label, uploader, lane):
    """Show the kernel's progress until the process ends."""
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
            if process.returncode is not None:
                return
            lane.check()
            text = path.read_text() if path.exists() else "starting"
            lane.show(label, text + ("  (tracking store away)" if uploader.away else ""))
    finally:
        lane.hide(label)


def _error(notebook, log, code):
    """``(name, message)`` of the exception that ended a notebook, or of how its process ended."""
    import nbformat  # slow to import, as is what follows, and seldom needed here

    with suppress(OSError, ValueError):  # none, or cut short
        for cell in nbformat.read(notebook, as_version=4).cells:
            for output in cell.get("outputs", ()):
                if output.output_type == "error":
                    return output.ename, " ".join(output.evalue.split())
    if code == 0:
        return "Stopped", (
            "its notebook ran to the end but left no result with this fingerprint; was it, or the "
            "data, changed meanwhile? The same command runs it again"
        )
    if shutil.disk_usage(log.parent).free < LITTLE:  # what is written last is cut short
        return "OSError", f"there is no room left for {log.parent}; free some"
    if code < 0:
        return "Stopped", f"its process was ended by signal {-code}"
    lines = log.read_text(errors="replace").strip().splitlines()
    return "Stopped", (lines or ["its process ended without a message"])[-1][:300]


def keep_notebook(folder):
    """Log a stage's executed notebook as .ipynb and .html, whatever became of it."""
    import nbformat
    from nbconvert import HTMLExporter

    notebook = folder / results.NOTEBOOK
    if not notebook.exists():
        return
    try:
        html, _ = HTMLExporter().from_filename(str(notebook))
    except (ValueError, nbformat.ValidationError):
        return  # papermill was killed while it wrote it
    with atomic.write(notebook.with_suffix(".html")) as partial:
        partial.write_text(html)
    journal = Journal(folder)
    for path in (notebook, notebook.with_suffix(".html")):
        journal.file(path, "notebook")
