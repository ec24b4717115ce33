"""``wsss export`` and ``wsss weights``: results for other programs, and weights from others."""

import shlex
from pathlib import Path

from wsss.cli.command import NETWORK, RUN, add_command, add_inference, refuse_faults, say_next
from wsss.errors import InputError


def _voc_test(arguments):
    """Write label maps for the PASCAL VOC evaluation server.

    Predicts the test photos and packs them, or checks any archive before you upload it.

    example: wsss export voc-test --run latest --out voc-test
    --scales 0.5,1.0 --flip
    """
    from wsss.apply import voc_server  # slow to import
    from wsss.lab.record import find_runs

    options = ("out", "scales", "flip", "crf")
    given = {name: value for name in options if (value := vars(arguments)[name])}
    archive = arguments.check
    if archive is None:
        if "out" not in given:
            raise InputError("--run needs a folder to write to; add --out DIR")
        archive = f"{arguments.out}/results.tgz"
        run = find_runs.find(arguments.run, "train_segmentation")
        report = voc_server.export(
            run, data_root=arguments.data_root, split=arguments.split, **given
        )
    elif given:
        raise InputError(f"--{next(iter(given))} belongs to --run; leave it out with --check")
    else:
        root = Path(arguments.data_root or ".")
        report = voc_server.check(archive, root, split=arguments.split)
    for line in [*(f"warning: {line}" for line in report.warnings), *report.faults]:
        print(line)
    refuse_faults([f"{archive}: {fault}" for fault in report.faults], "listed above")
    print(f"{archive}: sound, {report.count} label maps; upload it to the evaluation server")


def _network(arguments):
    """Write a trained segmentation network for other programs.

    It maps photos of any size, uint8 RGB (batch, height, width, 3), to labels and probabilities.
    The file is compared with the network before it appears.

    examples: wsss export onnx --run models:/shapes-segmentation --out network.onnx; wsss export
    torch --run models:/shapes-segmentation --out network.pt2
    """
    from wsss.apply import find_networks, onnx_export  # slow to import

    source = find_networks.network_file(arguments.run, "segmentation")
    print(f"{arguments.out}: {onnx_export.export(source, arguments.out, form=arguments.form)}")


def _show_weights(arguments):
    """Identify a file and list its tensors.

    example: wsss weights show ilsvrc-cls_rna-a1_cls1000_ep-0001.params
    """
    from wsss.models import load_state
    from wsss.models.imported import authors

    given = load_state(arguments.file)
    for name, tensor in given.items():
        print(f"{name:50} {'x'.join(map(str, tensor.shape)):20} {str(tensor.dtype)[6:]}")
    print(f"{arguments.file}: {authors.identify(given, arguments.file).what}")


def _convert_weights(arguments):
    """Write a file's tensors in the layout of this project.

    example: wsss weights convert res38_cls.pth weights/res38_cls.pt
    """
    from wsss.models.imported import authors

    content = authors.convert(arguments.source, arguments.target)
    print(f"{arguments.source}: {content.what}")
    print(f"{arguments.target}: {len(content.state)} tensors")
    for name, reason in content.skipped.items():
        print(f"left out: {name} ({reason})")
    say_next(f"wsss run EXPERIMENT {shlex.quote(f'common.weights={arguments.target}')}")


def add(commands):
    export = commands.add_parser("export", help="Write results in the form that others expect.")
    exports = export.add_subparsers(title="what to export", required=True, metavar="what")
    voc_test = add_command(exports, "voc-test", _voc_test)
    what = voc_test.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", metavar="RUN", help=f"a completed train_segmentation: {RUN}")
    what.add_argument("--check", metavar="ARCHIVE", help="a .tgz or .tar, from any program")
    add = voc_test.add_argument
    root = "devkit folder; default: the run's, with --check the current folder"
    add("--out", metavar="DIR", help="folder for results/ and results.tgz")
    add("--data-root", metavar="DIR", help=root)
    add("--split", default="test", help="id list; default: test")
    add_inference(voc_test)
    forms = {"onnx": "ONNX, for any of its runtimes"}
    forms["torch"] = "torch's exported program, to run without wsss"
    for form, title in forms.items():
        summary = f"Write the segmentation network as {title}."
        command = add_command(exports, form, _network, help=summary)
        command.set_defaults(form=form)
        command.add_argument("--run", required=True, metavar="NETWORK", help=NETWORK)
        command.add_argument("--out", required=True, metavar="FILE", help="the file to write")

    top = commands.add_parser("weights", help="Read other people's weight files.")
    weights = top.add_subparsers(title="commands", required=True, metavar="command")
    kinds = "MXNet's .params, a .caffemodel, or torch's .pth"
    add_command(weights, "show", _show_weights).add_argument("file", help=kinds)
    add = add_command(weights, "convert", _convert_weights).add_argument
    add("source", help=kinds)
    add("target", help="the file to write; an existing one is kept")
