"""Sweeps: one experiment run at every combination of some parameters' values, with the results side
by side.

Stages that a combination has in common with another run once, as stages are reused by fingerprint.
Where nothing but the walk's constants is swept and no dense CRF follows, all of them are compared
in one pass over the photos (see ``walk_sweep``).
"""

import hashlib
import itertools
import json
import math
import time
from typing import NamedTuple

import numpy as np
import pandas as pd

from wsss import delivery, disk, driver, pipeline, provenance, stages, storage
from wsss.errors import InputError
from wsss.journal import Journal
from wsss.lanes import Lanes
from wsss.report import markdown_table

# final figures that a sweep compares, with their stages, in the chain's order; the last one found
# is mapped
COMPARED = {
    "cam_miou": "infer_cam",
    "cam_miou_best_threshold": "infer_cam",
    "walk_miou": "random_walk",
    "labels_miou": "random_walk",
    "segmentation_miou": "evaluate",
}
MOST_COMBINATIONS = 10_000  # of a sweep: a month of the fastest there is
ORDER = tuple(COMPARED)
WALK_CONSTANTS = ("background_alpha", "beta", "steps")  # of random_walk; cheap to compare


class SweepFailed(RuntimeError):
    """Points of a sweep failed; the message names them, with the reasons."""


class Combination(NamedTuple):
    """One point of a sweep.

    Attributes:
        names: column to value: the variant's name and the swept parameters' values, without the
            seed.
        seed: or None for the experiment's own.
        overrides: ``{stage: {parameter: value}}``.
        tail: the stage from which on the seed holds; empty for all stages.
    """

    names: dict
    seed: int | None
    overrides: dict
    tail: str = ""

    @property
    def title(self):
        seed = {} if self.seed is None else {"seed": self.seed}
        return ", ".join(f"{name} {value}" for name, value in (self.names | seed).items())


def split(texts):
    """Command-line overrides apart: those of one value; and a sweep of the rest, as
    ``combinations`` takes it.

    Several values (``random_walk.beta=4,8,16``) make a grid. A list parameter's value stands in
    brackets, a text with a comma in quotes. ``seeds=0,1,2`` are seeds of all stages,
    ``random_walk.seeds=0,1,2`` of those from one on.
    """
    single, grid, sweep = [], {}, {}
    for text in texts:
        name, _, value = text.partition("=")
        if name.rpartition(".")[2] == "seeds":
            sweep["seeds"], sweep["tail"] = _seeds(text, value), name.rpartition(".")[0]
        elif "," in value and value.lstrip()[:1] not in "[\"'{":
            parsed = [pipeline.parse_overrides([f"{name}={part}"]) for part in value.split(",")]
            grid[name] = [next(iter(next(iter(given.values())).values())) for given in parsed]
        else:
            single.append(text)
    return single, sweep | {"grid": grid}


def _seeds(text, value):
    try:
        return [int(part) for part in value.strip("[]").split(",")]
    except ValueError:
        raise InputError(f"'{text}': expected whole numbers, such as seeds=0,1,2") from None


