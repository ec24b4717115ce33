"""The driver: reads an experiment, checks everything, runs its stages as notebooks, owns their
MLflow status.
"""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill  # noqa: F401 - a missing install must fail before any work
import yaml

from wsss import datasets, stages, storage, tracking
from wsss.errors import InputError
from wsss.progress import FILE_VARIABLE

KEYS = ("name", "description", "common", "stages", "smoke")

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


@dataclass
class Planned:
    """One stage of a plan."""

    stage: stages.Stage
    values: dict
    fingerprint: str
    folder: Path
    done: bool

    @property
    def name(self):
        return self.stage.name


def read_experiment(path):
    """An experiment file as a dict with ``name``, ``description``, ``common``, ``stages`` and
    ``smoke``.
    """
    try:
        text = Path(path).read_text()
    except (FileNotFoundError, IsADirectoryError):
        have = ", ".join(
            sorted(p.name for p in (stages.project_root() / "experiments").glob("*.yaml"))
        )
        raise InputError(f"{path}: no such experiment file; experiments/ has: {have}") from None
    try:
        experiment = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(
            f"{path}: not readable as YAML ({' '.join(str(error).split())}); mend the file"
        ) from None
    if not isinstance(experiment, dict) or not isinstance(experiment.get("stages"), dict):
        raise InputError(f"{path}: expected a mapping with 'stages:'; see experiments/shapes.yaml")
    for key in experiment:
        if key not in KEYS:
            raise InputError(f"{path}: unknown key '{key}'; expected: {', '.join(KEYS)}")
    for key in ("common", "stages", "smoke"):
        experiment[key] = experiment.get(key) or {}
    experiment.setdefault("name", Path(path).stem)
    return experiment


def parse_overrides(texts):
    """``["stage.parameter=value", ...]`` as ``{stage: {parameter: value}}``; values are read as
    YAML.
    """
    given = {}
    for text in texts:
        name, equals, value = text.partition("=")
        stage, dot, parameter = name.partition(".")
        if not (equals and dot and stage and parameter):
            raise InputError(
                f"'{text}': expected stage.parameter=value, such as random_walk.beta=4"
            )
        try:
            given.setdefault(stage, {})[parameter] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"'{text}': the value is not readable as YAML; quote it") from None
    return given


def plan(experiment, overrides=None, *, smoke=False, force=False, start=None, only=None):
    """The stages of an experiment in order, each with its values, fingerprint, and whether it is
    done.

    Args:
        experiment: from ``read_experiment``.
        overrides: from ``parse_overrides``.
        smoke: apply the experiment's smoke size.
        force: nothing counts as done.
        start: with ``force``, only from this stage on.
        only: run this stage alone; those before it must be done.
    """
    chain = stages.read_stages()
    overrides = overrides or {}
    names = [name for name in chain if name in experiment["stages"]]
    layers = [experiment["stages"], experiment["smoke"] if smoke else {}, overrides]
    for layer in layers:
        for name in layer:
            if name not in chain or name not in names:
                raise InputError(
                    f"'{name}' is no stage of this experiment; its stages are: {', '.join(names)}"
                )
    for name in (start, only):
        if name and name not in names:
            raise InputError(
                f"'{name}' is no stage of this experiment; its stages are: {', '.join(names)}"
            )
    for name in experiment["common"]:
        if not any(name in chain[stage].parameters for stage in names):
            raise InputError(f"common.{name}: no stage of this experiment has such a parameter")

    planned, digest, forced = {}, None, False
    for name in names:
        stage = chain[name]
        values = {
            key: value for key, value in experiment["common"].items() if key in stage.parameters
        }
        for layer in layers:
            values |= layer.get(name) or {}
        values = stage.resolve(values)
        if digest is None:
            digest = datasets.open(
                values["dataset"], stages.from_root(values["data_root"])
            ).digest()
        upstream = {}
        for parameter, other in stages.upstream_of(stage, chain).items():
            if values[parameter]:  # results of some other experiment, named by their folder
                record = stages.completion(stages.from_root(values[parameter]))
                if record is None:
                    raise InputError(
                        f"{name}.{parameter}: {values[parameter]} holds no completed stage; run "
                        "it first"
                    )
                upstream[other] = record["fingerprint"]
            elif other in planned:
                upstream[other] = planned[other].fingerprint
                values[parameter] = str(planned[other].folder)
            else:
                raise InputError(
                    f"{name}: builds on {other}, which comes later or is not in this experiment; "
                    "add it"
                )
        fingerprint = stage.fingerprint(values, upstream, digest)
        folder = stages.stage_folder(name, fingerprint)
        forced = forced or (force and start in (None, name)) or (force and only == name)
        done = not (forced and only in (None, name)) and stages.completion(folder) is not None
        planned[name] = Planned(stage, values, fingerprint, folder, done)
    if only:
        missing = [p.name for p in list(planned.values())[: names.index(only)] if not p.done]
        if missing:
            raise InputError(
                f"--only {only}: these stages before it are not done: {', '.join(missing)}; leave "
                "--only out"
            )
        planned = {name: p for name, p in planned.items() if names.index(name) <= names.index(only)}
    elif start and not force:
        missing = [p.name for p in list(planned.values())[: names.index(start)] if not p.done]
        if missing:
            raise InputError(
                f"--from {start}: these stages before it are not done: {', '.join(missing)}; "
                "leave it out"
            )
    return list(planned.values())


