"""``wsss forecast``: what an experiment will cost."""

import sys

from wsss.cli.command import add_command, count, positive
from wsss.cli.project import PROJECT

OLD_NAME = "plan"  # that this command had in 0.1


def _forecast(arguments):
    import shlex

    import torch

    from wsss import datasets
    from wsss.cost import forecast  # slow to import
    from wsss.lab import paths, plan
    from wsss.runtime.devices import cores

    if arguments.command == OLD_NAME:
        print("wsss plan is now wsss forecast; the old name will be removed", file=sys.stderr)
    experiment = plan.read_experiment(arguments.experiment)
    planned = plan.plan(experiment, plan.parse_overrides(arguments.overrides), project=PROJECT)
    values = planned[0].values
    data = datasets.open(values["dataset"], paths.from_root(values["data_root"]))
    scenario = forecast.Scenario(
        arguments.photos or len(forecast.trained_on(planned, data)),
        arguments.classes or len(data.classes),
        arguments.cpus or cores(),
        torch.cuda.device_count() if arguments.gpus is None else arguments.gpus,
    )
    forecasts = forecast.forecast(planned, data, scenario=scenario)
    command = shlex.join([arguments.experiment, *arguments.overrides])
    print(forecast.summary(command, planned, data=data, scenario=scenario, forecasts=forecasts))


def add(commands):
    command = add_command(
        commands,
        "forecast",
        _forecast,
        aliases=[OLD_NAME],
        help="forecast what an experiment will cost",
        description="Hours, disk and memory of each stage for more photos, from completed runs "
        "with the same parameters: runs at two sizes separate what is fixed from what grows, one "
        "gives an upper bound. Nothing is run.",
        epilog="example: wsss forecast experiments/shapes.yaml --photos 82000 --classes 80 "
        "--cpus 128",
    )
    command.add_argument("experiment", help="a YAML file, such as experiments/shapes.yaml")
    command.add_argument(
        "overrides", nargs="*", metavar="stage.parameter=value", help="changes to its parameters"
    )
    command.add_argument(
        "--photos",
        type=positive,
        metavar="N",
        help="to train on, like those of the dataset; its other lists grow alike (those there are)",
    )
    command.add_argument("--classes", type=positive, metavar="N", help="(those of the dataset)")
    command.add_argument("--cpus", type=positive, metavar="N", help="in all (this machine's)")
    command.add_argument("--gpus", type=count, metavar="N", help="in all (this machine's)")
