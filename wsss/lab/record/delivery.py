"""From journals to MLflow: what was recorded on disk is carried to the tracking store while work
goes on; where the store is away, it is carried later.
"""

import json
import threading
from contextlib import suppress
from pathlib import Path

import mlflow
import numpy as np
from mlflow.entities import Metric, Param, RunTag
from PIL import Image

from wsss.errors import InputError, masked
from wsss.io import atomic
from wsss.io.locks import acquire, lock_of
from wsss.lab import paths, results
from wsss.lab.record import journal, mlflow_pages, mlflow_store

# errors that no waiting mends
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")
MARK = "wsss.journal"  # tag of a run: which journal it is from


class StoreUnavailable(RuntimeError):
    """The tracking store cannot be asked; the message is one line."""


def run_of(folder):
    """The id of the MLflow run that a folder's journal was carried to, or None."""
    return _state(folder)["run_id"]


def waiting(folder):
    """Whether a journal has entries that were not carried yet."""
    return next(journal.entries(folder, _state(folder)["offset"]), None) is not None


def deliver(folder, *, register_model=None):
    """Carry what a journal holds beyond what was carried; what an interruption has repeated is in
    MLflow once. Where the store has no run of it, as after a move to another server, all of it is
    carried.

    Args:
        folder: of the journal.
        register_model: as ``Project.register_model``; without it a journal waits at the first
            model that is to be registered.

    Returns:
        lines for people, such as what the store refused for good.

    Raises:
        Away: the store cannot be asked; the rest is carried by a later call.
    """
    lock, lines = lock_of(folder, "delivery"), []
    if not acquire(lock, 60):
        raise StoreUnavailable("another process delivers the same record")
    try:
        state = _state(folder)
        if state["run_id"] and mlflow_store.find_run(state["run_id"]) is None:
            state = {"run_id": None, "offset": 0}
        for entry, offset in journal.entries(folder, state["offset"]):
            if entry["kind"] == "model" and register_model is None:
                break
            try:
                if state["run_id"] is None:
                    state["run_id"] = _run(folder)
                line = _send(Path(folder), state["run_id"], entry, register_model)
                lines += [line] if line else []
            except mlflow.MlflowException as fault:
                if fault.error_code not in REFUSALS:
                    raise
                reason = str(fault).splitlines()[0]
                lines.append(masked(f"{folder}: {entry['kind']} refused: {reason}"))
            except FileNotFoundError as fault:  # it was taken away, or gave way to a later one
                lines.append(f"{fault.filename}: gone before it could be delivered")
            except (InputError, OSError):
                raise
            except Exception as fault:  # of one entry, which must not keep back all others
                reason = masked(f"{type(fault).__name__}: {fault}")
                lines.append(f"{folder}: {entry['kind']} could not be delivered: {reason}")
            state["offset"] = offset
            _save(folder, state)
    except InputError as fault:  # which says all there is to say
        raise StoreUnavailable(str(fault)) from None
    except (mlflow.MlflowException, OSError) as fault:
        raise StoreUnavailable(mlflow_store.unreachable(fault)) from None
    finally:
        lock.release()
    return lines


def _state(folder):
    with suppress(OSError, ValueError, KeyError, TypeError):  # none, or spoilt
        state = json.loads((Path(folder) / results.DELIVERED).read_text())
        size = (Path(folder) / results.JOURNAL).stat().st_size
        return {"run_id": state["run_id"], "offset": min(int(state["offset"]), size)}
    return {"run_id": None, "offset": 0}


def _save(folder, state):
    atomic.save_json(Path(folder) / results.DELIVERED, state)


def _run(folder):
    """The run of a journal: the one that an interrupted delivery has made, or a new one."""
    entry = next((e for e, _ in journal.entries(folder) if e["kind"] == "run"), None)
    if entry is None:
        raise InputError(f"{folder}: its {results.JOURNAL} has lost its beginning; run it again")
    client, experiment = mlflow_store.client(), mlflow_store.experiment_id(entry["experiment"])
    mark = f"{Path(folder).name}-{entry['time']}"
    with lock_of(folder, "run"):  # who delivers a child may make it at the same time
        found = client.search_runs([experiment], f"tags.`{MARK}` = '{mark}'", max_results=1)
        if found:
            return found[0].info.run_id
        tags = entry["tags"] | {MARK: mark}
        if entry["parent"]:
            tags["mlflow.parentRunId"] = _parent(entry["parent"])
        run = client.create_run(
            experiment, run_name=entry["name"], tags=tags, start_time=entry["time"]
        )
        return run.info.run_id


def _parent(folder):
    """The run that another one is a child of, made where it is not there yet."""
    state = _state(folder)
    if state["run_id"] is None:
        state["run_id"] = _run(folder)
        _save(folder, state)
    return state["run_id"]


def _nothing(folder, run_id, entry):
    """``run``: made with the first entry that is carried."""


def _resumed(folder, run_id, entry):
    mlflow_store.client().update_run(run_id, status="RUNNING")
    with suppress(mlflow.MlflowException):  # where there is none
        mlflow_store.client().delete_tag(run_id, "wsss.error")


