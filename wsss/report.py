"""An experiment's own results, from completed MLflow runs; ``tables`` sets them beside others'."""

import pandas as pd

from wsss import stages

SCORED = ("infer_cam", "random_walk", "evaluate")  # stages that tell an IoU where there are masks


def markdown_table(header, rows):
    """A Markdown table of text cells."""
    lines = [list(header), ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _figure(value):
    return "" if value is None else f"{value:.1f}"


def protocol(parameters):
    """What an evaluation does at test time, in words, from the parameters of 70_evaluate."""
    steps = parameters["crf_steps"]
    return (
        f"scales {parameters['scales']}, {'flip' if parameters['flip'] else 'no flip'}, "
        f"{f'dCRF {steps} steps' if steps else 'no dCRF'}"
    )


def backbone(record):
    """The segmentation network's backbone, from the record of an evaluate stage."""
    trained = stages.upstream(record, "train_segmentation")
    return trained["parameters"]["backbone"] if trained else "unknown backbone"


def ours(records, dataset, *, score_split, val_split):
    """Label quality at each step, and the segmentation network, as Markdown.

    Args:
        records: stage name to ``tracking.Completed`` of infer_cam, random_walk and evaluate.
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
            *(_figure(stage.metrics.get(f"{metric}/{name}")) for name in lists),
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
        row = [backbone(final.record), _figure(score), final.run_id[:8]]
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
