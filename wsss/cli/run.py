"""``wsss run``: an experiment's stages."""

import importlib.util
from typing import Any

from wsss.cli.command import add_command, count, positive
from wsss.cli.project import PROJECT
from wsss.errors import InputError


def _run(arguments):
    from wsss.lab import plan
    from wsss.lab.run import driver, grid, notebook, sweep

    experiment = plan.read_experiment(arguments.experiment)
    single, several = grid.split_overrides(arguments.overrides)
    overrides = plan.parse_overrides(single)
    names = ("smoke", "force", "start", "only", "until", "trust_code")
    options: dict[str, Any] = {name: vars(arguments)[name] for name in names}
    options["project"] = PROJECT
    points = grid.combinations(experiment, several)
    if arguments.jobs > 1 and not points:
        raise InputError(
            f"--jobs {arguments.jobs}: expected several combinations but there is one; give a "
            "parameter several values, or seeds=0,1,2"
        )
    if arguments.dry_run:
        if points:
            print(sweep.dry_run(experiment, points, overrides=overrides, **options))
        else:
            print(notebook.dry_run(plan.plan(experiment, overrides, **options)))
        return
    _choose_engine(arguments.engine, arguments.address, mirror=arguments.mirror)
    if points:
        shared = {"jobs": arguments.jobs, "gpus_per_job": arguments.gpus_per_job}
        report = sweep.run(experiment, points, overrides=overrides, **shared, **options)
    else:
        report = driver.run(
            experiment, plan.plan(experiment, overrides, **options), project=PROJECT
        )
    if report:
        print("\n" + report)
    print("Compare runs: `make ui`, then open http://127.0.0.1:5000")


def _choose_engine(name, address, *, mirror):
    """Start the engine that photos and trainings run on."""
    from wsss.runtime import engine

    if name == "processes":
        for option, given in (("--address", address), ("--mirror", mirror)):
            if given:
                raise InputError(f"{option} {given}: is a Ray cluster's; add --engine ray")
        engine.choose()
        return
    if importlib.util.find_spec("ray") is None:
        raise InputError("--engine ray: Ray is not installed; pip install 'wsss[cluster]'")
    from wsss.cluster import session  # needs Ray

    session.start(address, mirror)


def add(commands):
    run = add_command(
        commands,
        "run",
        _run,
        help="run an experiment's stages",
        description="Run the stages of an experiment that are not done yet.",
        epilog="examples: wsss run experiments/shapes.yaml random_walk.beta=4; wsss run "
        "experiments/shapes.yaml random_walk.beta=4,8,16 seeds=0,1,2 --jobs 2",
    )
    run.add_argument("experiment", help="a YAML file, such as experiments/shapes.yaml")
    run.add_argument(
        "overrides",
        nargs="*",
        metavar="stage.parameter=value",
        help="changes to its parameters; several values, as in random_walk.beta=4,8,16, run it at "
        "each and compare; seeds=0,1,2 runs it with each seed, train_segmentation.seeds=0,1,2 from "
        "that stage on",
    )
    run.add_argument(
        "--from",
        dest="start",
        metavar="STAGE",
        help="start here; with --force, run again from here",
    )
    run.add_argument("--only", metavar="STAGE", help="run this stage alone")
    run.add_argument("--until", metavar="STAGE", help="stop after this stage")
    run.add_argument(
        "--jobs",
        type=positive,
        default=1,
        metavar="N",
        help="run so many combinations at the same time, each with its share of the cores",
    )
    run.add_argument(
        "--gpus-per-job",
        type=count,
        default=0,
        metavar="G",
        help="GPUs of each job's own; with several jobs on a machine with GPUs, 1 by default",
    )
    run.add_argument("--force", action="store_true", help="run stages again that are done")
    run.add_argument(
        "--trust-code",
        action="store_true",
        help="reuse results that other code computed; MLflow marks these runs",
    )
    run.add_argument(
        "--smoke",
        action="store_true",
        help="the experiment's smallest size, to see that it runs",
    )
    run.add_argument(
        "--engine",
        choices=("processes", "ray"),
        default="processes",
        help="what works on photos: processes of this machine (default), or a Ray cluster",
    )
    run.add_argument(
        "--address", help="of the Ray cluster, HOST:PORT; without it, the one this machine is in"
    )
    run.add_argument(
        "--mirror",
        metavar="URL",
        help="where the cluster's machines find files if they see no folder in common, such as "
        "s3://BUCKET/wsss",
    )
    run.add_argument("--dry-run", action="store_true", help="print the papermill commands and stop")