def _end(folder, run_id, entry):
    if entry["error"]:
        mlflow_store.client().set_tag(run_id, "wsss.error", masked(entry["error"])[:4000])
    mlflow_store.client().set_terminated(run_id, entry["status"], end_time=entry["time"])


def _params(folder, run_id, entry):
    params = [Param(name, masked(str(value))[:6000]) for name, value in entry["values"].items()]
    mlflow_store.client().log_batch(run_id, params=params)


def _tags(folder, run_id, entry):
    tags = [RunTag(name, str(value)) for name, value in entry["values"].items()]
    mlflow_store.client().log_batch(run_id, tags=tags)


def _metrics(folder, run_id, entry):
    metrics = [
        Metric(name, value, entry["time"], entry["step"]) for name, value in entry["values"].items()
    ]
    mlflow_store.client().log_batch(run_id, metrics=metrics)


def _file(folder, run_id, entry):
    mlflow_store.client().log_artifact(run_id, str(folder / entry["path"]), entry["to"])


def _image(folder, run_id, entry):
    with Image.open(folder / entry["path"]) as image:
        pixels = np.array(image.convert("RGB"))
    mlflow_store.client().log_image(
        run_id, pixels, key=entry["key"], step=0, timestamp=entry["time"]
    )


def _table(folder, run_id, entry):
    """A table that MLflow's pages show: a file in their form, and a tag that names it."""
    client = mlflow_store.client()
    client.log_artifact(run_id, str(folder / entry["path"]))
    name = "mlflow.loggedArtifacts"
    listed = json.loads(client.get_run(run_id).data.tags.get(name, "[]"))
    mine = {"path": Path(entry["path"]).name, "type": "table"}
    if mine not in listed:
        client.set_tag(run_id, name, json.dumps([*listed, mine]))


def _stage(folder, run_id, entry, register_model):
    """Which run stands for a stage of an experiment's run."""
    child = run_of(entry["folder"])
    if child is None or waiting(entry["folder"]):
        deliver(entry["folder"], register_model=register_model)
        child = run_of(entry["folder"])
    mlflow_store.client().set_tag(run_id, f"wsss.stage.{entry['name']}", child)


def _experiment(folder, run_id, entry):
    mlflow_pages.describe_experiment(entry["name"], entry["description"], columns=entry["columns"])


def _send(folder, run_id, entry, register_model):
    """Deliver one entry; returns a line for people, or None."""
    if entry["kind"] == "model":
        version = register_model(entry["name"], folder / entry["path"], run_id=run_id)
        return f"registered as models:/{version}"
    if entry["kind"] == "stage":
        return _stage(folder, run_id, entry, register_model)
    return _SENT[entry["kind"]](folder, run_id, entry)


_SENT = {
    "run": _nothing,
    "resumed": _resumed,
    "end": _end,
    "params": _params,
    "tags": _tags,
    "metrics": _metrics,
    "file": _file,
    "image": _image,
    "table": _table,
    "experiment": _experiment,
}


class Uploader:
    """Delivers journals in the background while a block lasts, and tries once more at its end.

    Attributes:
        away: one line about a store that does not answer, or empty.
    """

    def __init__(self, say=print, *, register_model=None):
        self.away, self._say, self._folders = "", say, []
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

    def watch(self, folder):
        """Deliver a folder's journal from now on."""
        if folder not in self._folders:
            self._folders.append(folder)

    def upload(self):
        """Deliver all that is there now; returns whether the store took it."""
        with self._pass:
            try:
                for folder in list(self._folders):
                    if waiting(folder):
                        for line in deliver(folder, register_model=self._register_model):
                            self._say(line)
            except StoreUnavailable as fault:
                if not self.away:
                    self._say(f"{fault}; work goes on, and its record waits on disk")
                self.away = str(fault)
                return False
            if self.away:
                self._say("the tracking store answers again")
            self.away = ""
            return True

    def _work(self):
        pause = 1.0
        while not self._over.wait(pause):
            pause = 1.0 if self.upload() else min(2 * pause, 30.0)


def pending():
    """The folders under ``outputs/`` whose journals are not in MLflow in full, or belong to a run
    that was cut off; the experiments' runs first.
    """
    root = paths.outputs_root()
    folders = [path.parent for path in sorted(root.glob(f"*/*/{results.JOURNAL}"))]
    folders.sort(key=lambda folder: folder.parent.name != "runs")
    return [folder for folder in folders if waiting(folder) or not journal.ended(folder)]


def _end_for(folder):
    """End a run whose process is gone: as FINISHED where only the driver did not live to say so."""
    if results.completion(folder) and not results.damage(folder):
        journal.Journal(folder).end("FINISHED")
    else:
        reason = "its process was killed, or the machine went down"
        journal.Journal(folder).end("FAILED", reason)


def close_stale_runs(say=print, *, register_model=None):
    """End the runs under ``outputs/`` whose process is gone, and deliver what waits.

    Raises:
        Away: the store cannot be asked.
    """
    for folder in pending():
        lock, work = lock_of(folder, "driver"), lock_of(folder)
        if not acquire(lock, 0):
            continue  # at work
        try:
            if not acquire(work, 0):
                continue
            try:
                if not journal.ended(folder):
                    _end_for(folder)
            finally:
                work.release()
            for line in deliver(folder, register_model=register_model):
                say(line)
        finally:
            lock.release()
