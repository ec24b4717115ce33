"""``wsss run``, ``runs``, ``forecast``, ``reproduce`` and ``bench``: experiments, their results and
what they cost.
"""

import importlib.util
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from wsss.cli.command import RUN, add_command, count, positive, say_next
from wsss.errors import InputError
from wsss.lab import paths, stages

OLD_FORECAST = "plan"  # the name of ``forecast`` in 0.1
REPOSITORY = Path(__file__).parents[2]


def _run(arguments):
    """Run an experiment's stages that are not done yet.

    examples: wsss run experiments/shapes.yaml random_walk.beta=4; wsss run experiments/shapes.yaml
    random_walk.beta=4,8,16 seeds=0,1,2 --jobs 2
    """
    from wsss.cli.project import PROJECT  # slow to import
    from wsss.lab import plan
    from wsss.lab.record import mlflow_pages
    from wsss.lab.run import driver, grid, notebook, sweep

    experiment = plan.read_experiment(arguments.experiment)
    single, several = grid.split_overrides(arguments.overrides)
    overrides = plan.parse_overrides(single)
    names = ("smoke", "force", "start", "only", "until", "trust_code")
    options: dict[str, Any] = {"project": PROJECT} | {n: vars(arguments)[n] for n in names}
    points = grid.combinations(experiment, several)
    if arguments.jobs > 1 and not points:
        fix = "give a parameter several values, or seeds=0,1,2"
        expected = f"expected several combinations but got one; {fix}"
        raise InputError(f"--jobs {arguments.jobs}: {expected}")
    if arguments.dry_run:
        if points:
            print(sweep.dry_run(experiment, points, overrides=overrides, **options))
        else:
            print(notebook.dry_run(plan.plan(experiment, overrides, **options)))
            words = shlex.join([arguments.experiment, *arguments.overrides])
            print(f"# how long, and how much disk and memory: wsss forecast {words}")
        return
    _choose_engine(arguments.engine, arguments.address, mirror=arguments.mirror)
    if points:
        options |= {"jobs": arguments.jobs, "gpus_per_job": arguments.gpus_per_job}
        print(f"\n{sweep.run(experiment, points, overrides=overrides, **options)}")
        following = ["wsss runs"]
    else:
        planned = plan.plan(experiment, overrides, **options)
        if report := driver.run(experiment, planned, project=PROJECT):
            print(f"\n{report}")
        following = _show_results(planned)
    say_next(*following, f"make ui    # compare runs on {mlflow_pages.address(experiment['name'])}")


def _show_results(planned):
    """Print where the results of the stages are; returns commands that use them."""
    from wsss.cli.project import RESULTS

    for item in planned:
        last = {item.name: ""} if item is planned[-1] else {}
        for title, name in RESULTS.get(item.name, last).items():
            if (path := item.folder / name).exists():
                print(f"{title + ':':9} {paths.shown(path)}")
    texts = {
        "random_walk": "wsss label DIR --run {} --out labelled",
        "train_segmentation": "wsss predict DIR --network {} --out predicted",
    }
    done = [item for item in planned if item.name in texts]
    return [texts[item.name].format(item.folder.name[:8]) for item in done]


def _runs(arguments):
    """List completed runs, the newest first.

    Any of them can be given as --run or the like: by its folder, the first characters of its id,
    its experiment, or latest.

    example: wsss runs random_walk
    """
    from wsss.cli.project import PROJECT  # slow to import
    from wsss.lab.record import find_runs, mlflow_pages

    rows = [["stage", "experiment", "score", "age", "folder"]]
    for run in find_runs.completed(arguments.stage or ""):
        scores = mlflow_pages.headlines(run.record["metrics"], PROJECT.scores)
        score = [f"{name.partition(' ')[2]} {value:.1f}" for name, value in scores.items()][-1:]
        age, folder = find_runs.age(run.record["ended"]), paths.shown(run.folder)
        texts = [run.stage, ", ".join(run.experiments), *(score or [""]), age, folder]
        rows.append([text or "-" for text in texts])
    if len(rows) == 1:
        print(f"no completed runs in {paths.outputs_root() / (arguments.stage or '')}")
        say_next("wsss run experiments/shapes.yaml")
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    walk = "wsss label DIR --run latest --out labelled"
    walks = [walk] if any(row[0] == "random_walk" for row in rows) else []
    say_next(*walks, f"wsss reproduce {rows[1][-1]}    # or the first characters of its id")


def _choose_engine(name, address, *, mirror):
    """Start the engine that photos and trainings run on."""
    from wsss.runtime import engine

    if name == "ray":
        if importlib.util.find_spec("ray") is None:
            raise InputError("--engine ray: Ray is not installed; pip install 'wsss[cluster]'")
        from wsss.cluster import session  # needs Ray

        session.start(address, mirror)
        return
    for option, given in (("--address", address), ("--mirror", mirror)):
        if given:
            raise InputError(f"{option} {given}: is a Ray cluster's; add --engine ray")
    engine.choose()


