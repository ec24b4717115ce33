"""Uploads journals to MLflow while work goes on, or later if the store is unavailable."""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import mlflow
import numpy as np
from mlflow.entities import Metric, Param, RunTag
from PIL import Image

from wsss.errors import InputError, masked, reason
from wsss.io import atomic
from wsss.io.locks import held, lock_of
from wsss.lab import paths, results
from wsss.lab.project import Say
from wsss.lab.record import journal, mlflow_pages, mlflow_store

# errors that a later attempt cannot fix
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")
MARK = "wsss.journal"  # tag of a run: its journal


class StoreUnavailable(RuntimeError):
    """The tracking store does not answer; the message is one line."""


def run_of(folder: Path | str) -> str | None:
    """The id of the MLflow run of a folder's journal."""
    return _state(folder)["run_id"]


def waiting(folder: Path | str) -> bool:
    """Whether a journal has entries that are not in MLflow yet."""
    return next(journal.entries(folder, _state(folder)["offset"]), None) is not None


def deliver(folder: Path | str, *, register_model: Callable | None = None) -> list[str]:
    """Upload a journal's new entries; all of them if the store has no run of it, as after a move to
    another server. Entries that an interruption repeats are in MLflow once.

    Without ``register_model`` (see ``Project``), delivery stops before the first model. Returns
    messages, such as about refused entries; raises StoreUnavailable if the store does not answer.
    """
    with held(folder, "delivery", 60) as mine:
        if not mine:
            raise StoreUnavailable("another process delivers the same record")
        try:
            return _deliver(Path(folder), register_model)
        except InputError as fault:
            raise StoreUnavailable(str(fault)) from None
        except (mlflow.MlflowException, OSError) as fault:
            raise StoreUnavailable(mlflow_store.unreachable(fault)) from None


def _deliver(folder, register_model):
    state, lines = _state(folder), []
    if state["run_id"] and mlflow_store.find_run(state["run_id"]) is None:
        state = {"run_id": None, "offset": 0}
    for entry, offset in journal.entries(folder, state["offset"]):
        if entry["kind"] == "model" and register_model is None:
            break
        try:
            state["run_id"] = state["run_id"] or _run(folder)
            line = _send(folder, state["run_id"], entry, register_model)
            lines += [line] if line else []
        except mlflow.MlflowException as fault:
            if fault.error_code not in REFUSALS:
                raise
            lines.append(masked(f"{folder}: {entry['kind']} refused: {reason(fault)}"))
        except FileNotFoundError as fault:  # removed or overwritten
            lines.append(f"{fault.filename}: gone before it could be delivered")
        except (InputError, OSError):
            raise
        except Exception as fault:  # one entry must not block the others
            cause = masked(f"{type(fault).__name__}: {fault}")
            lines.append(f"{folder}: {entry['kind']} could not be delivered: {cause}")
        atomic.save_json(folder / results.DELIVERED, state := state | {"offset": offset})
    return lines


def _state(folder):
    with suppress(OSError, ValueError, KeyError, TypeError):  # missing or damaged
        state = json.loads((Path(folder) / results.DELIVERED).read_bytes())
        size = (Path(folder) / results.JOURNAL).stat().st_size
        return {"run_id": state["run_id"], "offset": min(int(state["offset"]), size)}
    return {"run_id": None, "offset": 0}


def _run(folder):
    """The run of a journal: the one that an interrupted delivery created, or a new one."""
    entry = next((e for e, _ in journal.entries(folder) if e["kind"] == "run"), None)
    if entry is None:
        raise InputError(f"{folder}: its {results.JOURNAL} has lost its beginning; run it again")
    client, experiment = mlflow_store.client(), mlflow_store.experiment_id(entry["experiment"])
    mark, start = f"{Path(folder).name}-{entry['time']}", entry["time"]
    with lock_of(folder, "run"):  # delivery of a child may create it too
        found = client.search_runs([experiment], f"tags.`{MARK}` = '{mark}'", max_results=1)
        if found:
            return found[0].info.run_id
        tags = entry["tags"] | {MARK: mark}
        if parent := entry["parent"]:
            tags["mlflow.parentRunId"] = run_of(parent) or _run(parent)
        run = client.create_run(experiment, run_name=entry["name"], tags=tags, start_time=start)
        return run.info.run_id


