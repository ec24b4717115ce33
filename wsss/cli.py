"""The command line: ``wsss run`` and what belongs to it. Exit code 2 for bad input, 1 for a
failure.
"""

import argparse
import sys

from wsss.errors import InputError


def _run(arguments):
    from wsss import pipeline  # slow to import: only for the command that needs it

    experiment = pipeline.read_experiment(arguments.experiment)
    planned = pipeline.plan(
        experiment,
        pipeline.parse_overrides(arguments.overrides),
        smoke=arguments.smoke,
        force=arguments.force,
        start=arguments.start,
        only=arguments.only,
    )
    if arguments.dry_run:
        print(pipeline.dry_run(planned))
        return
    report = pipeline.run(experiment, planned)
    if report:
        print("\n" + report)
    print("Compare runs: `make ui`, then open http://127.0.0.1:5000")


def parser():
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="wsss", description="From image-level labels to pixel labels."
    )
    commands = top.add_subparsers(title="commands", required=True, metavar="command")
    run = commands.add_parser(
        "run",
        help="run an experiment's stages",
        description="Run the stages of an experiment that are not done yet.",
        epilog="example: wsss run experiments/shapes.yaml random_walk.beta=4",
    )
    run.add_argument("experiment", help="a YAML file, such as experiments/shapes.yaml")
    run.add_argument(
        "overrides",
        nargs="*",
        metavar="stage.parameter=value",
        help="changes to its parameters",
    )
    run.add_argument(
        "--from",
        dest="start",
        metavar="STAGE",
        help="start here; with --force, run again from here",
    )
    run.add_argument("--only", metavar="STAGE", help="run this stage alone")
    run.add_argument("--force", action="store_true", help="run stages again that are done")
    run.add_argument(
        "--smoke",
        action="store_true",
        help="the experiment's smallest size, to see that it runs",
    )
    run.add_argument("--dry-run", action="store_true", help="print the papermill commands and stop")
    run.add_argument("--debug", action="store_true", help="show tracebacks")
    run.set_defaults(action=_run)
    return top


def main(arguments=None):
    """Run a command; returns the exit code."""
    grammar = parser()
    parsed, rest = grammar.parse_known_args(arguments)
    # argparse takes positional arguments in one go: those behind an option come back as a rest
    if any(text.startswith("-") or "=" not in text for text in rest):
        grammar.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        parsed.overrides += rest
    try:
        parsed.action(parsed)
    except InputError as fault:
        if parsed.debug:
            raise
        print(f"wsss: {fault}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("wsss: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except RuntimeError as failure:
        if parsed.debug:
            raise
        print(f"wsss: {failure}", file=sys.stderr)
        return 1
    return 0
