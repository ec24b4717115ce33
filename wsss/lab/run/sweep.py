"""Run an experiment at every point of a grid and compare the scores.

Points share stages by fingerprint, so what they have in common runs once. Where the project can
score many settings of the last stage in one pass (``Project.one_pass``), it does.
"""

from functools import partial

from wsss.errors import InputError
from wsss.lab import paths, results
from wsss.lab.plan import Planned
from wsss.lab.project import Project, Say
from wsss.lab.run import driver, notebook
from wsss.lab.run.comparison import compare
from wsss.lab.run.grid import Combination, plan_point
from wsss.lab.run.parallel_runs import ParallelRuns
from wsss.runtime.progress import Screen


class SweepFailed(RuntimeError):
    """Points of a sweep failed; the message names them, with the reasons."""


def run(
    experiment: dict,
    points: list[Combination],
    *,
    overrides: dict,
    project: Project,
    jobs: int = 1,
    gpus_per_job: int = 0,
    say: Say = print,
    **options,
) -> str:
    """Run an experiment at every point, whatever of it is not done yet; returns the comparison as
    Markdown. It and its figure are also in ``outputs/sweeps/`` and in MLflow.

    ``overrides`` are of all points, ``options`` those of ``plan.plan``. Raises InputError if a
    point cannot be planned, the disk is too small for all, or points failed by their input, and
    SweepFailed if points failed otherwise; the others are done.
    """
    if options.get("force"):
        raise InputError("--force would run again what points have in common; leave it out")
    names = list(points[0].names)
    given = [overrides, bool(options.get("smoke"))]
    report = partial(compare, experiment, names=names, given=given, project=project, say=say)
    options |= {"overrides": overrides, "project": project}
    plan_at = partial(plan_point, experiment, **options)
    first = plan_at(points[0])
    if isinstance(score := _one_pass(points, first, project), str):
        say(score)
    elif score:
        rows, common = _score_in_one_pass(experiment, points, first, score, project, say)
        return report(rows, common=common)
    # every point is checked before anything runs
    planned = [first, *map(plan_at, points[1:])]
    runs = ParallelRuns(planned, jobs=jobs, gpus_per_job=gpus_per_job, say=say)
    each = [*{item.fingerprint: item for items in planned for item in items}.values()]
    project.check_values([item for item in each if not item.done])
    project.check_room(each, paths.outputs_root())
    ran: dict[int, list[Planned]] = {}

    def work(place, machine):
        point, left = points[place], runs.time_left()
        runs.screen.say(f"({place + 1}/{len(points)}) {point.title}{left and f', {left}'}")
        # planned again: an earlier point may have finished some of its stages
        ran[place] = items = plan_at(point)
        # if only parameters differ, their values name the run
        named = "variant" in point.names or point.seed is not None
        title = point.title if named else ""
        driver.run(experiment, items, project=project, title=title, machine=machine)

    if faults := runs.run(work):
        _fail(points, faults)
    rows, scored = [], {stage for stage, _ in project.scores.values()}
    for place, point in enumerate(points):
        record = results.completed(ran[place][-1].folder)
        origins = {"seed": point.seed, "data": record["data_digest"]}
        origins |= {item.name: item.fingerprint for item in ran[place] if item.name in scored}
        rows.append(point.names | origins | _scores(ran[place], project))
    if len({row["data"] for row in rows}) > 1:  # scores on other data get rows of their own
        names.append("data")
    return report(rows)


def dry_run(
    experiment: dict, points: list[Combination], *, overrides: dict, project: Project, **options
) -> str:
    """The papermill commands that ``run`` would give, as in ``notebook.dry_run``."""
    plan_at = partial(plan_point, experiment, overrides=overrides, project=project, **options)
    first = plan_at(points[0])
    if callable(_one_pass(points, first, project)):
        note = f"# {first[-1].name}: {len(points)} combinations in one pass, without its notebook"
        return "\n".join(filter(None, [notebook.dry_run(first[:-1]), note]))
    texts = [notebook.dry_run(items) for items in (first, *map(plan_at, points[1:]))]
    return "\n".join(f"# {point.title}\n{text}" for point, text in zip(points, texts, strict=True))


def _fail(points, faults):
    """Raise one exception for the points that failed, with each reason once."""
    titles_of = {}
    for place, fault in sorted(faults.items()):
        titles_of.setdefault(str(fault), []).append(points[place].title)
    reasons = "; ".join(f"{' | '.join(titles)}: {reason}" for reason, titles in titles_of.items())
    bad = all(isinstance(fault, InputError) for fault in faults.values())
    kind = InputError if bad else SweepFailed
    failed = f"{len(faults)} of {len(points)} points failed"
    raise kind(f"{failed}, the others are done: {reasons}") from faults[min(faults)]


def _one_pass(points, planned, project):
    """``Project.one_pass`` if points differ in nothing but the last stage's parameters."""
    last = planned[-1]
    swept = [name.partition(".") for point in points for name in point.names]
    seeds = any(point.seed is not None for point in points)
    if seeds or any(stage != last.name for stage, _, _ in swept):
        return None
    return project.one_pass(last.name, last.values, {parameter for _, _, parameter in swept})


def _score_in_one_pass(experiment, points, planned, score, project, say):
    """Rows for the comparison, from one pass over the data; and the parameters in common."""
    *before, last = planned
    # every point is checked before anything runs
    values = [last.stage.resolve(last.values | each.overrides[last.name]) for each in points]
    project.check_values([item for item in planned if not item.done])
    if not all(item.done for item in before):
        machine = notebook.Machine(Screen(say=say))
        driver.run(experiment, before, project=project, machine=machine)
    say(f"{len(points)} settings of {last.name} in one pass")
    shared = {"seed": None} | _scores(before, project)
    pairs = zip(points, score(values), strict=True)
    rows = [point.names | shared | metrics for point, metrics in pairs]
    swept = {name.partition(".")[2] for name in points[0].names}
    return rows, {name: value for name, value in last.values.items() if name not in swept}


def _scores(planned, project):
    """The compared scores of completed stages, on every list they were measured on."""
    found = {}
    for item in planned:
        metrics = results.completed(item.folder)["metrics"]
        found |= {k: v for k, v in metrics.items() if k.split("/")[0] in project.scores}
    return found