def _send(folder, run_id, entry, register_model):
    """Deliver one entry; returns a message, or None."""
    client = mlflow_store.client()
    match entry["kind"]:
        case "run":
            pass  # created with the first entry that is delivered
        case "resumed":
            client.update_run(run_id, status="RUNNING")
            with suppress(mlflow.MlflowException):  # if it has none
                client.delete_tag(run_id, "wsss.error")
        case "end":
            if entry["error"]:
                client.set_tag(run_id, "wsss.error", masked(entry["error"])[:4000])
            client.set_terminated(run_id, entry["status"], end_time=entry["time"])
        case "params":
            values = {name: masked(str(value))[:6000] for name, value in entry["values"].items()}
            client.log_batch(run_id, params=[Param(*pair) for pair in values.items()])
        case "tags":
            tags = [RunTag(name, str(value)) for name, value in entry["values"].items()]
            client.log_batch(run_id, tags=tags)
        case "metrics":
            when, step = entry["time"], entry["step"]
            metrics = [Metric(name, value, when, step) for name, value in entry["values"].items()]
            client.log_batch(run_id, metrics=metrics)
        case "file":
            client.log_artifact(run_id, str(folder / entry["path"]), entry["to"])
        case "image":
            with Image.open(folder / entry["path"]) as image:
                pixels = np.array(image.convert("RGB"))
            client.log_image(run_id, pixels, key=entry["key"], step=0, timestamp=entry["time"])
        case "table":  # a file in MLflow's form, and a tag that lists it
            client.log_artifact(run_id, str(folder / entry["path"]))
            name = "mlflow.loggedArtifacts"
            listed = json.loads(client.get_run(run_id).data.tags.get(name, "[]"))
            table = {"path": Path(entry["path"]).name, "type": "table"}
            if table not in listed:
                client.set_tag(run_id, name, json.dumps([*listed, table]))
        case "model":
            version = register_model(entry["name"], folder / entry["path"], run_id=run_id)
            return f"registered as models:/{version}"
        case "stage":  # which run is a stage of this experiment's run
            if run_of(entry["folder"]) is None or waiting(entry["folder"]):
                deliver(entry["folder"], register_model=register_model)
            client.set_tag(run_id, f"wsss.stage.{entry['name']}", run_of(entry["folder"]))
        case "experiment":
            about = entry["name"], entry["description"]
            mlflow_pages.describe_experiment(*about, columns=entry["columns"])
        case kind:
            raise ValueError(f"unknown entry '{kind}'")


class Uploader:
    """Delivers journals in the background while a block runs, and once more at its end.

    Attributes:
        unavailable: the reason if the store does not answer, in one line; else empty.
    """

    def __init__(self, say: Say = print, *, register_model: Callable | None = None):
        self.unavailable, self._say, self._folders = "", say, []
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
        if folder not in self._folders:
            self._folders.append(folder)

    def upload(self) -> bool:
        """Deliver all new entries now; returns whether the store answered."""
        with self._pass:
            try:
                for folder in list(self._folders):
                    if waiting(folder):
                        for line in deliver(folder, register_model=self._register_model):
                            self._say(line)
            except StoreUnavailable as fault:
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
    """The folders under ``outputs/`` whose runs were interrupted or are not completely in MLflow,
    experiments first.
    """
    root = paths.outputs_root()
    folders = [path.parent for path in sorted(root.glob(f"*/*/{results.JOURNAL}"))]
    folders.sort(key=lambda folder: folder.parent.name != "runs")
    return [folder for folder in folders if waiting(folder) or not journal.ended(folder)]


def close_stale_runs(say: Say = print, *, register_model: Callable | None = None) -> None:
    """End the runs under ``outputs/`` whose process is gone, and deliver what waits; raises
    StoreUnavailable if the store does not answer.
    """
    for folder in pending():
        with held(folder, "driver") as idle:
            if not idle:
                continue
            with held(folder, "work") as idle:
                if idle and not journal.ended(folder):
                    _close(folder)
            for line in deliver(folder, register_model=register_model) if idle else ():
                say(line)


def _close(folder):
    """End a run whose process is gone; FINISHED if only the driver was killed."""
    finished = results.completion(folder) and not results.damage(folder)
    cause = None if finished else "its process was killed, or the machine went down"
    journal.Journal(folder).end("FINISHED" if finished else "FAILED", cause)
