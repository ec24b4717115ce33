"""``wsss export``: results in the form that others expect."""

from wsss.cli.command import add_command, scales
from wsss.errors import InputError


def _export_voc_test(arguments):
    from wsss.apply import voc_server  # slow to import

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
        archive = arguments.check if checks else f"{arguments.out}/results.tgz"
        more = len(report.faults) - 1
        raise InputError(
            f"{archive}: {report.faults[0]}" + (f" (and {more} more, above)" if more else "")
        )
    print(f"sound: {report.count} label maps")


def _export_network(arguments):
    from wsss.apply import find_networks, onnx_export  # slow to import

    write = onnx_export.to_onnx if arguments.format == "onnx" else onnx_export.to_torch
    difference = write(find_networks.network_file(arguments.run, "segmentation"), arguments.out)
    print(f"{arguments.out}: {difference}")


def add(commands):
    export = commands.add_parser("export", help="write results in the form that others expect")
    exports = export.add_subparsers(title="what to export", required=True, metavar="what")
    _add_voc_test(exports)
    _add_network(exports, "onnx", "network.onnx", "ONNX, for any of its runtimes")
    _add_network(exports, "torch", "network.pt2", "torch's exported program, to run without wsss")


def _add_network(exports, format, example, what):
    command = add_command(
        exports,
        format,
        _export_network,
        help=f"the segmentation network as {what}",
        description=f"Write a trained segmentation network as {what}: photos of any size, uint8 "
        "RGB (batch, height, width, 3), to labels and probabilities. The file is compared with the "
        "network before it appears.",
        epilog=f"example: wsss export {format} --run models:/shapes-segmentation/1 --out {example}",
    )
    command.add_argument(
        "--run",
        required=True,
        metavar="NETWORK",
        help="weights file, folder of a completed train_segmentation, an MLflow run's id, or "
        "models:/NAME/VERSION",
    )
    command.add_argument("--out", required=True, metavar="FILE", help=f"such as {example}")
    command.set_defaults(format=format)


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
