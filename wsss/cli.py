"""The command line: ``wsss run`` and ``wsss data``. Exit code 2 for bad input, 1 for a failure."""

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


def _data_voc12(arguments):
    from wsss.datasets import voc12

    report = voc12.prepare(
        arguments.root, voc=arguments.voc, sbd=arguments.sbd, any_digest=arguments.any_digest
    )
    print(voc12.table(report))
    if report.lacking:
        names = " and ".join(download.archive for download in report.lacking)
        raise InputError(
            f"{arguments.root}: expected what {names} holds but it is not all there; the lines "
            "above say what is missing and where to get it"
        )


def parser():
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="wsss", description="From image-level labels to pixel labels."
    )
    commands = top.add_subparsers(title="commands", required=True, metavar="command")
    _add_run(commands)
    data = commands.add_parser("data", help="make a dataset ready that you have downloaded")
    _add_data_voc12(data.add_subparsers(title="datasets", required=True, metavar="dataset"))
    return top


def _command(commands, name, action, **texts):
    """Add a command with what all of them have."""
    command = commands.add_parser(name, **texts)
    command.add_argument("--debug", action="store_true", help="show tracebacks")
    command.set_defaults(action=action)
    return command


def _add_run(commands):
    run = _command(
        commands,
        "run",
        _run,
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


def _add_data_voc12(datasets):
    voc12 = _command(
        datasets,
        "voc12",
        _data_voc12,
        help="PASCAL VOC 2012 with the masks of SBD",
        description="Make one devkit folder of VOC 2012 and SBD: masks, id lists, image labels. "
        "Nothing is downloaded; what is done already is left alone.",
        epilog="example: wsss data voc12 --root data/voc12 --voc VOCtrainval_11-May-2012.tar "
        "--sbd benchmark.tgz",
    )
    voc12.add_argument("--root", required=True, metavar="DIR", help="the folder to make ready")
    for option, name in (("--voc", "VOCtrainval_11-May-2012.tar"), ("--sbd", "benchmark.tgz")):
        voc12.add_argument(
            option, metavar="PATH", help=f"{name}, or a folder of it; without: what is in DIR"
        )
    voc12.add_argument(
        "--any-digest",
        action="store_true",
        help="take archives with another MD5 than the published one, as some mirrors repack them",
    )


def main(arguments=None):
    """Run a command; returns the exit code."""
    grammar = parser()
    parsed, rest = grammar.parse_known_args(arguments)
    # argparse takes positional arguments in one go: those behind an option come back as a rest
    fits = hasattr(parsed, "overrides") and all(
        not text.startswith("-") and "=" in text for text in rest
    )
    if rest and not fits:
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
