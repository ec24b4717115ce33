"""A stage at work, used by its notebook: its folder and inputs, and its record in a journal."""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from wsss.errors import InputError
from wsss.io import atomic, contents
from wsss.io.locks import acquire, lock_of
from wsss.lab import lineage, paths, results, stages
from wsss.lab.record import find_runs, provenance
from wsss.lab.record.journal import Journal, legal
from wsss.runtime.devices import cores, peak_memory, usage

if TYPE_CHECKING:  # slow to import
    import pandas as pd
    from matplotlib.figure import Figure

BY_HAND = "notebooks"  # the MLflow experiment of stages without a driver
DRIVEN_VARIABLE = "WSSS_DRIVEN"  # set by the driver, which owns the run's status and delivers
LOCK_SECONDS = 20  # that a notebook waits for its folder; one whose driver was killed ends in 1 s
BUILT_ON = ".built_on.json"  # in a stage's folder: the results that its own are computed from
FIRST = "0 "  # of a picture's key: MLflow shows a run's pictures above its scores
PAUSE = 30  # seconds until an unavailable store is tried again
KEY = r"[A-Za-z0-9_\-. /]", 120  # of a picture in MLflow: characters, and how many; it adds some 90


class Inputs(dict):
    """Name of an upstream stage to its folder."""

    def __missing__(self, name: str):
        expected = f"expected the folder of a completed {name}, whose results are needed"
        raise InputError(f"{name}_run: {expected}, but got {stages.NONE}; give one")


class StageRun:
    """A stage at work in its ``folder``, which the same parameters, inputs and code lead to again;
    InputError if another process works there. Without a driver, MLflow has only those parameters
    that differ from ``defaults``, as it writes them over the pictures, and all as a file.
    """

    def __init__(
        self,
        name: str,
        parameters: dict,
        *,
        inputs: dict[str, Path],
        folder: Path,
        data_digest: str,
        defaults: dict | None = None,
        check: Callable[[], None] = lambda: None,
        **more,
    ):
        self.parameters, self.inputs, self.folder = parameters, inputs, Path(folder)
        self.fingerprint, self.data_digest = self.folder.name, data_digest
        self._begun, self._check, self._usage = {"stage": name, **more}, check, usage()
        self._owned = not os.environ.get(DRIVEN_VARIABLE)
        self._next_upload, self._register = 0.0, None
        # Held until this process ends or the stage is complete; a notebook that is run again takes
        # the place of its earlier self.
        self._lock = lock_of(folder, is_singleton=True)
        if not acquire(self._lock, LOCK_SECONDS):
            busy = f"another process works on the same {name}; wait for it or stop it"
            raise InputError(f"{folder}: {busy}")
        atomic.sweep_partials(self.folder)
        self._clear(more.get("built_on", {}))
        self.journal = Journal(self.folder)
        if self._owned:
            self.journal.begin(BY_HAND, name, tags={"wsss.stage": name} | provenance.tags())
            atomic.save_json(self.folder / "parameters.json", parameters)
            self.journal.file(self.folder / "parameters.json")
            if defaults:
                parameters = {k: v for k, v in parameters.items() if v != defaults[k]}
        self.journal.add("params", values=parameters)
        about = {"wsss.fingerprint": self.fingerprint, "wsss.data": data_digest}
        self.journal.tags(about | {"wsss.complete": "false"})
        for path in provenance.write(self.folder / "source"):
            self.log_file(path, "source")

    def _clear(self, built_on):
        """Remove what must not be gone on with: results of other inputs, and damaged files."""
        marker, begun = self.folder / BUILT_ON, None
        with suppress(OSError, ValueError):
            begun = json.loads(marker.read_text(encoding="utf-8"))
        same = begun in (None, built_on)
        for name in results.changed(self.folder) if same else results.files(self.folder):
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / results.COMPLETE).unlink(missing_ok=True)
        atomic.save_json(marker, built_on)

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        """Log a dict of numbers; names may hold ``/``."""
        self.journal.metrics(metrics, step)
        self._upload()

    def log_figure(self, figure: "Figure", name: str) -> None:
        """Log a matplotlib figure as ``figures/<name>.png``, and keep it in the stage's folder."""
        path = self.folder / "figures" / f"{name}.png"
        with atomic.write(path) as partial:
            figure.savefig(partial, format="png", bbox_inches="tight", dpi=110)
        self.log_file(path, "figures")

    def log_gallery(self, images: dict[str, np.ndarray]) -> None:
        """Keep pictures, photo id to uint8 (H, W, 3), as ``gallery/<id>.png``."""
        for photo_id, image in images.items():
            key = legal(f"gallery/{photo_id}", *KEY)
            path = self.folder / f"{key}.png"
            with atomic.write(path) as partial:
                Image.fromarray(image).save(partial, "PNG")
            if self._owned:  # else the driver logs them in its own run
                self.log_file(path, kind="image", key=f"{FIRST}{key}")

    def log_file(self, path: Path, folder: str | None = None, **more) -> None:
        """Log a file of the stage's folder under ``folder`` of the run's artifacts."""
        self.journal.file(path, folder, **more)
        self._upload()

    def log_table(self, frame: "pd.DataFrame", name: str) -> None:
        """Log a table as ``<name>.json``, which the MLflow UI shows."""
        path = self.folder / "tables" / f"{name}.json"
        with atomic.write(path) as partial:
            frame.to_json(partial, orient="split", index=False, date_format="iso")
        self.log_file(path, kind="table")

    def log_model(self, description: Path, name: str, *, register: Callable) -> None:
        """Register a model that a file of the folder describes, as ``Project.register_model``."""
        self._register = register
        self.log_file(description, kind="model", name=name)

    def complete(self, metrics: dict[str, float] | None = None, folders=()) -> None:
        """Mark the stage complete, with final metrics and the names of folders whose files are
        counted: the notebook's last call. InputError, and no results, if the data changed since.
        """
        try:
            self._check()
        except InputError:
            self._clear(None)
            raise
        metrics = {name: float(value) for name, value in (metrics or {}).items()}
        self.journal.metrics(metrics)
        earlier = [record["ended"] for _, record in lineage.completed_runs(self.folder.parent)]
        files, manifest = results.files(self.folder), {}
        atomic.save_json(self.folder / results.CONTENTS, files)
        for folder in folders:
            inside = {name: each for name, each in files.items() if name.startswith(f"{folder}/")}
            manifest[folder] = contents.manifest(inside)
        record = self._begun | {
            "fingerprint": self.fingerprint,
            "versions": provenance.versions(),
            "parameters": self.parameters,
            "inputs": {name: Path(path).name for name, path in self.inputs.items()},
            "data_digest": self.data_digest,
            "metrics": metrics,
            "manifest": manifest,
            "inventory": contents.manifest(files),
            "memory": peak_memory(),
            "usage": {name: value - self._usage[name] for name, value in usage().items()},
            "machine": {"cores": cores(), "gpu": torch.cuda.is_initialized()},
            "ended": max([time.time(), *(ended + 0.001 for ended in earlier)]),
        }
        atomic.save_json(self.folder / results.COMPLETE, record)
        self.journal.file(self.folder / results.COMPLETE)
        self.journal.tags({"wsss.complete": "true"})
        if self._owned:
            scores = [name for name in metrics if "/" in name]  # on a list
            self.journal.add("experiment", name=BY_HAND, description="", columns=scores)
            self.journal.end("FINISHED")
        self._next_upload = 0.0
        self._upload()
        self._lock.release(force=True)

    def _upload(self):
        """Deliver at once if no driver does."""
        if not self._owned or time.monotonic() < self._next_upload:
            return
        from wsss.lab.record import delivery

        try:
            delivery.deliver(self.folder, register_model=self._register)
        except InputError as fault:
            self._next_upload = time.monotonic() + PAUSE
            if results.completion(self.folder):
                print(f"{fault}; the next `wsss run` delivers the record in {self.folder}")


