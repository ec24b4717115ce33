"""Where trained networks come from: files, stages' folders, MLflow runs, registered models."""

import math
import re
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from wsss import models
from wsss.crf import CrfParams
from wsss.errors import InputError
from wsss.lab import lineage, paths, results, stages
from wsss.lab.record import mlflow_store
from wsss.synthesis import Walk

STAGES = {"cam": "train_cam", "affinity": "train_affinity", "segmentation": "train_segmentation"}
MAPS = {
    "scales": (1.0, 0.5, 1.5, 2.0),
    "flip": True,
    "cam_power": 1.0,
}  # as ``multi_scale_cam`` has it


def network_file(source, kind):
    """The file of a trained network.

    Args:
        source: its file; the folder of a completed stage; the id of an MLflow run, of the stage or
            of a whole experiment; or ``models:/NAME/VERSION``.
        kind: ``cam``, ``affinity`` or ``segmentation``.

    Raises:
        InputError: none of these, or without a network.
    """
    source = str(source)
    if source.startswith("models:/"):
        return _weights_in(mlflow_store.artifacts(source), source)
    if _is_run(source):
        tags = mlflow_store.run_tags(source)
        run_id = tags.get(f"wsss.stage.{STAGES[kind]}", source)
        return _weights_in(mlflow_store.artifacts(f"runs:/{run_id}/checkpoints"), source)
    path = Path(source)
    if path.is_dir():
        return _weights_in(path, source)
    if not path.is_file():
        raise InputError(
            f"{source}: expected a network's file, the folder of a completed {STAGES[kind]}, an "
            "MLflow run's id or models:/NAME/VERSION, and it is none of them; check it"
        )
    return path


def _is_run(source):
    return re.fullmatch("[0-9a-f]{32}", source) is not None


def _weights_in(folder, source):
    found = sorted(Path(folder).rglob("weights.pt"))
    if not found:
        raise InputError(f"{source}: expected weights.pt of a trained network in it; check it")
    return found[0]


class Method(NamedTuple):
    """What makes labels of photos and tags.

    Attributes:
        cam, affinity: files of the networks.
        strides: ``output_stride`` of both, by ``cam`` and ``affinity``; 0 as trained.
        maps: ``scales``, ``flip`` and ``cam_power`` of the activation maps.
        walk: the ``Walk``.
    """

    cam: Path
    affinity: Path
    strides: dict
    maps: dict
    walk: Walk


def method_of(source, overrides=None):
    """The networks and constants that a completed random_walk made its labels with.

    Args:
        source: its folder or the id of its MLflow run, or the id of the experiment's run.
        overrides: ``{stage: {parameter: value}}`` of infer_cam and random_walk.

    Raises:
        InputError: no such run, or what it builds on is not here any more.
    """
    record = _record(str(source))
    maps = lineage.upstream(record, "infer_cam")
    parameters = record["parameters"]
    cam = _upstream_weights(maps, "train_cam") if maps else None
    affinity = _upstream_weights(record, "train_affinity")
    if cam is None or affinity is None:
        raise InputError(
            f"{source}: what it builds on is not in {paths.outputs_root()} any more; name the "
            "networks by --cam and --affinity"
        )
    given = {"infer_cam": maps["parameters"], "random_walk": parameters}
    strides = {
        kind: given[stage].get("output_stride", 0)
        for kind, stage in (("cam", "infer_cam"), ("affinity", "random_walk"))
    }
    return Method(cam, affinity, strides, *_constants(given, overrides))


def method_by_networks(cam, affinity, overrides=None):
    """The given networks with the paper's constants, but for what an AffinityNet's distances were
    learnt with.

    Args:
        cam, affinity: as ``network_file`` takes them.
        overrides: as for ``method_of``.
    """
    cam, affinity = network_file(cam, "cam"), network_file(affinity, "affinity")
    settings = models.open_network(affinity, "affinity").settings
    strides = {"cam": 0, "affinity": 0}
    return Method(cam, affinity, strides, *_constants({"random_walk": settings}, overrides))


def _upstream_weights(record, stage):
    """The network of a stage that a completed one builds on, or None where it is not here."""
    fingerprint = record["inputs"].get(stage)
    path = paths.stage_folder(stage, fingerprint) / "weights.pt" if fingerprint else None
    return path if path and path.exists() else None


def _record(source):
    """What the random_walk that ``source`` names wrote when it completed."""
    record = results.completion(source)
    if record is None and _is_run(source):
        run_id = mlflow_store.run_tags(source).get("wsss.stage.random_walk", source)
        record = results.completion(mlflow_store.artifacts(f"runs:/{run_id}/"))
    if record is None and (fault := results.damage(source)):
        raise InputError(f"{source}: {fault}; run its stage again")
    if record is None or record.get("stage") != "random_walk":
        raise InputError(
            f"{source}: expected the folder or the MLflow run of a completed random_walk, or the "
            "run of an experiment that has one; check it"
        )
    return record


def _constants(given, overrides):
    """``(maps, Walk)`` of the paper's constants, those given, and those that go over them."""
    chain = stages.read_stages()
    values = {
        stage: {
            # what a file says is held against the parameters as what a person says is
            name: chain[stage].parameters[name].check(value, f"{stage}.{name}")
            for name, value in given.get(stage, {}).items()
            if name in names and name in chain[stage].parameters
        }
        for stage, names in (("infer_cam", MAPS), ("random_walk", WALK))
    }
    for stage, parameters in (overrides or {}).items():
        known = chain[stage].parameters if stage in values else {}
        for name, value in parameters.items():
            if name not in (MAPS if stage == "infer_cam" else WALK) or name not in known:
                raise InputError(
                    f"{stage}.{name}: expected one of "
                    f"{', '.join(f'infer_cam.{name}' for name in MAPS)}, "
                    f"{', '.join(f'random_walk.{name}' for name in WALK)}; name one of these"
                )
            checked = known[name].check(value, f"{stage}.{name}")
            values[stage] = values[stage] | {name: checked}
    maps = {name: values["infer_cam"].get(name, default) for name, default in MAPS.items()}
    if not maps["scales"] or not all(0 < scale < 10 for scale in maps["scales"]):
        raise InputError(
            f"infer_cam.scales: expected factors below 10 but got {maps['scales']}; give some such "
            "as [0.5,1.0]"
        )
    if not 0 < maps["cam_power"] < math.inf:
        raise InputError(
            f"infer_cam.cam_power: expected a number above 0 but got {maps['cam_power']}; change it"
        )
    walk = values["random_walk"]
    crf = CrfParams(**{name: walk[name] for name in CRF if name in walk})
    walk = Walk(**{name: walk[name] for name in WALK if name in walk and name not in CRF}, crf=crf)
    return maps | {"scales": tuple(maps["scales"])}, walk


CRF = tuple(field.name for field in fields(CrfParams))
WALK = (*(field.name for field in fields(Walk) if field.name != "crf"), *CRF)
