"""This project's hooks for the lab: how data opens, what stages need, what scores mean."""

from functools import partial
from math import ceil
from pathlib import Path

import torch

from wsss import datasets, models
from wsss.affinity import STRIDE
from wsss.cost import disk_space
from wsss.crf import CrfParams
from wsss.datasets.transforms import augment, repeat_rare
from wsss.errors import InputError
from wsss.lab import paths, results
from wsss.lab.project import Project
from wsss.lab.record import find_runs
from wsss.models.state_dicts import expect_weights
from wsss.photos import evaluation, jobs, walk_grid
from wsss.train import loop, losses, sampler

SCORES = {  # final metric to (stage, title in MLflow); titles sort before all other names
    "cam_miou": ("infer_cam", "1 CAM mIoU"),
    "cam_miou_best_threshold": ("infer_cam", ""),
    "walk_miou": ("random_walk", "2 walk mIoU"),
    "labels_miou": ("random_walk", "3 labels mIoU"),
    "segmentation_miou": ("evaluate", "4 network mIoU"),
}
USED_NETWORKS = {  # of stages that run another stage's network
    **{"infer_cam": "train_cam", "random_walk": "train_affinity"},
    "evaluate": "train_segmentation",
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


def _check_values(planned):
    """Refuse missing files, and values that do not fit each other, before the first stage."""
    from wsss.lab.record import mlflow_store  # slow to import

    for item in planned:
        if name := item.values.get("model_name"):
            mlflow_store.check_model_name(name)
        try:
            _check_stage(item, planned)
        except InputError as fault:
            raise InputError(f"{item.name}: {fault}") from None


def _check_stage(item, planned):
    """Make of a stage's values what its notebook makes of them, but for the work."""
    upstream = partial(disk_space.upstream, item=item, planned=planned)
    name, values, given, data = item.name, item.values, item.values.get, open_data(item.values)
    if count := given("tuning_photos"):
        evaluation.eval_splits(data, values["score_split"], tuning_photos=count)
    if name == "affinity_labels":
        alphas = {key: values[key] for key in ("alpha_low", "alpha_high")}
        jobs.affinity_label_job(data, Path(), folder=Path(), crf=CrfParams(), crf_steps=0, **alphas)
    if given("walk_steps"):
        upstream("train_affinity")
    if given("output_stride") and (trained := USED_NETWORKS.get(name)):
        network = upstream(trained) | {"output_stride": values["output_stride"]}
        disk_space.network_of(trained, network, len(data.classes))
    if file := given("checkpoint") or given("start_from"):
        models.expect_file(paths.from_root(file))
    if name not in disk_space.NETWORKS or given("checkpoint"):  # nothing is trained
        return
    disk_space.network_of(name, values, len(data.classes))
    if weights := paths.weights_path(values["weights"]):
        expect_weights(models.BACKBONES[values["backbone"]], weights)
    augment(values["crop"], long_side=(values["resize_min"], values["resize_max"]))
    ids = repeat_rare(data, data.ids(values["train_split"]), photos=given("rare_photos", 0))
    sampler.check_shares(len(ids), loop.schedule_from(values))
    if radius := given("radius"):
        cells = ceil(values["crop"] / STRIDE)
        losses.check_pairs(cells, radius=radius, border_pairs=values["border_pairs"])
    if given("cell_labels") == "probabilities" and not upstream("affinity_labels")["marginals"]:
        raise InputError("cell_labels 'probabilities' needs affinity_labels.marginals=true; set it")
    if given("labels_folder") == "":
        upstream("random_walk")
    if given("start_from_cam") and not given("start_from"):
        cam, own = upstream("train_cam"), values["backbone"]
        if cam["backbone"] != own or (given("low_level_channels") and cam["head_channels"]):
            wanted = f"train_cam of backbone {own}, with low_level_channels of head_channels 0"
            raise InputError(f"start_from_cam needs a {wanted}; change them, or set it to false")


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
    check_values=_check_values,
    check_room=disk_space.check,
    register_model=_register_model,
    compare_files=_compare_weights,
    scores=SCORES,
    one_pass=_compare_walks,
    draw_sweep=_draw_sweep,
)
