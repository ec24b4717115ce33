"""The command line: ``wsss run``, ``data``, ``weights``, ``export``, ``bench``.

Exit code 2 for bad input, 1 for a failure.
"""

import argparse
import os
import sys

from wsss.errors import InputError


def _run(arguments):
    from wsss import pipeline, sweep  # slow to import: only for the command that needs it

    experiment = pipeline.read_experiment(arguments.experiment)
    single, grid = sweep.split(arguments.overrides)
    overrides = pipeline.parse_overrides(single)
    names = ("smoke", "force", "start", "only", "until")
    options = {name: vars(arguments)[name] for name in names}
    points = sweep.combinations(experiment, grid)
    if arguments.dry_run:
        for point in points:
            print(f"# {point.title}")
            print(pipeline.dry_run(sweep.plan(experiment, point, overrides, **options)))
        if not points:
            print(pipeline.dry_run(pipeline.plan(experiment, overrides, **options)))
        return
    if points:
        report = sweep.run(experiment, points, overrides, **options)
    else:
        report = pipeline.run(experiment, pipeline.plan(experiment, overrides, **options))
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


def _data_small(arguments):
    from wsss.datasets import small

    kit = small.shrink(arguments.source, arguments.root, long_side=arguments.long)
    print(f"{kit.root}: ready; set data_root to it")


def _weights_show(arguments):
    from wsss.models import conversion, load_state

    given = load_state(arguments.file)
    for name, tensor in given.items():
        print(f"{name:50} {'x'.join(map(str, tensor.shape)):20} {str(tensor.dtype)[6:]}")
    print(f"{arguments.file}: {conversion.identify(given, arguments.file).what}")


def _weights_convert(arguments):
    from wsss.models import conversion

    content = conversion.convert(arguments.source, arguments.target)
    print(f"{arguments.source}: {content.what}")
    print(f"{arguments.target}: {len(content.state)} tensors")
    for name, reason in content.skipped.items():
        print(f"left out: {name} ({reason})")


def _export_voc_test(arguments):
    from wsss import voc_server  # slow to import, as above

    given = {name: vars(arguments)[name] for name in ("out", "scales", "flip", "crf")}
    given = {name: value for name, value in given.items() if value}
    checks = arguments.check is not None
    if checks and given:
        raise InputError(f"--{next(iter(given))} belongs to --run; leave it out with --check")
    if checks:
        report = voc_server.check(
            arguments.check, arguments.data_root or ".", split=arguments.split
        )
    elif "out" in given:
        report = voc_server.export(
            arguments.run, data_root=arguments.data_root, split=arguments.split, **given
        )
    else:
        raise InputError("--run needs a folder to write to; add --out DIR")
    for line in [*(f"warning: {line}" for line in report.warnings), *report.faults]:
        print(line)
    if report.faults:
        return 2
    print(f"sound: {report.count} label maps")


def _bench(arguments):
    from wsss import bench  # slow to import, as above

    folder = bench.run(arguments.only, repeats=arguments.repeats, out=arguments.out)
    print("\n" + (folder / "bench.md").read_text())
    print(f"{folder}: bench.md, bench.json, bench.png; also in MLflow's experiment `bench`")


def _scales(text):
    try:
        scales = tuple(float(factor) for factor in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0 < factor < 10 for factor in scales):
        raise argparse.ArgumentTypeError(f"expected factors such as 0.5,1.0 but got {text!r}")
    return scales


def parser():
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="wsss", description="From image-level labels to pixel labels."
    )
    commands = top.add_subparsers(title="commands", required=True, metavar="command")
    _add_run(commands)
    data = commands.add_parser("data", help="make a dataset ready that you have downloaded")
    datasets = data.add_subparsers(title="datasets", required=True, metavar="dataset")
    _add_data_voc12(datasets)
    _add_data_small(datasets)
    weights = commands.add_parser("weights", help="read other people's weight files")
    _add_weights(weights.add_subparsers(title="commands", required=True, metavar="command"))
    exports = commands.add_parser("export", help="write results in the form that others expect")
    _add_voc_test(exports.add_subparsers(title="what to export", required=True, metavar="what"))
    _add_bench(commands)
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
        help="changes to its parameters; several values, as in random_walk.beta=4,8,16, run it at "
        "each and compare",
    )
    run.add_argument(
        "--from",
        dest="start",
        metavar="STAGE",
        help="start here; with --force, run again from here",
    )
    run.add_argument("--only", metavar="STAGE", help="run this stage alone")
    run.add_argument("--until", metavar="STAGE", help="stop after this stage")
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


def _add_data_small(datasets):
    small = _command(
        datasets,
        "small",
        _data_small,
        help="a devkit with fewer pixels, to try things on",
        description="Copy a devkit with its photos and masks made smaller: half the side is a "
        "quarter of the work. Its scores belong to it alone.",
        epilog="example: wsss data small --from ../shared/voc-sample --root data/voc-sample-250 "
        "--long 250",
    )
    small.add_argument("--from", dest="source", required=True, metavar="DIR", help="a devkit")
    small.add_argument("--root", required=True, metavar="DIR", help="the folder to write")
    small.add_argument("--long", type=int, required=True, metavar="PIXELS", help="of the long side")


def _add_weights(commands):
    show = _command(
        commands,
        "show",
        _weights_show,
        help="list a file's tensors and say what it is",
        epilog="example: wsss weights show ilsvrc-cls_rna-a1_cls1000_ep-0001.params",
    )
    show.add_argument("file", help="MXNet's .params, a .caffemodel, or torch's .pth")
    convert = _command(
        commands,
        "convert",
        _weights_convert,
        help="write a file's tensors in the layout of this project",
        epilog="example: wsss weights convert res38_cls.pth weights/res38_cls.pt",
    )
    convert.add_argument("source", help="MXNet's .params, a .caffemodel, or torch's .pth")
    convert.add_argument("target", help="the file to write; one that exists is left alone")


def _add_voc_test(exports):
    command = _command(
        exports,
        "voc-test",
        _export_voc_test,
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


def _add_bench(commands):
    bench = _command(
        commands,
        "bench",
        _bench,
        help="time the hot steps beside their plain definitions",
        description="Run each hot step and its plain definition in turns; tell time, memory and "
        "the difference of their results.",
        epilog='example: wsss bench --only "random walk"',
    )
    bench.add_argument("--only", default="", metavar="TEXT", help="pairs whose name holds this")
    bench.add_argument(
        "--repeats", type=int, default=7, metavar="N", help="of each way, fewer of slow ones (7)"
    )
    bench.add_argument("--out", metavar="DIR", help="folder for table and plot (outputs/bench)")


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
        code = parsed.action(parsed) or 0
        sys.stdout.flush()  # while a closed pipe can still be caught
        return code
    except InputError as fault:
        if parsed.debug:
            raise
        print(f"wsss: {fault}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("wsss: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except RuntimeError as failure:
        if parsed.debug:
            raise
        print(f"wsss: {failure}", file=sys.stderr)
        return 1
