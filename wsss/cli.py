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


def _weights_show(arguments):
    from wsss.models import conversion, load_state

    for name, tensor in load_state(arguments.file).items():
        print(f"{name:50} {'x'.join(map(str, tensor.shape)):20} {str(tensor.dtype)[6:]}")
    content = conversion.identify(arguments.file)
    print(f"{arguments.file}: {content.what}")


def _weights_convert(arguments):
    from wsss.models import conversion

    content = conversion.convert(arguments.source, arguments.target)
    print(f"{arguments.source}: {content.what}")
    print(f"{arguments.target}: {len(content.state)} tensors")
    for name, reason in content.skipped.items():
        print(f"left out: {name} ({reason})")


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
    weights = commands.add_parser("weights", help="read other people's weight files")
    weights = weights.add_subparsers(title="commands", required=True, metavar="command")
    show = weights.add_parser(
        "show",
        help="list a file's tensors and say what it is",
        epilog="example: wsss weights show ilsvrc-cls_rna-a1_cls1000_ep-0001.params",
    )
    show.add_argument("file", help="MXNet's .params, a .caffemodel, or torch's .pth")
    show.set_defaults(action=_weights_show)
    convert = weights.add_parser(
        "convert",
        help="write a file's tensors in the layout of this project",
        epilog="example: wsss weights convert res38_cls.pth weights/res38_cls.pt",
    )
    convert.add_argument("source", help="MXNet's .params, a .caffemodel, or torch's .pth")
    convert.add_argument("target", help="the file to write; one that exists is left alone")
    convert.set_defaults(action=_weights_convert)
    for command in (show, convert):
        command.add_argument("--debug", action="store_true", help="show tracebacks")
    return top


def main(arguments=None):
    """Run a command; returns the exit code."""
    grammar = parser()
    parsed, rest = grammar.parse_known_args(arguments)
    # argparse takes positional arguments in one go: those behind an option come back as a rest
    takes_overrides = hasattr(parsed, "overrides")
    if any(text.startswith("-") or "=" not in text or not takes_overrides for text in rest):
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