def _forecast(arguments):
    """Forecast hours, disk and memory of an experiment's stages, for more photos.

    Takes completed runs with the same parameters: runs at two sizes separate fixed from growing
    costs, one gives an upper bound. Runs nothing.

    example: wsss forecast experiments/shapes.yaml --photos 82000 --classes 80 --cpus 128
    """
    import torch

    from wsss.cli.project import PROJECT, open_data
    from wsss.cost import forecast
    from wsss.lab import plan
    from wsss.runtime.devices import cores

    if arguments.command == OLD_FORECAST:
        print("wsss plan is now wsss forecast; the old name will be removed", file=sys.stderr)
    experiment = plan.read_experiment(arguments.experiment)
    planned = plan.plan(experiment, plan.parse_overrides(arguments.overrides), project=PROJECT)
    data = open_data(planned[0].values)
    scenario = forecast.Scenario(
        arguments.photos or len(forecast.trained_on(planned, data)),
        arguments.classes or len(data.classes),
        arguments.cpus or cores(),
        torch.cuda.device_count() if arguments.gpus is None else arguments.gpus,
    )
    command = shlex.join([arguments.experiment, *arguments.overrides])
    print(forecast.summary(command, planned, data, scenario=scenario))
    say_next(f"wsss run {command}")


def _reproduce(arguments):
    """Run a completed stage again from its record, in a folder of its own, and compare.

    Reports changes of code, packages, data and machine, and whether figures, files and weights are
    the same. Exit code 1 if they are not.

    example: wsss reproduce latest
    """
    from wsss.cli.project import PROJECT  # slow to import
    from wsss.lab.run import reproduce

    return 0 if reproduce.reproduce(arguments.run, project=PROJECT) else 1


def _bench(arguments):
    """Time the hot steps of the method.

    example: wsss bench --only walk
    """
    if not (REPOSITORY / "benchmarks").is_dir():
        fix = "run `make bench` in the repository of wsss"
        raise InputError(f"{REPOSITORY}: no benchmarks/; {fix}")
    command = [sys.executable, "-m", "benchmarks", "--only", arguments.only]
    return subprocess.call(command, cwd=REPOSITORY)


def add(commands):
    run = add_command(commands, "run", _run)
    forecast = add_command(commands, "forecast", _forecast, aliases=[OLD_FORECAST])
    one = "changes to its parameters"
    several = (
        f"{one}; several values, as in random_walk.beta=4,8,16, run it at each and compare; "
        "seeds=0,1,2 runs it with each seed, train_segmentation.seeds=0,1,2 from that stage on"
    )
    for command, changes in ((run, several), (forecast, one)):
        command.add_argument("experiment", help="a YAML file, such as experiments/shapes.yaml")
        command.add_argument("overrides", nargs="*", metavar="stage.parameter=value", help=changes)
    add, start = run.add_argument, "start here; with --force, run again from here"
    add("--from", dest="start", metavar="STAGE", help=start)
    add("--only", metavar="STAGE", help="run this stage alone")
    add("--until", metavar="STAGE", help="stop after this stage")
    jobs = "combinations to run at the same time, each with its share of the cores; default: 1"
    add("--jobs", type=positive, default=1, metavar="N", help=jobs)
    gpus = "GPUs of each job's own; default: 1 with several jobs on a machine with GPUs, else all"
    add("--gpus-per-job", type=count, default=0, metavar="G", help=gpus)
    add("--force", action="store_true", help="run stages again that are done")
    trust = "reuse results that other code computed; MLflow marks these runs"
    add("--trust-code", action="store_true", help=trust)
    add("--smoke", action="store_true", help="the smallest size, to see that it runs")
    engine = "what computes photos: processes here, or a Ray cluster; default: processes"
    add("--engine", choices=("processes", "ray"), default="processes", help=engine)
    add("--address", help="HOST:PORT of the Ray cluster; default: this machine's")
    mirror = "storage for files that the cluster's machines do not share, such as s3://BUCKET/wsss"
    add("--mirror", metavar="URL", help=mirror)
    add("--dry-run", action="store_true", help="print the papermill commands and stop")

    known: list[str] = []
    with suppress(InputError):  # outside a project
        known, root = [*stages.read_stages()], paths.project_root() / "experiments"
        files = sorted(path.name for path in root.glob("*.yaml"))
        listed = f"stages: {', '.join(known)}\nexperiments: {', '.join(files)}"
        run.epilog = f"{listed}\n\n{run.epilog}"

    add = add_command(commands, "runs", _runs).add_argument
    add("stage", nargs="?", choices=known, metavar="STAGE", help="of this one alone")

    photos = "training photos; the other id lists grow by the same factor; default: the dataset's"
    forecast.add_argument("--photos", type=positive, metavar="N", help=photos)
    forecast.add_argument("--classes", type=positive, metavar="N", help="default: the dataset's")
    here = "in all; default: this machine's"
    forecast.add_argument("--cpus", type=positive, metavar="N", help=here)
    forecast.add_argument("--gpus", type=count, metavar="N", help=here)

    add = add_command(commands, "reproduce", _reproduce).add_argument
    add("run", help=f"a completed stage: {RUN}")

    add = add_command(commands, "bench", _bench).add_argument
    add("--only", default="", metavar="TEXT", help="pairs whose name contains this")
