"""``wsss data``: datasets made ready."""

from wsss.cli.command import add_command
from wsss.errors import InputError


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


def add(commands):
    data = commands.add_parser("data", help="make a dataset ready that you have downloaded")
    datasets = data.add_subparsers(title="datasets", required=True, metavar="dataset")
    _add_data_voc12(datasets)
    _add_data_small(datasets)


def _add_data_voc12(datasets):
    voc12 = add_command(
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
    small = add_command(
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