def combinations(experiment, given=None):
    """Every ``Combination`` of an experiment's ``sweep`` and of one given beside it.

    ``sweep`` may hold ``variants`` (name to ``{stage.parameter: value}``), ``grid``
    (``stage.parameter`` to a list of values), ``seeds`` (a list) and ``tail`` (the stage from which
    on seeds hold). The result is empty where there is nothing to sweep.

    Raises:
        InputError: another key, an empty list, or a name that is not ``stage.parameter``.
    """
    sweep, given = experiment.get("sweep") or {}, given or {}
    kinds = {"variants": dict, "grid": dict, "seeds": list, "tail": str}
    for key in sweep:
        if key not in kinds:
            raise InputError(f"sweep: unknown key '{key}'; expected: {', '.join(kinds)}")
        if not isinstance(sweep[key] or kinds[key](), kinds[key]):
            raise InputError(f"sweep.{key}: expected a {kinds[key].__name__}; mend the experiment")
    grid = (sweep.get("grid") or {}) | (given.get("grid") or {})
    sweep = sweep | given
    tail = sweep.get("tail") or ""
    if tail and tail not in experiment["stages"]:
        names = ", ".join(experiment["stages"])
        raise InputError(f"seeds: '{tail}' is no stage of this experiment; its stages are: {names}")
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise InputError(f"sweep.grid.{name}: expected a list of values but got {values!r}")
    variants, seeds = sweep.get("variants") or {}, sweep.get("seeds") or []
    if not (variants or grid or seeds):
        return []
    for name, given in variants.items():
        if not isinstance(given or {}, dict):
            raise InputError(f"sweep.variants.{name}: expected 'stage.parameter: value'; mend it")
    count = math.prod(map(len, (variants or [0], *grid.values(), seeds or [0])))
    if count > MOST_COMBINATIONS:
        raise InputError(
            f"sweep: expected at most {MOST_COMBINATIONS:,} combinations but there are {count:,}; "
            "sweep fewer values"
        )
    found = []
    for variant in variants or {"": {}}:
        for values in itertools.product(*grid.values()):
            given = (variants.get(variant) or {}) | dict(zip(grid, values, strict=True))
            overrides = {}
            for name, value in given.items():
                stage, dot, parameter = str(name).partition(".")
                if not (dot and stage and parameter):
                    raise InputError(
                        f"sweep: '{name}' is no stage.parameter, such as random_walk.beta"
                    )
                overrides.setdefault(stage, {})[parameter] = value
            names = {"variant": variant} if variants else {}
            names |= {name: given[name] for name in grid}
            found += [Combination(names, seed, overrides, tail) for seed in seeds or [None]]
    return found


def plan(experiment, point, overrides, **options):
    """``pipeline.plan`` of one ``Combination``, which goes over the other overrides."""
    given = {stage: dict(values) for stage, values in overrides.items()}
    for stage, values in point.overrides.items():
        given[stage] = given.get(stage, {}) | values
    if point.seed is not None and point.tail:
        chain = stages.read_stages()
        names = [name for name in chain if name in experiment["stages"]]
        for name in names[names.index(point.tail) :]:
            if "seed" in chain[name].parameters:
                given[name] = given.get(name, {}) | {"seed": point.seed}
    elif point.seed is not None:
        experiment = experiment | {"common": experiment["common"] | {"seed": point.seed}}
    return pipeline.plan(experiment, given, **options)


def run(experiment, points, overrides, *, jobs=1, gpus_per_job=0, say=print, **options):
    """Run an experiment at every point, whatever of it is not done yet, and compare.

    Args:
        experiment: from ``pipeline.read_experiment``.
        points: from ``combinations``.
        overrides: of all of them, from ``pipeline.parse_overrides``.
        jobs: how many points are run at once.
        gpus_per_job: as for ``shares.Shares``.
        say: what is told of all points goes through it.
        options: of ``pipeline.plan``.

    Returns:
        the comparison as Markdown. It and its heat map are also in ``outputs/sweeps/`` and in
        MLflow.

    Raises:
        InputError: a point cannot be planned; there is no room for all of them; or points failed,
            each for what it was given.
        SweepFailed: points failed, the others are done.
    """
    if options.get("force"):
        raise InputError("--force would run again what points have in common; leave it out")
    names = list(points[0].names)
    given = [overrides, bool(options.get("smoke"))]
    if _over_walks(points):
        planned = plan(experiment, points[0], overrides, **options)
        if _walks_alone(planned):
            rows, record = _run_walks(experiment, points, planned, say)
            return _compare(experiment, pd.DataFrame(rows), names, given, say, record)
        if planned[-1].name == "random_walk":
            say("random_walk.crf_steps=0 would compare the walks alone, and much faster")
    # all are checked before anything runs
    plans = [plan(experiment, point, overrides, **options) for point in points]
    lanes = Lanes(plans, jobs=jobs, gpus_per_job=gpus_per_job, say=say)
    each = {item.fingerprint: item for planned in plans for item in planned}
    disk.check(each.values(), stages.outputs_root())
    ran = {}

    def work(place, lane):
        point = points[place]
        left = lanes.left()
        lanes.screen.say(f"{lanes.mark(place)} {point.title}{left and f', {left}'}")
        # anew: what an earlier point has finished is done now
        ran[place] = planned = plan(experiment, point, overrides, **options)
        # where only parameters differ, a run's name tells them by itself
        named = "variant" in point.names or point.seed is not None
        title = point.title if named else ""
        driver.run(experiment, planned, title=title, say=lane.say, lane=lane)

    if faults := lanes.run(work):
        raise _failure(points, faults)
    rows = [
        point.names | {"seed": point.seed} | _origins(ran[place]) | _figures(ran[place])
        for place, point in enumerate(points)
    ]
    if len({row["data"] for row in rows}) > 1:  # scores on other data stand in rows of their own
        names.append("data")
    return _compare(experiment, pd.DataFrame(rows), names, given, say)


