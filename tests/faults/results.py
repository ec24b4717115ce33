"""What a chain left, on disk and in MLflow, and how it differs from an undisturbed one."""

import hashlib
import json
import logging
from pathlib import Path

import torch
from mlflow.tracking import MlflowClient

from .place import EXPERIMENT
from .plan import STAGES

logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # what it says of new stores

TIMING = ("seconds", "images_per_second")  # metrics that no two runs share
PHOTOS = (  # files of one photo each, the last that is written of it
    *("infer_cam/*/cams/*.npz", "affinity_labels/*/affinity_labels/*.png"),
    *("random_walk/*/labels/*.png", "evaluate/*/predictions/*.png"),
)


def timeless(metrics):
    """Metrics by name, less those that tell of time."""
    return {name: v for name, v in metrics.items() if name.rpartition("/")[2] not in TIMING}


def completed(outputs):
    """Stage to what it left, of the stages that completed: final metrics, digests of its bulk files
    as written down and as they are, and a digest of the tensors of its weights.
    """
    found = {}
    for marker in sorted(Path(outputs).glob("*/*/complete.json")):
        try:
            record = json.loads(marker.read_text())
            stage, manifest = record["stage"], record["manifest"]
        except (ValueError, KeyError, TypeError):
            continue
        weights = marker.parent / "weights.pt"
        found.setdefault(stage, []).append(
            {
                "fingerprint": record["fingerprint"],
                "metrics": timeless(record["metrics"]),
                "manifest": manifest,
                "files": {name: _digest(marker.parent / name) for name in manifest},
                "weights": _tensors(weights) if weights.exists() else None,
            }
        )
    return found


def _digest(folder):
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            state.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return state.hexdigest()


def _tensors(path):
    """A digest of all tensors in a file, by their names."""
    try:
        waiting = [("", torch.load(path, map_location="cpu", weights_only=True))]
    except Exception as fault:  # whatever a damaged file makes of it: it is not what it was
        return f"unreadable ({type(fault).__name__})"
    state = hashlib.sha256()
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{name}.{key}", value[key]) for key in sorted(value, key=str)]
        elif isinstance(value, torch.Tensor):
            state.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            state.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def recorded(uri):
    """The stages' runs in MLflow: dicts with stage, status, fingerprint, metrics and id."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    found = []
    for run in client.search_runs([experiment.experiment_id]):
        found.append(
            {
                "stage": run.data.tags.get("wsss.stage", ""),
                "status": run.info.status,
                "fingerprint": run.data.tags.get("wsss.fingerprint", ""),
                "metrics": timeless(run.data.metrics),
                "id": run.info.run_id,
            }
        )
    return found


def histories(uri):
    """Stage to metric to its sorted ``(step, value)``, of the stages' FINISHED runs."""
    client, found = MlflowClient(uri), {}
    for run in recorded(uri):
        if run["stage"] and run["status"] == "FINISHED":
            found[run["stage"]] = {
                name: sorted((m.step, m.value) for m in client.get_metric_history(run["id"], name))
                for name in run["metrics"]
            }
    return found


def baseline(chain):
    """What an undisturbed chain left, to compare others with."""
    return {"completed": completed(chain.seen), "recorded": histories(chain.uri)}


def compare(expected, chain, *, until=None):
    """Lines about what a chain has otherwise than the undisturbed one, in the stages up to one."""
    wanted = STAGES[: STAGES.index(until) + 1] if until else STAGES
    here, runs, history = completed(chain.seen), recorded(chain.uri), histories(chain.uri)
    faults = []
    for stage in wanted:
        mine = here.get(stage, [])
        if len(mine) != 1:
            faults.append(f"{stage}: expected one completed folder, found {len(mine)}")
            continue
        faults += differences(stage, expected["completed"][stage][0], mine[0])
        finished = [r for r in runs if r["stage"] == stage and r["status"] == "FINISHED"]
        if len(finished) != 1:
            states = [r["status"] for r in runs if r["stage"] == stage]
            faults.append(f"{stage}: expected one FINISHED run in MLflow, found {states}")
            continue
        faults += differences(f"{stage} in MLflow", expected["recorded"][stage], history[stage])
    return faults


def differences(where, expected, found):
    """Lines about the keys of two dicts whose values are not the same."""
    return [
        f"{where}.{key}: expected {_short(expected.get(key))}, found {_short(found.get(key))}"
        for key in sorted(expected.keys() | found.keys())
        if expected.get(key) != found.get(key)
    ]


def _short(value):
    text = str(value)
    return text if len(text) <= 160 else text[:157] + "..."


def false_claims(expected, chain):
    """Lines about runs that MLflow calls FINISHED though their stage is not complete, or that have
    other metrics than the undisturbed ones.
    """
    faults = []
    for run in recorded(chain.uri):
        if not run["stage"] or run["status"] != "FINISHED":
            continue
        marker = chain.seen / run["stage"] / run["fingerprint"] / "complete.json"
        if not marker.exists():
            faults.append(f"{run['stage']}: FINISHED in MLflow without {marker.name}")
        wanted = expected["recorded"].get(run["stage"], {})
        last = {name: steps[-1][1] for name, steps in wanted.items()}
        faults += differences(f"{run['stage']}, FINISHED in MLflow", last, run["metrics"])
    return faults


def still_running(chain):
    """Lines about runs that MLflow still calls RUNNING, after the chain has come to its end."""
    return [
        f"{run['stage'] or 'the experiment'}: still {run['status']} in MLflow"
        for run in recorded(chain.uri)
        if run["status"] not in ("FINISHED", "FAILED", "KILLED")
    ]


def photos(outputs):
    """Path to ``(inode, time of change)`` of the files that say that a photo is done."""
    found = {}
    for pattern in PHOTOS:
        for path in Path(outputs).glob(pattern):
            if not path.name.startswith("."):
                state = path.stat()
                found[path] = (state.st_ino, state.st_mtime_ns)
    return found


def rewritten(before, after):
    """The photos' files that were there and are now others or gone."""
    return [path for path, state in before.items() if after.get(path) != state]
