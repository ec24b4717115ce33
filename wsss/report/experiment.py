"""An experiment's own results, from completed MLflow runs; ``tables`` sets them beside others'."""

import statistics

import pandas as pd

from wsss.errors import InputError
from wsss.io.text import markdown_table
from wsss.lab import lineage, paths, results, stages
from wsss.photos.evaluation import protocol

SCORED = ("infer_cam", "random_walk", "evaluate")  # stages that tell an IoU where there are masks


def backbone(record):
    """The segmentation network's backbone, from the record of an evaluate stage."""
    trained = lineage.upstream(record, "train_segmentation")
    return trained["parameters"]["backbone"] if trained else "unknown backbone"


def check_lineage(inputs):
    """Whether the stages of a report are of one chain: each built on the others that it builds on,
    all of them on the same data.

    Args:
        inputs: stage name to folder.

    Raises:
        InputError: they are not; figures of different chains must not stand side by side.
    """
    used = {}
    for name, folder in inputs.items():
        for stage, fingerprint, record in _chain(results.completion(folder)):
            other, before = used.setdefault(stage, (name, fingerprint))
            if before != fingerprint:
                raise InputError(
                    f"report: {other} builds on {stage} {before}, and {name} on {stage} "
                    f"{fingerprint}; give runs of one chain"
                )
            if record:
                other, before = used.setdefault("", (name, record["data_digest"]))
                if before != record["data_digest"]:
                    raise InputError(
                        f"report: {other} was made of data {before}, and {stage} of "
                        f"{record['data_digest']}; run the chain on one dataset"
                    )


def _chain(record):
    """Yield ``(stage, fingerprint, record)`` of a completed stage and of those it builds on; the
    record is None where a folder is gone.
    """
    yield record["stage"], record["fingerprint"], record
    for name, fingerprint in record["inputs"].items():
        above = lineage.upstream(record, name)
        if above:
            yield from _chain(above)
        else:
            yield name, fingerprint, None


def origins(runs):
    """Where figures come from: a row for each stage, as a data frame.

    Args:
        runs: ``recorded.Completed`` of the report's stages and of those they build on.
    """
    rows = []
    for run in runs:
        changed = run.tags.get("wsss.git.dirty") == "true"
        commit = run.tags.get("mlflow.source.git.commit", "")[:12] or "unknown"
        rows.append(
            {
                "stage": run.record["stage"],
                "run": run.run_id,
                "commit": commit + " and source/changes.diff" * changed,
                "data": run.record["data_digest"],
                "seed": run.record["parameters"].get("seed", ""),
                "fingerprint": run.record["fingerprint"],
                "torch": run.tags.get("wsss.torch", ""),
                "Python": run.tags.get("wsss.python", ""),
                "machine": run.tags.get("wsss.device", ""),
            }
        )
    return pd.DataFrame(rows)


def chain_folders(inputs):
    """The folders of a report's stages and of all that they build on, in the chain's order.

    Args:
        inputs: stage name to folder.
    """
    found = {}
    for folder in inputs.values():
        for stage, fingerprint, record in _chain(results.completion(folder)):
            if record:
                found[stage] = paths.stage_folder(stage, fingerprint)
    found |= inputs
    return [found[name] for name in stages.read_stages() if name in found]


def _over_seeds(folder, metric):
    """A figure of a stage, or its mean and spread over the runs that differ in seeds alone."""
    records = [results.completion(sibling) for sibling in lineage.siblings(folder)]
    values = [record["metrics"][metric] for record in records if metric in record["metrics"]]
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    spread = statistics.stdev(values)
    return f"{statistics.mean(values):.1f} ± {spread:.1f} ({len(values)} seeds)"


def ours(records, folders, dataset, *, score_split, val_split):
    """Label quality at each step, and the segmentation network, as Markdown. Where a stage was run
    with several seeds, its figures are means, with the standard deviation of one run.

    Args:
        records: stage name to ``recorded.Completed`` of infer_cam, random_walk and evaluate.
        folders: stage name to the folder of each.
        dataset: the open dataset.
        score_split, val_split: the id lists of the scores.
    """
    cam, walk, final = (records[name] for name in ("infer_cam", "random_walk", "evaluate"))
    lists = sorted((m.split("/")[1] for m in walk.metrics if m.startswith("labels_miou/")), key=len)
    lines = [
        (
            f"CAM, threshold {cam.metrics['background_threshold']:.2f} (fixed beforehand)",
            cam,
            "cam_miou",
        ),
        ("CAM, best threshold on these masks", cam, "cam_miou_best_threshold"),
        ("CAM + walk", walk, "walk_miou"),
        ("CAM + walk + dCRF", walk, "labels_miou"),
    ]
    if not walk.record["parameters"]["crf_steps"]:
        del lines[-1]  # its labels are those of the walk
    rows = [
        [
            title,
            *(_over_seeds(folders[stage.record["stage"]], f"{metric}/{name}") for name in lists),
            stage.run_id[:8],
        ]
        for title, stage, metric in lines
    ]
    parameters = final.record["parameters"]
    digest = final.record["data_digest"]
    data = f"{parameters['dataset']}, digest {digest}, masks {dataset.mask_folder}"
    header = [
        "labels, image labels given",
        *(f"{name} ({_count(dataset, walk, name, score_split)})" for name in lists),
        "run",
    ]
    score = final.metrics.get(f"segmentation_miou/{val_split}")
    parts = [f"mIoU in percent on {data}."]
    if lists:
        parts.append(markdown_table(header, rows))
    else:
        parts.append(f"Labels: no photo of {score_split} has a mask, so nothing could be scored.")
    if score is None:
        parts.append(f"Network: no photo of {val_split} has a mask, so nothing could be scored.")
    else:
        network = f"segmentation network, photo only; {protocol(parameters)}"
        count = len(dataset.masked(dataset.ids(val_split)))
        figure = _over_seeds(folders["evaluate"], f"segmentation_miou/{val_split}")
        row = [backbone(final.record), figure, final.run_id[:8]]
        parts.append(markdown_table([network, f"{val_split} ({count})", "run"], [row]))
    return "\n\n".join(parts)


def _count(dataset, walk, name, score_split):
    everything = len(dataset.masked(dataset.ids(score_split)))
    tuning = walk.record["parameters"]["tuning_photos"]
    return {
        f"{score_split}_tuning": tuning,
        f"{score_split}_held_out": everything - tuning,
    }.get(name, everything)


def per_class(records, *, score_split):
    """IoU in percent: a row a class and the mean; a column for the maps, the walk, the labels, the
    network, of those that could be scored; None where none could.
    """
    frames = [records[name].iou for name in SCORED if records[name].iou is not None]
    if not frames:
        return None
    table = pd.DataFrame({"class": frames[0]["class"]})
    for frame in frames:
        for column in frame.columns:
            if column.startswith("segmentation network") or column.endswith(f", {score_split}"):
                table[column] = frame[column].astype(float)
    return table


def final_scores(records):
    """Every mIoU of the stages, for the report's own run."""
    return {
        name: value
        for stage in records.values()
        for name, value in stage.metrics.items()
        if "miou" in name
    }
