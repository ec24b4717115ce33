"""``wsss export``: results in the form that others expect."""

from wsss.cli.command import add_command, scales
from wsss.errors import InputError


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


def add(commands):
    export = commands.add_parser("export", help="write results in the form that others expect")
    exports = export.add_subparsers(title="what to export", required=True, metavar="what")
    _add_voc_test(exports)


def _add_voc_test(exports):
    command = add_command(
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
        type=scales,
        metavar="FACTORS",
        help="of the photo's size, averaged, such as 0.5,1.0 (1.0)",
    )
    command.add_argument("--flip", action="store_true", help="average with the mirrored photo")
    command.add_argument("--crf", action="store_true", help="dense CRF on the result")
