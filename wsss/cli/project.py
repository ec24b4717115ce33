"""This project's hooks for the lab: how data opens, what stages need, what scores mean."""

import torch

from wsss import datasets, models
from wsss.cost import disk_space
from wsss.lab import paths, results
from wsss.lab.project import Project
from wsss.lab.record import find_runs
from wsss.photos import walk_grid

SCORES = {  # final metric to (stage, title in MLflow); titles sort before all other names
    "cam_miou": ("infer_cam", "1 CAM mIoU"),
    "cam_miou_best_threshold": ("infer_cam", ""),
    "walk_miou": ("random_walk", "2 walk mIoU"),
    "labels_miou": ("random_walk", "3 labels mIoU"),
    "segmentation_miou": ("evaluate", "4 network mIoU"),
}
RESULTS = {  # stage to what people look for in its folder, by title
    "random_walk": {"labels": "labels", "overlays": "gallery"},
    "train_segmentation": {"network": "weights.pt"},
    "report": {"report": "report.md"},
}
WALK_CONSTANTS = ("background_alpha", "beta", "steps")  # of random_walk; cheap to compare


def open_data(values):
    """The dataset that a stage's parameters name."""
    return datasets.open(values["dataset"], paths.from_root(values["data_root"]))


def _check_files(planned):
    """Refuse missing weights before the first stage, not hours later."""
    for item in planned:
        given = item.values.get("checkpoint") or item.values.get("weights", "")
        if given not in ("", "download"):
            models.expect_file(paths.from_root(given))


def _register_model(name, description, *, run_id):
    from wsss.apply import model_registry  # slow to import

    return model_registry.register(name, description, run_id=run_id)


def _compare_weights(folder, other):
    """A line if the weights of two runs differ in any tensor."""
    if not (folder / "weights.pt").exists():
        return []
    first, second = (models.load_state(place / "weights.pt") for place in (folder, other))
    unequal, shared = sorted(first.keys() ^ second.keys()), sorted(first.keys() & second.keys())
    unequal += [name for name in shared if not torch.equal(first[name], second[name])]
    return [f"weights.pt: {len(unequal)} tensors differ, such as {unequal[0]}"] if unequal else []


def _compare_walks(stage, values, swept):
    """Compare the walk's constants in one pass over the photos, if no dense CRF follows."""
    if stage != "random_walk" or not swept.issubset(WALK_CONSTANTS):
        return None
    if values["crf_steps"]:
        return "random_walk.crf_steps=0 would compare the walks alone, and much faster"

    def score(settings):
        names = ("infer_cam", "train_affinity")
        folders = {name: paths.from_root(values[f"{name}_run"]) for name in names}
        # a stage that was forced to run again has the same fingerprint and ended later
        records = {name: results.completed_in(folder, name) for name, folder in folders.items()}
        made = {name: [each["fingerprint"], each["ended"]] for name, each in records.items()}
        constants = [tuple(each[name] for name in WALK_CONSTANTS) for each in settings]
        given = {"data": open_data(values), "folders": folders, "made": made}
        return walk_grid.compare(values, constants, **given, cache=paths.outputs_root())

    return score


def _draw_sweep(table, names, metric):
    from wsss import viz  # slow to import

    return viz.sweep_map(table, names, figure_name=metric)


PROJECT = Project(
    data_digest=lambda values: open_data(values).digest(),
    find_run=find_runs.find,
    check_files=_check_files,
    check_room=disk_space.check,
    register_model=_register_model,
    compare_files=_compare_weights,
    scores=SCORES,
    one_pass=_compare_walks,
    draw_sweep=_draw_sweep,
)
