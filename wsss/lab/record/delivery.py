"""Uploads journals to MLflow, now or later, and reads back what reports need."""

import errno
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities import Metric, Param, RunTag
from PIL import Image

from wsss.errors import InputError, masked, reason
from wsss.io import atomic
from wsss.io.locks import held
from wsss.lab import paths, results
from wsss.lab.project import Project, Say
from wsss.lab.record import journal, mlflow_pages, mlflow_runs, mlflow_store
from wsss.lab.record.mlflow_runs import run_of, waiting

# MLflow's errors of entries that no later attempt can deliver
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")


def deliver(folder: Path | str, *, register_model: Callable | None = None) -> list[str]:
    """Upload a journal's new entries, all of them to a new store (see ``mlflow_runs.open_run``).
    Entries that an interruption repeats are in MLflow once.

    Without ``register_model`` (see ``Project``), delivery stops before the first model. Returns
    messages, such as about refused entries; InputError if the store does not answer, and then
    nothing counts as delivered that it may lack.
    """
    folder, lines = Path(folder), []
    with held(folder, "delivery", 60) as mine, mlflow_store.one_line_errors():
        if not mine:
            raise InputError("another process delivers the same record")
        state = mlflow_runs.open_run(folder)
        for entry, offset in journal.entries(folder, state["offset"]):
            if entry["kind"] == "model" and register_model is None:
                break
            try:
                lines += _send(folder, state["run_id"], entry, register_model)
            except Exception as fault:
                if not _is_final(fault) or mlflow_store.find_run(state["run_id"]) is None:
                    raise
                # it must not block the others
                lines.append(masked(f"{folder}: {entry['kind']} refused: {reason(fault)}"))
            mlflow_runs.note(folder, state | {"offset": offset})
    return lines


def _is_final(fault):
    """Whether an entry failed by what it holds, so that no later attempt can deliver it."""
    if isinstance(fault, mlflow.MlflowException):
        return fault.error_code in REFUSALS
    if isinstance(fault, OSError):  # a file that a model needs may be gone
        return fault.errno in (errno.ENAMETOOLONG, errno.ENOENT)
    own = isinstance(fault, ValueError | TypeError | LookupError)
    return own and not isinstance(fault, InputError)


def _send(folder, run_id, entry, register_model):
    """Deliver one entry; returns messages."""
    client, path = mlflow_store.client(), folder / entry.get("path", "")
    try:
        if "path" in entry:
            path.open("rb").close()
    except FileNotFoundError:  # removed or overwritten
        return [f"{path}: gone before it could be delivered"]
    except OSError as fault:
        raise InputError(f"{path}: cannot be read ({fault.strerror}); make it readable") from None
    match entry["kind"]:
        case "run":
            pass  # it is there: see ``mlflow_runs.open_run``
        case "resumed":
            client.update_run(run_id, status="RUNNING")
            if "wsss.error" in client.get_run(run_id).data.tags:
                client.delete_tag(run_id, "wsss.error")
        case "end":
            if entry["error"]:
                client.set_tag(run_id, "wsss.error", masked(entry["error"])[:4000])
            client.set_terminated(run_id, entry["status"], end_time=entry["time"])
        case "params":
            values = {name: masked(str(value))[:6000] for name, value in entry["values"].items()}
            client.log_batch(run_id, params=[Param(*pair) for pair in values.items()])
        case "tags":
            client.log_batch(run_id, tags=[RunTag(k, str(v)) for k, v in entry["values"].items()])
        case "metrics":
            values = {mlflow_store.metric_name(k): v for k, v in entry["values"].items()}
            metrics = [Metric(*pair, entry["time"], entry["step"]) for pair in values.items()]
            client.log_batch(run_id, metrics=metrics)
        case "file":
            client.log_artifact(run_id, str(path), entry["to"])
        case "image":
            _send_image(client, run_id, entry, path)
        case "table":  # a file in MLflow's form, and a tag that lists it
            client.log_artifact(run_id, str(path))
            name = "mlflow.loggedArtifacts"
            listed = json.loads(client.get_run(run_id).data.tags.get(name, "[]"))
            table = {"path": path.name, "type": "table"}
            if table not in listed:
                client.set_tag(run_id, name, json.dumps([*listed, table]))
        case "model":
            version = register_model(entry["name"], path, run_id=run_id)
            return [f"registered as models:/{version}"]
        case "stage":  # which run is a stage of this experiment's run
            stage = mlflow_runs.named(folder, entry["folder"])
            if next(journal.entries(stage), None) is None:
                return [f"{stage}: gone before it could be delivered"]
            lines = deliver(stage, register_model=register_model)
            client.set_tag(run_id, f"wsss.stage.{entry['name']}", run_of(stage))
            return lines
        case "experiment":
            about = entry["name"], entry["description"]
            mlflow_pages.describe_experiment(*about, columns=entry["columns"])
        case kind:
            raise ValueError(f"unknown entry '{kind}'")
    return []