def _failure(points, faults):
    """One exception for the points that failed, by their places: each reason once."""
    told = {}
    for place, fault in sorted(faults.items()):
        told.setdefault(str(fault), []).append(points[place].title)
    reasons = "; ".join(f"{' | '.join(titles)}: {reason}" for reason, titles in told.items())
    bad = all(isinstance(fault, InputError) for fault in faults.values())
    kind = InputError if bad else SweepFailed
    failure = kind(f"{len(faults)} of {len(points)} points failed, the others are done: {reasons}")
    failure.__cause__ = faults[min(faults)]  # whose traceback --debug shows
    return failure


def dry_run(experiment, points, overrides, **options):
    """What ``run`` would do, as ``pipeline.dry_run`` prints it."""
    planned = [plan(experiment, point, overrides, **options) for point in points[:1]]
    if _over_walks(points) and _walks_alone(planned[0]):
        walks = f"# random_walk: {len(points)} combinations in one pass, without its notebook"
        return "\n".join(filter(None, [pipeline.dry_run(planned[0][:-1]), walks]))
    planned += [plan(experiment, point, overrides, **options) for point in points[1:]]
    return "\n".join(
        f"# {point.title}\n{pipeline.dry_run(each)}"
        for point, each in zip(points, planned, strict=True)
    )


def _over_walks(points):
    """Whether points differ in nothing but the walk's constants."""
    swept = {f"random_walk.{name}" for name in WALK_CONSTANTS}
    return all(point.seed is None and swept.issuperset(point.names) for point in points)


def _walks_alone(planned):
    """Whether a plan ends with a walk that no dense CRF follows."""
    return planned[-1].name == "random_walk" and not planned[-1].values["crf_steps"]


def _run_walks(experiment, points, planned, say):
    """The rows of ``_compare``, from the stages before the walk and one pass over the photos, and
    what all walks have in common.
    """
    *before, walk = planned
    values = [  # all are checked before anything runs
        walk.stage.resolve(walk.values | point.overrides["random_walk"]) for point in points
    ]
    if not all(item.done for item in before):
        driver.run(experiment, before, say=say)
    say(f"{len(points)} walks without dense CRF, against the masks of {walk.values['score_split']}")
    constants = [tuple(each[name] for name in WALK_CONSTANTS) for each in values]
    from wsss import walk_sweep  # slow to import

    scores = walk_sweep.compare(walk.values, constants)
    shared = _figures(before)
    rows = [
        point.names | {"seed": None} | shared | score
        for point, score in zip(points, scores, strict=True)
    ]
    swept = {name.partition(".")[2] for name in points[0].names}
    record = {name: value for name, value in walk.values.items() if name not in swept}
    return rows, record


def _origins(planned):
    """The digest of the data, and the fingerprints of the stages that figures are from."""
    made = {item.name: item.fingerprint for item in planned if item.name in COMPARED.values()}
    return {"data": stages.completion(planned[-1].folder)["data_digest"]} | made


