"""The record in MLflow: one run a stage, with parameters, metrics, pictures, files and where it
all came from.
"""

import hashlib
import logging
import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # its lines break ours

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.tracking import MlflowClient

from wsss import stages, storage
from wsss.errors import InputError

logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

RUN_VARIABLE = "WSSS_RUN_ID"  # set by the driver, which owns the run's status


def tracking_uri():
    """Where runs are recorded: MLFLOW_TRACKING_URI, or ``mlflow.db`` in the repository."""
    return (
        os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{stages.project_root() / 'mlflow.db'}"
    )


def client():
    """A client of the tracking store, which is created on first use."""
    mlflow.set_tracking_uri(tracking_uri())
    return MlflowClient()


def experiment_id(name):
    """The id of the MLflow experiment of that name, made where it is not there."""
    found = client().get_experiment_by_name(name)
    if found:
        return found.experiment_id
    artifacts = None  # a server keeps them where it was told to
    if tracking_uri().startswith("sqlite:///"):
        artifacts = (Path(tracking_uri()[10:]).resolve().parent / "mlartifacts").as_uri()
    return client().create_experiment(name, artifact_location=artifacts)


def source_tags():
    """What produced a run: git commit, whether files were changed, package versions, hardware."""

    def git(*arguments):
        try:
            command = ["git", "-C", str(stages.project_root()), *arguments]
            return subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""

    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    )
    return {
        "mlflow.source.git.commit": git("rev-parse", "HEAD"),
        "mlflow.source.git.branch": git("rev-parse", "--abbrev-ref", "HEAD"),
        "mlflow.source.type": "NOTEBOOK",
        "wsss.git.dirty": str(bool(git("status", "--porcelain"))).lower(),
        "wsss.torch": torch.__version__,
        "wsss.python": platform.python_version(),
        "wsss.device": f"{device}, {os.cpu_count()} cores",
    }


def create_run(experiment, name, tags, *, parent=None):
    """Start a run and return its id."""
    if parent:
        tags = tags | {"mlflow.parentRunId": parent}
    return (
        client()
        .create_run(experiment_id(experiment), run_name=name, tags=source_tags() | tags)
        .info.run_id
    )


def end_run(run_id, status, *, error=None):
    """Give a run its final status: FINISHED, FAILED or KILLED; a reason goes into its tags."""
    if error:
        client().set_tag(run_id, "wsss.error", error[:4000])
    client().set_terminated(run_id, status)


class Completed(NamedTuple):
    """A completed stage as MLflow holds it."""

    run_id: str
    metrics: dict
    iou: pd.DataFrame | None  # its IoU table, where it logged one
    record: dict  # what ``complete`` wrote


def completed(folder):
    """The completed stage in a folder, its figures read from MLflow.

    Raises:
        InputError: no completed stage there, or its run is not FINISHED in MLflow.
    """
    record = stages.completion(folder)
    if record is None:
        raise InputError(f"{folder}: no completed stage here; run it first")
    run_id = record["run_id"]
    try:
        run = client().get_run(run_id)
        iou = None
        if any(artifact.path == "iou.json" for artifact in client().list_artifacts(run_id)):
            iou = client().load_table(run.info.experiment_id, "iou.json", [run_id])
    except mlflow.MlflowException:
        raise InputError(
            f"{folder}: its run {run_id} is not in {tracking_uri()}; run the stage again with "
            "--force"
        ) from None
    if run.info.status != RunStatus.to_string(RunStatus.FINISHED):
        raise InputError(f"run {run_id} is {run.info.status}, not FINISHED; run its stage again")
    return Completed(run_id, run.data.metrics, iou, record)


class Inputs(dict):
    """Upstream stage's name to its folder."""

    def __missing__(self, name):
        raise InputError(
            f"{name}_run is {stages.NONE} but its results are needed; give the folder of a "
            f"completed {name}"
        )


