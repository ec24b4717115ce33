"""``wsss reproduce``: a recorded stage, run again and compared."""

from wsss.cli.command import add_command
from wsss.cli.project import PROJECT


def _reproduce(arguments):
    from wsss.lab.run import reproduce  # slow to import: only for the command that needs it

    return 0 if reproduce.reproduce(arguments.run, project=PROJECT) else 1


def add(commands):
    command = add_command(
        commands,
        "reproduce",
        _reproduce,
        help="run a recorded stage again and compare",
        description="Run a completed stage again from its record, with its parameters and inputs, "
        "in another folder. Reports differences of code, packages, data and machine, and whether "
        "metrics, files and weights are identical. Exit code 1 if they are not.",
        epilog="example: wsss reproduce outputs/random_walk/0123456789ab",
    )
    command.add_argument("run", help="the stage's folder, or the id of its MLflow run")
