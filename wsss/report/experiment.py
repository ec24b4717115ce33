"""An experiment's own results, from completed MLflow runs; ``paper_tables`` adds published ones."""

import statistics
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from wsss.datasets import Dataset
from wsss.errors import InputError
from wsss.io.text import markdown_table, markdown_text
from wsss.lab import lineage, paths, results, stages
from wsss.lab.record import delivery
from wsss.photos.evaluation import protocol

SCORED = ("infer_cam", "random_walk", "evaluate")  # stages that score IoU where there are masks
Records = dict[str, delivery.Completed]  # by the stage's name
NOTHING = "{}: no photo of {} has a mask, so nothing could be scored."


def backbone(record: dict) -> str:
    """The segmentation network's backbone, from the record of an evaluate stage."""
    trained = lineage.upstream(record, "train_segmentation")
    return trained["parameters"]["backbone"] if trained else "unknown backbone"


def check_lineage(inputs: dict[str, Path]) -> None:
    """Check that the stages of a report, name to folder, were built on each other, and all on the
    same data. Raises InputError if they were not: scores of different chains must not stand side by
    side.
    """
    used, digests = {}, {}  # per stage its first user with the fingerprint; the digest of its data
    for name, folder in inputs.items():
        for stage, fingerprint, record in _chain(folder):
            other, before = used.setdefault(stage, (name, fingerprint))
            if before != fingerprint:
                both = f"{other} builds on {stage} {before}, and {name} on {stage} {fingerprint}"
                raise InputError(f"report: {both}; give runs of one chain")
            if record:
                digests[stage] = record["data_digest"]
    first = max(digests, key=lambda stage: len(digests[stage]), default="")  # the most precise
    for stage, digest in digests.items():
        if not stages.same_data(digests[first], digest):
            both = f"{first} was made of data {digests[first]}, and {stage} of {digest}"
            raise InputError(f"report: {both}; run the chain on one dataset")


def _chain(folder):
    """Yield ``(stage, fingerprint, record)`` of a completed stage and of those it builds on; the
    record is None where its folder is gone.
    """
    record = results.completion(folder)
    if not record:
        yield folder.parent.name, folder.name, None
        return
    yield record["stage"], record["fingerprint"], record
    for name, fingerprint in record["inputs"].items():
        yield from _chain(paths.stage_folder(name, fingerprint))


def origins(runs: Iterable[delivery.Completed]) -> pd.DataFrame:
    """Where the scores come from: a row per run of a stage."""
    return pd.DataFrame(
        {
            "stage": run.record["stage"],
            "run": run.run_id,
            "commit": (run.tags.get("mlflow.source.git.commit", "")[:12] or "unknown")
            + " and source/changes.diff" * (run.tags.get("wsss.git.dirty") == "true"),
            "data": run.record["data_digest"],
            "seed": run.record["parameters"].get("seed", ""),
            "fingerprint": run.record["fingerprint"],
            "torch": run.tags.get("wsss.torch", ""),
            "Python": run.tags.get("wsss.python", ""),
            "machine": run.tags.get("wsss.device", ""),
        }
        for run in runs
    )


def chain_folders(inputs: dict[str, Path]) -> list[Path]:
    """The folders of a report's stages, given as name to folder, and of all stages that they build
    on, in the chain's order.
    """
    found = {
        stage: paths.stage_folder(stage, fingerprint)
        for folder in inputs.values()
        for stage, fingerprint, record in _chain(folder)
        if record
    } | inputs
    return [found[name] for name in stages.read_stages() if name in found]


def _over_seeds(folder, metric):
    """A stage's metric, as text; with several seeds its mean and standard deviation."""
    records = filter(None, map(results.completion, lineage.siblings(folder)))
    values = [each["metrics"][metric] for each in records if metric in each["metrics"]]
    if len(values) < 2:
        return "".join(f"{value:.1f}" for value in values)
    spread = statistics.stdev(values)
    return f"{statistics.mean(values):.1f} ± {spread:.1f} ({len(values)} seeds)"


def ours(
    records: Records, folders: dict[str, Path], *, data: Dataset, score_split: str, val_split: str
) -> str:
    """Label quality after each step, and the segmentation network's score, as Markdown. Stages run
    with several seeds give means, with the standard deviation of one run.

    Args:
        records, folders: of infer_cam, random_walk and evaluate, by name.
        score_split, val_split: the id lists of the scores.
    """
    cam, walk, final = (records[name] for name in SCORED)
    lists = sorted((m.split("/")[1] for m in walk.metrics if m.startswith("labels_miou/")), key=len)
    threshold = f"{cam.metrics['background_threshold']:.2f}"
    steps = [
        (f"CAM, threshold {threshold} (fixed beforehand)", "infer_cam", "cam_miou"),
        ("CAM, best threshold on these masks", "infer_cam", "cam_miou_best_threshold"),
        ("CAM + walk", "random_walk", "walk_miou"),
    ]
    if walk.record["parameters"]["crf_steps"]:  # else the labels are those of the walk
        steps.append(("CAM + walk + dCRF", "random_walk", "labels_miou"))
    rows = []
    for title, stage, metric in steps:
        scores = [_over_seeds(folders[stage], f"{metric}/{name}") for name in lists]
        rows.append([title, *scores, records[stage].run_id[:8]])
    everything = len(data.masked(data.ids(score_split)))
    tuning = walk.record["parameters"]["tuning_photos"]
    parts = {f"{score_split}_tuning": tuning, f"{score_split}_held_out": everything - tuning}
    counts = [f"{name} ({parts.get(name, everything)})" for name in lists]
    labels = NOTHING.format("Labels", markdown_text(score_split))
    if lists:
        labels = markdown_table(["labels, image labels given", *counts, "run"], rows)
    parameters, metric = final.record["parameters"], f"segmentation_miou/{val_split}"
    network = NOTHING.format("Network", markdown_text(val_split))
    if metric in final.metrics:
        title = f"segmentation network, photo only; {protocol(parameters)}"
        column = f"{val_split} ({len(data.masked(data.ids(val_split)))})"
        score = _over_seeds(folders["evaluate"], metric)
        row = [backbone(final.record), score, final.run_id[:8]]
        network = markdown_table([title, column, "run"], [row])
    masks = f"{parameters['dataset']}, digest {final.record['data_digest']}"
    return f"mIoU in percent on {masks}, masks {data.mask_folder}.\n\n{labels}\n\n{network}"


def per_class(records: Records, *, score_split: str) -> pd.DataFrame | None:
    """IoU in percent: a row per class and one for the mean, a column for each of maps, walk, labels
    and network that could be scored; None if none could.
    """
    frames = [frame for name in SCORED if (frame := records[name].iou) is not None]
    if not frames:
        return None
    table = pd.DataFrame({"class": frames[0]["class"]})
    for frame in frames:
        for column in frame.columns:
            if column.startswith("segmentation network") or column.endswith(f", {score_split}"):
                table[column] = frame[column].astype(float)
    return table


def final_scores(records: Records) -> dict[str, float]:
    """Every mIoU of the stages, for the report's own run."""
    metrics = (item for stage in records.values() for item in stage.metrics.items())
    return {name: value for name, value in metrics if "miou" in name}
