"""Where trained networks come from: files, stages' folders, MLflow runs, registered models."""

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from wsss import models
from wsss.crf import CrfParams
from wsss.errors import InputError, did_you_mean
from wsss.io import contents
from wsss.lab import lineage, paths, results, stages
from wsss.lab.record import find_runs, mlflow_store
from wsss.synthesis import Walk

MAPS = {"scales": (1.0, 0.5, 1.5, 2.0), "flip": True, "cam_power": 1.0}  # the paper's
CRF = tuple(field.name for field in fields(CrfParams))
WALK = (*(field.name for field in fields(Walk) if field.name != "crf"), *CRF)
CONSTANTS = {"infer_cam": MAPS, "random_walk": WALK}  # stage to names of its constants


def network_file(source: str | Path, kind: str) -> Path:
    """The file of a trained network of a kind: ``cam``, ``affinity`` or ``segmentation``.

    ``source`` is its file; a completed stage (named as for ``find_runs.find``); the id of an MLflow
    run, of the stage or of a whole experiment; or ``models:/NAME/VERSION``, without version the
    newest. Raises InputError for none of these, or one without a network.
    """
    source, path = str(source), Path(source)
    if source.startswith("models:/"):
        path = mlflow_store.artifacts(mlflow_store.model_version(source))
    elif not path.exists():
        path = _folder(source, f"train_{kind}", "checkpoints")
    if path.is_file():
        return path
    if not (found := sorted(path.rglob("weights.pt"))):
        raise InputError(f"{source}: expected weights.pt of a trained network in it; check it")
    return found[0]


def _folder(source, stage, artifacts=""):
    """The folder of a completed stage, or of artifacts that only its MLflow run still has."""
    try:
        return find_runs.find(source, stage)
    except InputError:
        run = mlflow_store.find_run(source) if re.fullmatch("[0-9a-f]{32}", source) else None
        if run is None:
            raise
    run_id = run.data.tags.get(f"wsss.stage.{stage}", source)
    return mlflow_store.artifacts(f"runs:/{run_id}/{artifacts}")


class Method(NamedTuple):
    """Networks and constants of label synthesis."""

    cam: Path  # file of the network
    affinity: Path
    strides: dict[str, int]  # ``output_stride`` of ``cam`` and ``affinity``; 0 as trained
    maps: dict  # ``scales``, ``flip`` and ``cam_power`` of the activation maps
    walk: Walk

    def making(self) -> dict:
        """All of it by name, networks by their contents, for ``label_photos.run``."""
        files = {name: contents.digest(getattr(self, name)) for name in ("cam", "affinity")}
        return self._asdict() | files

    def networks(self) -> tuple[models.Trained, models.Trained]:
        """The CAM network and the AffinityNet."""
        return (
            models.open_network(self.cam, "cam", output_stride=self.strides["cam"]),
            models.open_network(self.affinity, "affinity", output_stride=self.strides["affinity"]),
        )


def method_of(source: str | Path, overrides: Mapping | None = None) -> Method:
    """The networks and constants of a completed random_walk, named as for ``find_runs.find`` or by
    the id of an MLflow run; ``overrides`` are ``{stage: {parameter: value}}`` of infer_cam and
    random_walk. Raises InputError for no such run, or if stages that it builds on are gone.
    """
    folder = _folder(str(source), "random_walk")
    record = results.completion(folder)
    if record is None or record["stage"] != "random_walk":
        fault = results.damage(folder) or "holds no completed random_walk"
        raise InputError(f"{source}: {fault}; run its stage again")
    maps = lineage.upstream(record, "infer_cam")
    inputs = record["inputs"] | (maps["inputs"] if maps else {})
    cam, affinity = (
        paths.stage_folder(stage, inputs.get(stage, "")) / "weights.pt"
        for stage in ("train_cam", "train_affinity")
    )
    if not (maps and cam.exists() and affinity.exists()):
        raise InputError(
            f"{source}: the stages that it builds on are no longer in {paths.outputs_root()}; give "
            "the networks by --cam and --affinity"
        )
    given = {"infer_cam": maps["parameters"], "random_walk": record["parameters"]}
    used = {"cam": maps, "affinity": record}
    strides = {kind: each["parameters"].get("output_stride", 0) for kind, each in used.items()}
    return Method(cam, affinity, strides, *_constants(given, overrides))


def method_by_networks(
    cam: str | Path, affinity: str | Path, *, overrides: Mapping | None = None
) -> Method:
    """Two networks (see ``network_file``) with the paper's constants, except those that the
    AffinityNet was trained with; ``overrides`` as for ``method_of``.
    """
    cam, affinity = network_file(cam, "cam"), network_file(affinity, "affinity")
    given = {"random_walk": models.open_network(affinity, "affinity").settings}
    return Method(cam, affinity, {"cam": 0, "affinity": 0}, *_constants(given, overrides))


def _constants(given, overrides):
    """``(maps, Walk)`` of the paper's constants, those given, and overrides, checked."""
    overrides = overrides or {}
    known = [f"{stage}.{name}" for stage, names in CONSTANTS.items() for name in names]
    for where in (f"{stage}.{name}" for stage, names in overrides.items() for name in names):
        if where not in known:
            expected = f"expected one of {', '.join(known)}{did_you_mean(where, known)}"
            raise InputError(f"{where}: {expected}; name one of these")
    chain, values = stages.read_stages(), {}
    for stage, names in CONSTANTS.items():
        parameters = chain[stage].parameters
        merged = {**given.get(stage, {}), **overrides.get(stage, {})}
        merged = {name: merged[name] for name in names if name in merged}
        values[stage] = {k: parameters[k].check(v, f"{stage}.{k}") for k, v in merged.items()}
    maps, walk = MAPS | values["infer_cam"], values["random_walk"]
    crf = CrfParams(**{name: walk.pop(name) for name in CRF if name in walk})
    return maps | {"scales": tuple(maps["scales"])}, Walk(**walk, crf=crf)
