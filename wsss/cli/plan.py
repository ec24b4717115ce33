"""``wsss plan``: what an experiment will cost."""

from wsss.cli.command import add_command, count, positive
from wsss.cli.project import PROJECT


def _plan(arguments):
    import shlex

    import torch

    from wsss import datasets
    from wsss.cost import forecast  # slow to import
    from wsss.lab import paths, plan
    from wsss.runtime.devices import cores

    experiment = plan.read_experiment(arguments.experiment)
    planned = plan.plan(experiment, plan.parse_overrides(arguments.overrides), project=PROJECT)
    place = planned[0].values
    data = datasets.open(place["dataset"], paths.from_root(place["data_root"]))
    asked = forecast.Asked(
        arguments.photos or forecast.trained_on(planned, data),
        arguments.classes or len(data.classes),
        arguments.cpus or cores(),
        torch.cuda.device_count() if arguments.gpus is None else arguments.gpus,
    )
    forecasts = forecast.forecast(planned, data, asked)
    command = shlex.join([arguments.experiment, *arguments.overrides])
    print(forecast.told(command, planned, data, asked, forecasts))


def add(commands):
    command = add_command(
        commands,
        "plan",
        _plan,
        help="say what an experiment will cost",
        description="Hours, disk and memory of each stage for more photos, scaled from completed "
        "runs of the same parameters on some of them: two sizes tell what is fixed and what grows, "
        "one gives an upper bound. Nothing is run.",
        epilog="example: wsss plan experiments/shapes.yaml --photos 82000 --classes 80 --cpus 128",
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
