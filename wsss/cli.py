"""The command line: ``wsss run``, ``wsss export``. Exit code 2 for bad input, 1 for a failure."""

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


def _export_voc_test(arguments):
    from wsss import voc_test  # slow to import, as above

    given = {name: vars(arguments)[name] for name in ("out", "scales", "flip", "crf")}
    given = {name: value for name, value in given.items() if value}
    checks = arguments.check is not None
    if checks and given:
        raise InputError(f"--{next(iter(given))} belongs to --run; leave it out with --check")
    if checks:
        report = voc_test.check(arguments.check, arguments.data_root or ".", split=arguments.split)
    elif "out" in given:
        report = voc_test.export(
            arguments.run, data_root=arguments.data_root, split=arguments.split, **given
        )
    else:
        raise InputError("--run needs a folder to write to; add --out DIR")
    for line in [*(f"warning: {line}" for line in report.warnings), *report.faults]:
        print(line)
    if report.faults:
        return 2
    print(f"sound: {report.count} label maps")


def _scales(text):
    try:
        scales = tuple(float(factor) for factor in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0 < factor < 10 for factor in scales):
        raise argparse.ArgumentTypeError(f"expected factors such as 0.5,1.0 but got {text!r}")
    return scales


def _add_run(commands):
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
    _finish(run, _run)


def _add_voc_test(exports):
    command = exports.add_parser(
        "voc-test",
        help="label maps for the PASCAL VOC evaluation server",
        description="Predict the test photos and pack them for the PASCAL VOC evaluation server, "
        "or check any archive that is to be uploaded there.",
        epilog="example: wsss export voc-test --run outputs/train_segmentation/0123456789ab "
        "--out voc-test --scales 0.5,1.0 --flip",
    )
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", metavar="FOLDER", help="of a completed train_segmentation")
    what.add_argument("--check", metavar="ARCHIVE", help="a .tgz or .tar, made by anyone")
    command.add_argument("--out", metavar="DIR", help="folder for results/ and results.tgz")
    command.add_argument(
        "--data-root",
        metavar="DIR",
        help="devkit folder; otherwise the run's own, or with --check the current folder",
    )
    command.add_argument("--split", default="test", help="id list (test)")
    command.add_argument(
        "--scales",
        type=_scales,
        metavar="FACTORS",
        help="of the photo's size, averaged, such as 0.5,1.0 (1.0)",
    )
    command.add_argument("--flip", action="store_true", help="average with the mirrored photo")
    command.add_argument("--crf", action="store_true", help="dense CRF on the result")
    _finish(command, _export_voc_test)


def _finish(command, action):
    """What every command has, since ``main`` reads it."""
    command.add_argument("--debug", action="store_true", help="show tracebacks")
    command.set_defaults(action=action)


def parser():
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="wsss", description="From image-level labels to pixel labels."
    )
    commands = top.add_subparsers(title="commands", required=True, metavar="command")
    _add_run(commands)
    exports = commands.add_parser(
        "export", help="write results in the form that others expect"
    ).add_subparsers(title="what to export", required=True, metavar="what")
    _add_voc_test(exports)
    return top


def main(arguments=None):
    """Run a command; returns the exit code."""
    grammar = parser()
    parsed, rest = grammar.parse_known_args(arguments)
    # argparse takes positional arguments in one go: those behind an option come back as a rest
    overrides = [text for text in rest if "=" in text and not text.startswith("-")]
    if rest and ("overrides" not in parsed or overrides != rest):
        grammar.error(f"unrecognized arguments: {' '.join(rest)}")
    if overrides:
        parsed.overrides += overrides
    try:
        return parsed.action(parsed) or 0
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
