"""Sweeps: which combinations there are; tests/test_driver.py runs one."""

import dataclasses
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from wsss import viz
from wsss.cli.project import PROJECT
from wsss.errors import InputError
from wsss.lab import paths, plan
from wsss.lab.record import mlflow_store
from wsss.lab.run import grid, sweep
from wsss.lab.run.comparison import compare


def test_several_values_make_a_grid_and_lists_and_quoted_texts_do_not():
    single, several = grid.split_overrides(
        [
            "random_walk.beta=4,8,16",
            "infer_cam.scales=[0.5, 1.0]",
            "dataset.data_root='a,b'",
            "random_walk.flip=true,false",
            "train_cam.epochs=3",
        ]
    )
    assert several["grid"] == {"random_walk.beta": [4, 8, 16], "random_walk.flip": [True, False]}
    assert single == [
        "infer_cam.scales=[0.5, 1.0]",
        "dataset.data_root='a,b'",
        "train_cam.epochs=3",
    ]


def test_points_are_every_variant_at_every_grid_point_with_every_seed():
    experiment = {
        "sweep": {
            "variants": {"paper": None, "no head": {"train_cam.head_channels": 0}},
            "grid": {"random_walk.beta": [4, 8]},
            "seeds": [0, 1, 2],
        }
    }
    points = grid.combinations(experiment, {"grid": {"random_walk.steps": [16]}})
    assert len(points) == 2 * 2 * 1 * 3 == len({point.title for point in points})
    last = points[-1]
    assert last.title == "variant no head, random_walk.beta 8, random_walk.steps 16, seed 2"
    assert last.overrides == {
        "train_cam": {"head_channels": 0},
        "random_walk": {"beta": 8, "steps": 16},
        "common": {"seed": 2},
    }
    walk = {"random_walk": {"beta": 4, "steps": 16}}
    assert points[0].overrides == walk | {"common": {"seed": 0}}


def test_seeds_are_of_all_stages_or_of_those_from_one_on():
    single, sweep_of = grid.split_overrides(["random_walk.beta=4", "seeds=0,1"])
    assert single == ["random_walk.beta=4"] and sweep_of["seeds"] == [0, 1]
    path = paths.project_root() / "experiments" / "shapes.yaml"
    experiment = plan.read_experiment(path)
    point = grid.combinations(experiment, sweep_of)[1]
    seeds = {
        p.name: p.values.get("seed")
        for p in grid.plan_point(experiment, point, overrides={}, project=PROJECT)
    }
    assert {name for name, seed in seeds.items() if seed == 1} == {
        "train_cam",
        "train_affinity",
        "train_segmentation",
    }
    _, sweep_of = grid.split_overrides(["train_affinity.seeds=3"])
    (point,) = grid.combinations(experiment, sweep_of)
    seeds = {
        p.name: p.values.get("seed")
        for p in grid.plan_point(experiment, point, overrides={}, project=PROJECT)
    }
    assert seeds["train_cam"] == 0 and seeds["train_affinity"] == seeds["train_segmentation"] == 3
    with pytest.raises(InputError, match="seeds: unknown stage 'walk'"):
        grid.combinations(experiment, grid.split_overrides(["walk.seeds=0,1"])[1])
    with pytest.raises(InputError, match="expected whole numbers"):
        grid.split_overrides(["seeds=0,few"])


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["walk.beta=4", "walk.beta=99"], r"walk\.beta: is given twice; keep one of them"),
        (["walk.beta=4,8", "walk.beta=16,32"], r"walk\.beta: is given twice"),
        (["walk.beta=4,8", "walk.steps=3", "walk.beta=99"], r"walk\.beta: is given twice"),
        (["seeds=0,1", "seeds=2,3"], "seeds: is given twice"),
        (["seeds=0,1", "walk.seeds=2,3"], "seeds: is given twice"),
    ],
)
def test_a_parameter_that_is_given_twice_is_refused(texts, reason):
    with pytest.raises(InputError, match=reason):
        grid.split_overrides(texts)


def test_what_a_sweep_varies_is_not_given_as_well():
    """Of an experiment's sweep and of the command's; a seed counts where seeds would set it."""
    experiment = plan.read_experiment(paths.project_root() / "experiments" / "shapes.yaml")
    swept = experiment | {"sweep": {"grid": {"random_walk.beta": [4, 8]}}}
    for sheet, texts, reason in (
        (swept, ["random_walk.beta=99"], r"^random_walk\.beta: is swept, and 99 is given for it"),
        (experiment, ["seeds=0,1", "common.seed=3"], r"^common\.seed: is swept, and 3 is given"),
        (
            *(experiment, ["train_affinity.seeds=0,1", "train_segmentation.seed=3"]),
            r"^train_segmentation\.seed: is swept, and 3 is given",
        ),
    ):
        single, several = grid.split_overrides(texts)
        (point, _) = grid.combinations(sheet, several)
        overrides = plan.parse_overrides(single)
        with pytest.raises(InputError, match=reason):
            grid.plan_point(sheet, point, overrides=overrides, project=PROJECT)
    # another seed of one stage, or a value in place of the file's, is no conflict
    single, several = grid.split_overrides(["seeds=1,2", "train_cam.seed=7"])
    point = grid.combinations(experiment, several)[0]
    planned = grid.plan_point(
        experiment, point, overrides=plan.parse_overrides(single), project=PROJECT
    )
    seeds = {item.name: item.values["seed"] for item in planned if "seed" in item.values}
    assert seeds == {"train_cam": 7, "train_affinity": 1, "train_segmentation": 1}
    (one, two) = grid.combinations(swept, {"grid": {"random_walk.beta": [16, 32]}})
    assert [one.names, two.names] == [{"random_walk.beta": 16}, {"random_walk.beta": 32}]


