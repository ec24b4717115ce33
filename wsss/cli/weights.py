"""``wsss weights``: other people's weight files."""

from wsss.cli.command import add_command


def _weights_show(arguments):
    from wsss.models import load_state
    from wsss.models.imported import authors

    given = load_state(arguments.file)
    for name, tensor in given.items():
        print(f"{name:50} {'x'.join(map(str, tensor.shape)):20} {str(tensor.dtype)[6:]}")
    print(f"{arguments.file}: {authors.identify(given, arguments.file).what}")


def _weights_convert(arguments):
    from wsss.models.imported import authors

    content = authors.convert(arguments.source, arguments.target)
    print(f"{arguments.source}: {content.what}")
    print(f"{arguments.target}: {len(content.state)} tensors")
    for name, reason in content.skipped.items():
        print(f"left out: {name} ({reason})")


def add(commands):
    top = commands.add_parser("weights", help="read other people's weight files")
    weights = top.add_subparsers(title="commands", required=True, metavar="command")
    show = add_command(
        weights,
        "show",
        _weights_show,
        help="list a file's tensors and say what it is",
        epilog="example: wsss weights show ilsvrc-cls_rna-a1_cls1000_ep-0001.params",
    )
    show.add_argument("file", help="MXNet's .params, a .caffemodel, or torch's .pth")
    convert = add_command(
        weights,
        "convert",
        _weights_convert,
        help="write a file's tensors in the layout of this project",
        epilog="example: wsss weights convert res38_cls.pth weights/res38_cls.pt",
    )
    convert.add_argument("source", help="MXNet's .params, a .caffemodel, or torch's .pth")
    convert.add_argument("target", help="the file to write; one that exists is left alone")
