"""A stage's record: parameters, metrics, pictures, files and where it all came from, written to its
folder's journal.
"""

import hashlib
import os
import re
import time
from pathlib import Path

from PIL import Image

from wsss.errors import InputError
from wsss.io import atomic
from wsss.io.locks import acquire, lock_of
from wsss.lab import lineage, paths, results, stages
from wsss.lab.record import provenance
from wsss.lab.record.journal import Journal
from wsss.runtime.devices import cores, gpu_used, peak_memory, usage

DRIVEN_VARIABLE = "WSSS_DRIVEN"  # set by the driver, which owns the run's status and delivers
LOCK_SECONDS = 20  # that a notebook waits for its folder: one whose driver was killed ends in 1 s
PAUSE = 30  # seconds before a notebook without a driver asks a store again that was away


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
        journal: the ``Journal`` of the folder.

    Raises:
        InputError: another process works in the folder.
    """

    def __init__(
        self, name, parameters, inputs, folder, fingerprint, data_digest, *, question="", code=None
    ):
        self.name, self.parameters, self.inputs = name, parameters, inputs
        self.folder = Path(folder)
        self.fingerprint, self.data_digest = fingerprint, data_digest
        self._question, self._code = question, code or {}
        self._usage = usage()
        self._owned, self._asked = not os.environ.get(DRIVEN_VARIABLE), 0.0
        self._register = None
        self._lock = lock_of(folder)  # until this process ends or the stage is complete
        if not acquire(self._lock, LOCK_SECONDS):
            raise InputError(
                f"{folder}: another process works on the same {name}; wait for it or stop it"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic.sweep_partials(self.folder)
        (self.folder / results.COMPLETE).unlink(missing_ok=True)
        self.journal = Journal(self.folder)
        if self._owned:
            self.journal.begin("notebooks", name, {"wsss.stage": name} | provenance.tags())
        self.journal.add("params", values=parameters)
        self._tag({"fingerprint": fingerprint, "data": data_digest, "complete": "false"})
        for path in provenance.write(self.folder / "source"):
            self.log_file(path, "source")

    def log_metrics(self, metrics, step=0):
        """Log a dict of numbers; names may hold ``/``."""
        self.journal.metrics(metrics, step)
        self._upload()

    def log_figure(self, figure, name):
        """Log a matplotlib figure as ``figures/<name>.png``, and keep it in the stage's folder."""
        path = self.folder / "figures" / f"{name}.png"
        with atomic.write(path) as partial:
            figure.savefig(partial, format="png", bbox_inches="tight", dpi=110)
        self.log_file(path, "figures")

    def log_gallery(self, images):
        """Log pictures (id to uint8 (H, W, 3)) under ``gallery/<id>``, the same keys in every
        stage.
        """
        for id, image in images.items():
            key = gallery_key(id)
            path = self.folder / f"{key}.png"
            with atomic.write(path) as partial:
                Image.fromarray(image).save(partial, "PNG")
            self.journal.file(path, kind="image", key=key)
        self._upload()

    def log_file(self, path, folder=None):
        """Keep a file of the stage's folder in MLflow, under ``folder`` of the run's artifacts."""
        self.journal.file(path, folder)
        self._upload()

    def log_table(self, frame, name):
        """Log a pandas table that the MLflow UI shows, as ``<name>.json``."""
        path = self.folder / "tables" / f"{name}.json"
        with atomic.write(path) as partial:
            frame.to_json(partial, orient="split", index=False, date_format="iso")
        self.journal.file(path, kind="table")
        self._upload()

    def log_model(self, description, name, register):
        """Have a model registered under a name once the record is delivered.

        Args:
            description: a file of the stage's folder that says what to register.
            name: in the registry.
            register: as ``Project.register_model``, for a notebook that runs without a driver.
        """
        self._register = register
        self.journal.file(description, kind="model", name=name)
        self._upload()

    def complete(self, metrics=None, folders=()):
        """Mark the stage complete: its last act.

        Args:
            metrics: final figures, name to number.
            folders: names of the folders of bulk files, whose count and digest are recorded.
        """
        metrics = {name: float(value) for name, value in (metrics or {}).items()}
        self.journal.metrics(metrics)
        record = {
            "stage": self.name,
            "fingerprint": self.fingerprint,
            "question": self._question,
            "code": self._code,
            "versions": provenance.versions(),
            "parameters": self.parameters,
            "inputs": {name: Path(path).name for name, path in self.inputs.items()},
            "data_digest": self.data_digest,
            "metrics": metrics,
            "manifest": {folder: atomic.manifest(self.folder / folder) for folder in folders},
            "inventory": results.inventory(self.folder),
            "memory": peak_memory(),
            "usage": {name: value - self._usage[name] for name, value in usage().items()},
            "machine": {"cores": cores(), "gpu": gpu_used()},
            "ended": max(time.time(), lineage.last_ended(self.name) + 0.001),
        }
        atomic.save_json(self.folder / results.COMPLETE, record)
        self.journal.file(self.folder / results.COMPLETE)
        self._tag({"complete": "true"})
        if self._owned:
            self.journal.end("FINISHED")
        self._asked = 0.0
        self._upload()
        self._lock.release()

    def _tag(self, tags):
        self.journal.tags({f"wsss.{name}": value for name, value in tags.items()})

    def _upload(self):
        """Deliver at once where no driver does it."""
        if not self._owned or time.monotonic() < self._asked:
            return
        from wsss.lab.record import delivery

        try:
            delivery.deliver(self.folder, register_model=self._register)
        except delivery.StoreUnavailable as fault:
            self._asked = time.monotonic() + PAUSE
            if results.completion(self.folder):
                print(
                    f"{fault}: the record waits in {self.folder}, and the next `wsss run` "
                    "delivers it"
                )


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
    digest = dataset.digest()
    inputs, upstream = Inputs(), {}
    for parameter, other in stages.upstream_of(stage, chain, values).items():
        given = values[parameter]
        folder = paths.from_root(given) if given else lineage.latest(other, digest)
        record = results.completed_in(folder, f"{name}.{parameter}")
        inputs[other], upstream[other] = folder, record["fingerprint"]
    fingerprint = stage.fingerprint(values, upstream, digest)
    return StageRun(
        name,
        values,
        inputs,
        paths.stage_folder(name, fingerprint),
        fingerprint,
        digest,
        code=stage.code,
        question=stage.question(values, upstream, digest),
    )


def gallery_key(id):
    """MLflow's name for a photo's picture; it takes but ASCII letters, digits and a few signs."""
    key = re.sub(r"[^A-Za-z0-9_\-. /]", "_", id)
    if key != id:  # two names may become one
        key += "-" + hashlib.blake2b(id.encode(), digest_size=3).hexdigest()
    return f"gallery/{key}"