def _figures(planned):
    """The compared figures of the stages' completed runs, on every list that they tell."""
    found = {}
    for item in planned:
        metrics = stages.completion(item.folder)["metrics"]
        found |= {k: v for k, v in metrics.items() if k.split("/")[0] in COMPARED}
    return found


def _compare(experiment, results, names, given, say, record=None):
    """Means and spreads over seeds, written, drawn and logged.

    Args:
        results: a row a run: the columns ``names``, ``seed`` and the figures.
        given: what else makes this sweep another one, such as overrides.
        record: parameters to keep beside the table, where no stage's run holds them.
    """
    figures = sorted(
        (name for name in results if "/" in name),
        key=lambda name: ORDER.index(name.split("/")[0]),
    )
    grouped = results.groupby(names, sort=False, dropna=False) if names else None
    mean = grouped[figures].mean() if names else results[figures].mean().to_frame().T
    spread = grouped[figures].std() if names else results[figures].std().to_frame().T
    for name in figures:
        stage = COMPARED[name.split("/")[0]]
        if stage in results:  # one run that all seeds have in common has no spread
            runs = grouped[stage].nunique() if names else results[[stage]].nunique()
            spread[name] = spread[name].where(runs.to_numpy() > 1)
    table = mean.map(lambda value: f"{value:.2f}") + spread.map(
        lambda value: "" if np.isnan(value) else f" ± {value:.2f}"
    )
    table = table.reset_index() if names else table
    digest = hashlib.blake2b(
        json.dumps(
            [experiment["name"], given, results[[*names, "seed"]].to_dict("list")], default=str
        ).encode(),
        digest_size=6,
    ).hexdigest()
    folder = stages.outputs_root() / "sweeps" / f"{experiment['name']}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown_table(table.columns, table.values.tolist())
    with storage.atomic(folder / "sweep.md") as partial:
        partial.write_text(text + "\n")
    with storage.atomic(folder / "sweep.csv") as partial:
        results.to_csv(partial, index=False)
    if record:
        storage.save_json(folder / "random_walk.json", record)
    if figures and names:
        last = ORDER.index(figures[-1].split("/")[0])
        told = [name for name in figures if ORDER.index(name.split("/")[0]) == last]
        # where photos were set apart to choose constants on, they are what to choose by
        shown = next((name for name in told if name.endswith("_tuning")), told[0])
        best = mean[shown].idxmax()
        at = dict(zip(names, best if len(names) > 1 else [best], strict=True))
        say(
            f"highest {shown}: {mean[shown].max():.2f} at "
            + ", ".join(f"{n} {v}" for n, v in at.items())
        )
        import matplotlib.pyplot as plt

        from wsss import viz  # slow to import

        figure = viz.sweep_map(mean[shown].reset_index(), names, figure_name=shown)
        figure.savefig(folder / "sweep.png", dpi=150)
        plt.close(figure)
    means = {} if names else {f"mean {name}": mean[name].iloc[0] for name in figures}
    if not names and len(results) > 1:
        told = {f"spread {name}": spread[name].iloc[0] for name in figures}
        means |= {name: value for name, value in told.items() if not np.isnan(value)}
    _record(experiment["name"], names, folder, means, say)
    say(f"written to {folder}")
    return text


def _record(experiment, names, folder, means, say):
    """A run in MLflow with a comparison's files, and over seeds alone the figures' means."""
    journal = Journal(folder, fresh=True)
    when = time.strftime("%Y-%m-%d %H:%M")
    tags = {"wsss.experiment": experiment, "wsss.sweep": "true"} | provenance.tags()
    journal.begin(experiment, f"sweep of {', '.join(names) or 'seeds'} {when}", tags)
    for name in ("sweep.md", "sweep.csv", "sweep.png", "random_walk.json"):
        if (folder / name).exists():
            journal.file(folder / name)
    journal.metrics(means)
    journal.end("FINISHED")
    with delivery.Courier(say) as courier:
        courier.carry(folder)