def _send_image(client, run_id, entry, path):
    """Log a picture, unless the run has it: MLflow would add it under another name."""
    name = f"{entry['key'].replace('/', '~')}+step+0+timestamp+{entry['time']}+"
    found = [Path(file.path).name for file in client.list_artifacts(run_id, "images")]
    if any(file.startswith(name) and "compressed" in file for file in found):  # the last of two
        return
    if not atomic.is_whole(path):
        raise ValueError(f"{path} is damaged")
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB"))
    client.log_image(run_id, pixels, key=entry["key"], step=0, timestamp=entry["time"])


class Uploader:
    """Delivers journals in the background while a block runs, and once more at its end.
    ``unavailable`` says in one line why the store does not answer; empty if it does.
    """

    def __init__(self, say: Say = print, *, register_model: Callable | None = None):
        self.unavailable, self._say, self._folders = "", say, {}
        self._register_model = register_model
        self._pass, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *fault):
        self._over.set()
        self._thread.join()
        self.upload()

    def watch(self, folder: Path) -> None:
        """Deliver a folder's journal from now on."""
        self._folders[folder] = None

    def upload(self) -> bool:
        """Deliver all new entries now; returns whether the store answered."""
        with self._pass:
            try:
                for folder in list(self._folders):
                    if waiting(folder):
                        for line in deliver(folder, register_model=self._register_model):
                            self._say(line)
            except InputError as fault:
                if not self.unavailable:
                    self._say(f"{fault}; work goes on, and its record waits on disk")
                self.unavailable = str(fault)
                return False
            if self.unavailable:
                self._say("the tracking store answers again")
            self.unavailable = ""
            return True

    def _work(self):
        pause = 1.0
        while not self._over.wait(pause):
            pause = 1.0 if self.upload() else min(2 * pause, 30.0)


def pending() -> list[Path]:
    """The folders of runs that were interrupted or are not wholly in MLflow, experiments first."""
    folders = [path.parent for path in sorted(paths.outputs_root().glob(f"*/*/{results.JOURNAL}"))]
    folders.sort(key=lambda folder: folder.parent.name != "runs")
    return [folder for folder in folders if waiting(folder) or not journal.ended(folder)]


def close_stale_runs(say: Say = print, *, project: Project | None = None) -> None:
    """End the runs under ``outputs/`` whose process is gone, completed stages with the project's
    headlines, and deliver what waits: all to a new store. InputError if it does not answer.
    """
    register_model, scores = (project.register_model, project.scores) if project else (None, {})
    if not any(paths.outputs_root().glob(f"*/*/{results.JOURNAL}")):
        return  # the first run, which need not wait until the store is made
    store = mlflow_store.identity()
    folders = pending()
    stores = [mlflow_runs.states(folder).keys() - {""} for folder in folders]
    if earlier := sum(store not in known for known in stores if known):
        uri = masked(mlflow_store.tracking_uri())
        say(f"{uri} lacks {earlier} earlier runs under {paths.outputs_root()}; it gets them first")
    for folder in folders:
        with held(folder, "driver") as free:
            with held(folder, "work") as idle:
                if free and idle and not journal.ended(folder):
                    _close(folder, scores)
            for line in deliver(folder, register_model=register_model) if free and idle else ():
                say(line)


def _close(folder, scores):
    """End a run whose process is gone; FINISHED if only the driver was killed."""
    record, run = results.completion(folder), journal.Journal(folder)
    if record and not results.damage(folder):
        run.metrics(mlflow_pages.headlines(record["metrics"], scores))
        run.end("FINISHED")
    else:
        run.end("FAILED", "its process was killed, or the machine went down")


class Completed(NamedTuple):
    """A completed stage as MLflow holds it."""

    run_id: str
    metrics: dict[str, float]
    iou: pd.DataFrame | None  # its IoU table, if it logged one
    record: dict  # of ``results.completion``
    tags: dict[str, str]


def completed(folder: Path) -> Completed:
    """A folder's completed stage by MLflow; InputError unless FINISHED with the same metrics."""
    record = results.completion(folder)
    if record is None:
        raise InputError(f"{folder}: no completed stage here; run it first")
    try:
        deliver(folder)
    except InputError as fault:
        again = "then give the same command again"
        raise InputError(f"{folder}: its record is not in MLflow yet: {fault}; {again}") from None
    run_id = run_of(folder) or ""
    run = mlflow_store.find_run(run_id)
    if run is None or waiting(folder):
        uri = masked(mlflow_store.tracking_uri())
        raise InputError(f"{folder}: its record is not in {uri} yet; `wsss run` delivers it")
    if run.info.status != "FINISHED":
        raise InputError(f"run {run_id} is {run.info.status}, not FINISHED; run its stage again")
    names = {mlflow_store.metric_name(name): name for name in record["metrics"]}
    metrics = {names.get(name, name): value for name, value in run.data.metrics.items()}
    for name, value in record["metrics"].items():
        if value == value and metrics.get(name) != value:  # NaN is no number to compare
            raise InputError(
                f"{folder}: {results.COMPLETE} has {name} {value}, and its run {run_id} in MLflow "
                f"{metrics.get(name)}; delete the folder and run its stage again"
            )
    return Completed(run_id, metrics, mlflow_store.iou_table(run), record, run.data.tags)