def test_without_anything_to_sweep_there_is_no_point():
    assert grid.combinations({"sweep": {}}) == grid.combinations({}) == []
    (only,) = grid.combinations({"sweep": {"seeds": [3]}})
    assert only.seed == 3 and only.title == "seed 3"
    assert only.overrides == {"common": {"seed": 3}}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"seed": [1]}, "unknown key 'seed'; expected: variants, grid, seeds"),
        ({"grid": {"random_walk.beta": 4}}, "expected a list of values but got 4"),
        ({"grid": {"random_walk.beta": []}}, "expected a list of values"),
        ({"grid": {"beta": [4]}}, "expected stage.parameter"),
        ({"grid": {"random_walk.beta": [4, 8, 4]}}, "random_walk.beta: 4 is listed twice"),
        ({"seeds": [0, 1, 0]}, "seeds: 0 is listed twice"),
        (
            {"grid": {"a.b": [1]}, "variants": {"x": {"a.b": 2}}},
            "a.b: is swept, and 2 is given for it too",
        ),
    ],
)
def test_wrong_sweeps_are_refused(given, reason):
    with pytest.raises(InputError, match=reason):
        grid.combinations({"sweep": given})


def test_force_is_refused():
    points = grid.combinations({"sweep": {"seeds": [0, 1]}})
    with pytest.raises(InputError, match="--force would run again"):
        sweep.run({"common": {}}, points, overrides={}, force=True, project=PROJECT)


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"a.x": [1, 1, 2, 2], "a.y": [1, 2, 1, 2]}, "map"),
        ({"a.x": [1, 2, 4, 8], "a.y": [5, 5, 5, 5]}, "line"),
        ({"variant": ["p", "q", "r", "s"]}, "bars"),
    ],
)
def test_the_picture_fits_what_was_swept(columns, kind):
    frame = pd.DataFrame(columns | {"walk_miou/train": [40.0, 41.5, 42.0, 39.0]})
    figure = viz.sweep_map(frame, list(columns), figure_name="walk_miou/train")
    (axis,) = figure.axes
    if kind == "map":
        assert sorted(text.get_text() for text in axis.texts) == ["39.0", "40.0", "41.5", "42.0"]
    elif kind == "line":
        assert axis.lines[0].get_xydata().tolist()[1] == [2, 41.5]
    else:
        assert [patch.get_width() for patch in axis.patches] == [40.0, 41.5, 42.0, 39.0]
    plt.close(figure)


def test_over_three_parameters_there_is_a_map_for_each_value_of_the_one_with_the_fewest():
    values = itertools.product([2, 4, 8], [1.0, 3.0], [16, 32, 64, 128])
    frame = pd.DataFrame(values, columns=["w.alpha", "w.beta", "w.steps"])
    frame["walk_miou/train"] = 30 + np.arange(24.0)
    figure = viz.sweep_map(frame, list(frame.columns[:3]), figure_name="walk_miou/train")
    assert [axis.get_title() for axis in figure.axes] == ["w.beta = 1.0", "w.beta = 3.0"]
    for axis, beta in zip(figure.axes, (1.0, 3.0), strict=True):
        assert (axis.get_ylabel(), axis.get_xlabel()) == ("w.alpha", "w.steps")
        shown = [text.get_text() for text in axis.texts]
        assert shown == [f"{v:.1f}" for v in frame[frame["w.beta"] == beta]["walk_miou/train"]]
        assert axis.collections[0].get_clim() == (30.0, 53.0)  # one scale
    framed = [patch.get_xy() for axis in figure.axes for patch in axis.patches]
    assert framed == [(3, 2)] and figure.axes[1].patches  # alpha 8, beta 3, steps 128
    plt.close(figure)


def test_means_over_seeds_have_a_spread_where_seeds_made_a_difference(tmp_path, monkeypatch):
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    rows = {
        **{"variant": ["a", "a", "b", "b"], "seed": [0, 1, 0, 1], "data": "d"},
        **{"infer_cam": ["1", "1", "2", "2"], "cam_miou/train": [40.0, 40.0, 50.0, 50.0]},
        **{"evaluate": ["3", "4", "5", "6"], "segmentation_miou/val": [60.0, 62.0, 64.0, 64.0]},
    }
    rows = pd.DataFrame(rows).to_dict("records")
    project = dataclasses.replace(PROJECT, draw_sweep=None)
    text = compare({"name": "toys"}, rows, names=["variant"], given=[], project=project, say=str)
    assert "| a | 40.00 | 61.00 ± 1.41 |" in text and "| b | 50.00 | 64.00 ± 0.00 |" in text
    text = compare({"name": "toys"}, rows[:2], names=[], given=[], project=project, say=str)
    assert "| 40.00 | 61.00 ± 1.41 |" in text
    (run,) = mlflow_store.client().search_runs(
        [mlflow_store.experiment_id("toys")], "tags.mlflow.runName LIKE 'sweep of seeds%'"
    )
    assert run.data.metrics["mean segmentation_miou/val"] == 61
    assert run.data.metrics["spread segmentation_miou/val"] == pytest.approx(2**0.5)
    assert "spread cam_miou/train" not in run.data.metrics
