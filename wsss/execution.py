"""One stage: its notebook run by papermill in a subprocess, watched, and its MLflow status set."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time

import nbformat
import papermill  # noqa: F401 - a missing install must fail before any work

from wsss import shown, stages, storage, tracking
from wsss.errors import InputError
from wsss.progress import FILE_VARIABLE

NOTEBOOK = "executed.ipynb"  # in the stage's folder

# On glibc, huge pages and a heap that is kept make training on CPU about a third faster:
# activations of many megabytes are otherwise mapped, faulted in and given back at every step.
ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:"
    "glibc.malloc.trim_threshold=17179869184"
}

# What runs a stage: papermill by its own function, since only that can coalesce streams, which
# keeps a progress bar to one line of the executed notebook.
EXECUTE = """
import json, sys, papermill
source, target, parameters = sys.argv[1:]
with open(parameters) as file:
    values = json.load(file)
papermill.execute_notebook(
    source, target, values, kernel_name="python3", progress_bar=False, coalesce_streams=True
)
"""


class StageFailed(RuntimeError):
    """A stage's notebook ended without completing; the message says where to look."""


def run_stage(experiment, item, parent, label, say):
    """One notebook in a subprocess, watched, and its run's status set from what it left behind.

    Args:
        experiment: its name.
        item: a ``pipeline.Planned`` that is not done.
        parent: id of the MLflow run that the stage's becomes a child of.
        label: for the progress line.
        say: what is told to people goes through it.

    Raises:
        InputError: the stage refused what it was given.
        StageFailed: it ended otherwise without completing.
    """
    if stages.completion(item.folder):  # --force
        shutil.rmtree(item.folder)
    item.folder.mkdir(parents=True, exist_ok=True)
    run_id, before = _resume(item) or (None, 0.0)
    if run_id is None:
        tags = {"wsss.stage": item.name, "wsss.experiment": experiment}
        name = shown.run_name(item.name, shown.title(item.changes))
        run_id = tracking.create_run(experiment, name, tags, parent=parent)
    parameters, notebook = item.folder / "parameters.json", item.folder / NOTEBOOK
    storage.save_json(parameters, item.values)
    storage.save_json(item.folder / "run.json", {"run_id": run_id, "seconds": before})
    watched = item.folder / ".progress"
    environment = (
        ALLOCATOR
        | os.environ
        | {
            "MLFLOW_TRACKING_URI": tracking.tracking_uri(),
            tracking.RUN_VARIABLE: run_id,
            FILE_VARIABLE: str(watched),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
    )
    began = time.monotonic()
    status, error = "KILLED", None
    try:
        with (item.folder / "papermill.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", EXECUTE, item.stage.path, notebook, parameters],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=stages.project_root(),
            )
            try:
                _watch(process, watched, label)
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
        seconds = before + time.monotonic() - began
        storage.save_json(item.folder / "run.json", {"run_id": run_id, "seconds": seconds})
        record = stages.completion(item.folder)
        if process.returncode == 0 and record and record["fingerprint"] == item.fingerprint:
            status = "FINISHED"
            tracking.log_metrics(run_id, {"seconds": seconds})
        else:
            log = item.folder / "papermill.log"
            status, error = "FAILED", _error(notebook, log, process.returncode)
    finally:
        watched.unlink(missing_ok=True)
        tracking.end_run(run_id, status, error=error and f"{error[0]}: {error[1]}")
    if status == "FAILED":
        if error[0] == InputError.__name__:
            raise InputError(error[1])
        raise StageFailed(
            f"{item.name} failed: {error[0]}: {error[1]}; see {notebook} and "
            f"{item.folder / 'papermill.log'}"
        )
    figures = "  ".join(
        f"{name} {value:.4g}" for name, value in sorted(record["metrics"].items())[:6]
    )
    say(f"{label}: done in {seconds:.0f} s  {figures}")


def _resume(item):
    """``(run id, seconds so far)`` of an unfinished attempt at the same stage, so that its record
    goes on.
    """
    try:
        state = json.loads((item.folder / "run.json").read_text())
        return (state["run_id"], state["seconds"]) if tracking.reopen(state["run_id"]) else None
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _watch(process, path, label):
    """Show the kernel's progress until the process ends: one live line, or one a minute where
    output is a file.
    """
    shown, live = 0.0, sys.stderr.isatty()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        if process.returncode is not None:
            break
        text = path.read_text() if path.exists() else "starting"
        if live:
            width = shutil.get_terminal_size().columns - 1
            print(
                f"\r{f'{label}  {text}'[:width]:<{width}}",
                end="",
                file=sys.stderr,
                flush=True,
            )
        elif time.monotonic() - shown > 60:
            shown = time.monotonic()
            print(f"{label}  {text}", file=sys.stderr, flush=True)
    if live:
        print(
            "\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r",
            end="",
            file=sys.stderr,
            flush=True,
        )


def _error(notebook, log, code):
    """``(name, message)`` of the exception that ended a notebook, or of how its process ended."""
    with contextlib.suppress(FileNotFoundError, nbformat.reader.NotJSONError):
        for cell in nbformat.read(notebook, as_version=4).cells:
            for output in cell.get("outputs", ()):
                if output.output_type == "error":
                    return output.ename, " ".join(output.evalue.split())
    if code == 0:
        return "Stopped", (
            "its notebook ran to the end but left no result with this fingerprint; was it, or the "
            "data, changed meanwhile? The same command runs it again"
        )
    lines = log.read_text().strip().splitlines() or ["its process ended without a message"]
    return "Stopped", lines[-1][:300]


def keep_notebook(folder):
    """Log a stage's executed notebook as .ipynb and .html, whatever became of it."""
    from nbconvert import HTMLExporter  # slow to import, and only needed when a stage ran

    notebook = folder / NOTEBOOK
    if not notebook.exists():
        return
    try:
        html, _ = HTMLExporter().from_filename(str(notebook))
    except (nbformat.reader.NotJSONError, nbformat.ValidationError):
        return  # the kernel was killed while papermill wrote it
    with storage.atomic(notebook.with_suffix(".html")) as partial:
        partial.write_text(html)
    run_id = json.loads((folder / "run.json").read_text())["run_id"]
    for path in (notebook, notebook.with_suffix(".html")):
        tracking.log_file(run_id, path, "notebook")