def dry_run(planned):
    """The plain papermill commands of what would run, one a line."""
    lines = []
    for item in planned:
        if item.done:
            lines.append(f"# {item.name}: done, {item.folder}")
            continue
        given = [
            f"-{'y' if isinstance(value, list) else 'p'} "
            + (
                shlex.quote(f"{name}: {value}")
                if isinstance(value, list)
                else f"{name} {shlex.quote(str(value))}"
            )
            for name, value in item.values.items()
            if value != item.stage.parameters[name].default
        ]
        notebook = item.stage.path.relative_to(stages.project_root())
        lines.append(
            " ".join(
                [
                    "papermill",
                    str(notebook),
                    str(item.folder / "executed.ipynb"),
                    *given,
                ]
            )
        )
    return "\n".join(lines)


def run(experiment, planned, *, say=print):
    """Run what is not done, inside one MLflow parent run; returns the report's text, or None
    without a report.

    Raises:
        InputError: a stage refused what it was given.
        StageFailed: a stage ended otherwise without completing.
    """
    todo = [item for item in planned if not item.done]
    if not todo:
        say(f"{experiment['name']}: all {len(planned)} stages are done; nothing to do")
        return _report(planned)
    for item in planned:
        if item.done:
            say(f"{item.name}: done before, reused ({item.folder})")
    parent = tracking.create_run(
        experiment["name"],
        f"{experiment['name']} {time.strftime('%Y-%m-%d %H:%M')}",
        {
            "wsss.experiment": experiment["name"],
            "mlflow.note.content": experiment.get("description", ""),
        },
    )
    status = "FAILED"
    try:
        for place, item in enumerate(planned, 1):
            if not item.done:
                _run_stage(
                    experiment,
                    item,
                    parent,
                    f"[{place}/{len(planned)}] {item.name}",
                    say,
                )
            tracking.link_stage(parent, item.name, item.folder)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracking.end_run(parent, status)
    return _report(planned)


def _report(planned):
    path = planned[-1].folder / "report.md"
    return path.read_text() if path.exists() else None


def _run_stage(experiment, item, parent, label, say):
    """One notebook in a subprocess, watched, and its run's status set from what it left behind."""
    if stages.completion(item.folder):  # --force
        shutil.rmtree(item.folder)
    item.folder.mkdir(parents=True, exist_ok=True)
    run_id, before = _resume(item) or (None, 0.0)
    if run_id is None:
        tags = {"wsss.stage": item.name, "wsss.experiment": experiment["name"]}
        run_id = tracking.create_run(experiment["name"], item.name, tags, parent=parent)
    parameters, notebook = (
        item.folder / "parameters.json",
        item.folder / "executed.ipynb",
    )
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
            status, error = "FAILED", _error(notebook, item.folder / "papermill.log")
    finally:
        watched.unlink(missing_ok=True)
        _keep_notebook(run_id, notebook)
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


def _error(notebook, log):
    """``(name, message)`` of the exception that ended a notebook, or of how its process ended."""
    with contextlib.suppress(FileNotFoundError, nbformat.reader.NotJSONError):
        for cell in nbformat.read(notebook, as_version=4).cells:
            for output in cell.get("outputs", ()):
                if output.output_type == "error":
                    return output.ename, " ".join(output.evalue.split())
    lines = log.read_text().strip().splitlines() or ["its process ended without a message"]
    return "Stopped", lines[-1][:300]


def _keep_notebook(run_id, notebook):
    """Log the executed notebook as .ipynb and .html, whatever became of it."""
    if not notebook.exists():
        return
    from nbconvert import (
        HTMLExporter,
    )  # slow to import, and only needed when a stage ran

    try:
        html, _ = HTMLExporter().from_filename(str(notebook))
    except (nbformat.reader.NotJSONError, nbformat.ValidationError):
        return  # the kernel was killed while papermill wrote it
    with storage.atomic(notebook.with_suffix(".html")) as partial:
        partial.write_text(html)
    for path in (notebook, notebook.with_suffix(".html")):
        tracking.log_file(run_id, path, "notebook")