def start(name: str, namespace: dict, *, dataset) -> StageRun:
    """Begin a stage in its notebook: ``run = stage_run.start("mean", globals(), dataset=data)``,
    after the parameters cell; InputError for a parameter of a wrong type, or without a completed
    run on this data of a stage that it builds on.
    """
    chain = stages.read_stages()
    stage = chain[name]
    values = stage.resolve({parameter: namespace[parameter] for parameter in stage.parameters})
    digest = dataset.digest()
    inputs, upstream, families, built_on = Inputs(), {}, {}, {}
    for parameter, other in stages.upstream_of(stage, chain, values=values).items():
        given, where = values[parameter] or "latest", f"{name}.{parameter}"
        inputs[other] = find_runs.find(given, other, data_digest=digest)
        record = lineage.input_record(inputs[other], where, chain[other], data_digest=digest)
        upstream[other] = record["fingerprint"]
        families[other] = record.get("family", record["fingerprint"])
        built_on[other] = record.get("inventory")
    question = stage.question(values, upstream, data_digest=digest)
    likewise = ("seed", *lineage.IRRELEVANT)
    family = stage.question(values, families, data_digest=digest, without=likewise)

    def check():
        if stage.data_of(dataset.digest()) != stage.data_of(digest):
            raise InputError(f"{name}: the data changed while it ran; give the same command again")

    return StageRun(
        name,
        values,
        inputs=inputs,
        folder=paths.stage_folder(name, stage.fingerprint(question)),
        data_digest=stage.data_of(digest),
        question=question,
        code=stage.code,
        contents=stage.contents(values),
        family=stage.fingerprint(family),
        defaults={name: parameter.default for name, parameter in stage.parameters.items()},
        built_on=built_on,
        check=check,
    )