class StageRun:
    """A stage at work: where its files go, what it uses, and its record.

    Attributes:
        folder: for the stage's files; the same parameters and inputs always lead to the same
            folder, so work that was cut off goes on where it stopped.
        inputs: an ``Inputs``.
        parameters: name to value.
    """

    def __init__(self, name, parameters, inputs, folder, fingerprint, data_digest):
        self.name, self.parameters, self.inputs, self.folder = (
            name,
            parameters,
            inputs,
            Path(folder),
        )
        self.fingerprint, self.data_digest = fingerprint, data_digest
        self.run_id = os.environ.get(RUN_VARIABLE)
        self._owned = self.run_id is None
        self._began = time.time()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "complete.json").unlink(missing_ok=True)
        if self._owned:
            self.run_id = create_run("notebooks", name, {"wsss.stage": name})
        known = {parameter: str(value)[:6000] for parameter, value in parameters.items()}
        tags = {
            "wsss.fingerprint": fingerprint,
            "wsss.data": data_digest,
            "wsss.complete": "false",
        }
        client().log_batch(
            self.run_id,
            params=[Param(*item) for item in known.items()],
            tags=[RunTag(*item) for item in tags.items()],
        )

    def log_metrics(self, metrics, step=0):
        """Log a dict of numbers in one request; names may hold ``/``."""
        log_metrics(self.run_id, metrics, step)

    def log_figure(self, figure, name):
        """Log a matplotlib figure as ``figures/<name>.png``, and keep it in the stage's folder."""
        path = self.folder / "figures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, bbox_inches="tight", dpi=110)
        client().log_artifact(self.run_id, str(path), "figures")

    def log_gallery(self, images):
        """Log pictures (id to uint8 (H, W, 3)) under ``gallery/<id>``, the same keys in every
        stage.
        """
        for id, image in images.items():
            client().log_image(
                self.run_id, np.ascontiguousarray(image), key=gallery_key(id), step=0
            )

    def log_file(self, path, folder=None):
        """Keep a file in MLflow, under ``folder`` of the run's artifacts."""
        log_file(self.run_id, path, folder)

    def log_table(self, frame, name):
        """Log a pandas table that the MLflow UI shows, as ``<name>.json``."""
        client().log_table(self.run_id, frame, f"{name}.json")

    def log_confusions(self, name, matrices):
        """Keep photos' confusion matrices in ``confusions/<name>.npz``, here and in MLflow."""
        path = self.folder / "confusions" / f"{name}.npz"
        storage.save_confusions(path, matrices)
        client().log_artifact(self.run_id, str(path), "confusions")

    def complete(self, metrics=None, folders=()):
        """Mark the stage complete: its last act.

        Args:
            metrics: final figures, name to number.
            folders: names of the folders of bulk files, whose count and digest are recorded.
        """
        metrics = {name: float(value) for name, value in (metrics or {}).items()}
        if metrics:
            self.log_metrics(metrics)
        record = {
            "stage": self.name,
            "fingerprint": self.fingerprint,
            "parameters": self.parameters,
            "inputs": {name: Path(path).name for name, path in self.inputs.items()},
            "data_digest": self.data_digest,
            "metrics": metrics,
            "manifest": {folder: storage.manifest(self.folder / folder) for folder in folders},
            "run_id": self.run_id,
            "ended": time.time(),
        }
        storage.save_json(self.folder / "complete.json", record)
        self.log_file(self.folder / "complete.json")
        client().set_tag(self.run_id, "wsss.complete", "true")
        if self._owned:
            end_run(self.run_id, "FINISHED")


def start(name, namespace, dataset):
    """Begin a stage in its notebook: ``run = tracking.start("train_cam", globals(), data)``.

    Args:
        name: of the stage.
        namespace: where the parameters cell left its values.
        dataset: the open dataset, whose digest enters the fingerprint.

    Returns:
        a ``StageRun``.

    Raises:
        InputError: a parameter of a wrong type, or no completed run of a stage that this one builds
        on.
    """
    chain = stages.read_stages()
    stage = chain[name]
    values = stage.resolve({parameter: namespace[parameter] for parameter in stage.parameters})
    inputs, upstream = Inputs(), {}
    for parameter, other in stages.upstream_of(stage, chain, values).items():
        given = values[parameter]
        folder = stages.from_root(given) if given else stages.latest(other, values["dataset"])
        record = stages.completion(folder)
        if record is None:
            raise InputError(
                f"{name}.{parameter}: {folder} holds no completed stage; give the folder of a "
                f"completed {other}"
            )
        inputs[other], upstream[other] = folder, record["fingerprint"]
    digest = dataset.digest()
    fingerprint = stage.fingerprint(values, upstream, digest)
    return StageRun(
        name,
        values,
        inputs,
        stages.stage_folder(name, fingerprint),
        fingerprint,
        digest,
    )


def artifacts(uri):
    """The local folder of a run's or a model's files, copied there where the store is elsewhere.

    Args:
        uri: ``runs:/ID/PATH`` or ``models:/NAME/VERSION``.

    Raises:
        InputError: nothing there.
    """
    try:
        client()  # sets the store
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except (mlflow.MlflowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{uri}: not in {tracking_uri()} ({reason}); check the name") from None


def run_tags(run_id):
    """A run's tags by name.

    Raises:
        InputError: no such run.
    """
    try:
        return client().get_run(run_id).data.tags
    except mlflow.MlflowException:
        raise InputError(f"run {run_id}: not in {tracking_uri()}; check its id") from None


def gallery_key(id):
    """MLflow's name for a photo's picture; it takes but ASCII letters, digits and a few signs."""
    key = re.sub(r"[^A-Za-z0-9_\-. /]", "_", id)
    if key != id:  # two names may become one
        key += "-" + hashlib.blake2b(id.encode(), digest_size=3).hexdigest()
    return f"gallery/{key}"


def log_metrics(run_id, metrics, step=0):
    """Log a dict of numbers in one request; names may hold ``/``."""
    now = int(time.time() * 1000)
    client().log_batch(
        run_id,
        metrics=[Metric(name, float(value), now, step) for name, value in metrics.items()],
    )


def log_file(run_id, path, folder=None):
    client().log_artifact(run_id, str(path), folder)


def reopen(run_id):
    """Set an unfinished run to RUNNING again; False where the store does not know it or it was
    deleted.
    """
    try:
        if client().get_run(run_id).info.lifecycle_stage != "active":
            return False
        client().update_run(run_id, status="RUNNING")
    except mlflow.MlflowException:
        return False
    return True


def link_stage(parent, name, folder):
    """Note in a parent run which run stands for a stage, copy the stage's final figures to it, and
    return them.
    """
    stage = completed(folder)
    client().set_tag(parent, f"wsss.stage.{name}", stage.run_id)
    final = stage.record["metrics"]
    kept = {m: value for m, value in stage.metrics.items() if m in final or m == "seconds"}
    log_metrics(parent, {f"{name}.{metric}": value for metric, value in kept.items()})
    return final
