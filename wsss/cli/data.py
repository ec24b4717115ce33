"""``wsss data``: datasets made ready."""

import os
from pathlib import Path

from wsss.cli.command import add_command, count
from wsss.errors import InputError
from wsss.io.text import read_text


def _data_voc12(arguments):
    from wsss.datasets.prepare import voc12 as prepare_voc12

    report = prepare_voc12.prepare(
        arguments.root, voc=arguments.voc, sbd=arguments.sbd, any_digest=arguments.any_digest
    )
    print(prepare_voc12.table(report))
    if report.lacking:
        names = " and ".join(download.archive for download in report.lacking)
        raise InputError(
            f"{arguments.root}: expected what {names} holds but it is not all there; the lines "
            "above say what is missing and where to get it"
        )


def _data_small(arguments):
    from wsss.datasets.prepare import shrink

    kit = shrink.shrink(arguments.source, arguments.root, long_side=arguments.long)
    print(f"{kit.root}: ready; set data_root to it")


def _data_folder(arguments):
    from wsss.datasets import Folder, survey

    given = {
        "tags": arguments.tags,
        "classes": arguments.classes and _classes(arguments.classes),
        "masks": arguments.masks,
        "val_share": arguments.val_share,
        "seed": arguments.seed,
        "long_side": arguments.long,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.root.suffix in (".yaml", ".yml"):
        if given or arguments.save:
            raise InputError(f"{arguments.root}: this file says it all; leave the options out")
        dataset = Folder.described(arguments.root)
    else:
        dataset = Folder(arguments.root, **given)
    found = survey.survey(dataset)
    print(survey.describe(dataset, found))
    if arguments.save:
        survey.save(dataset, found, arguments.save, **given)
        print(f"{arguments.save}: written; set dataset to folder and data_root to it")
        found = found._replace(faults=dataset.check([]))  # what cannot be read is left out
    if found.faults:
        more = len(found.faults) - 1
        raise InputError(found.faults[0] + (f" (and {more} more, listed above)" if more else ""))


def _classes(text):
    """Names between commas, or the lines of a file."""
    if "," not in text and os.path.isfile(text):
        return [line for line in read_text(text, "class names").splitlines() if line]
    return text.split(",")


def add(commands):
    data = commands.add_parser("data", help="make a dataset ready that you have downloaded")
    datasets = data.add_subparsers(title="datasets", required=True, metavar="dataset")
    _add_data_voc12(datasets)
    _add_data_small(datasets)
    _add_data_folder(datasets)


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
    small.add_argument(
        "--long", type=count, required=True, metavar="PIXELS", help="of the long side"
    )


def _add_data_folder(datasets):
    folder = add_command(
        datasets,
        "folder",
        _data_folder,
        help="your own photos with tags",
        description="Check a folder of tagged photos: counts a class, photos without tags, tags "
        "without photos, the same picture twice, files that cannot be read. Nothing in it is "
        "changed.",
        epilog="example: wsss data folder photos --tags tags.csv --save photos.yaml",
    )
    folder.add_argument("root", type=Path, metavar="DIR", help="the photos, or a YAML file of them")
    folder.add_argument(
        "--tags",
        type=Path,
        metavar="FILE",
        help="CSV (id,labels), JSON or COCO's instances; otherwise DIR/tags.csv, DIR/tags.json, "
        "or one folder a tag",
    )
    folder.add_argument(
        "--classes",
        metavar="A,B|FILE",
        help="in the order of their numbers, or a file with one a line; otherwise the tags' own",
    )
    folder.add_argument("--masks", type=Path, metavar="DIR", help="of <id>.png (DIR/masks)")
    folder.add_argument("--val-share", type=float, metavar="SHARE", help="drawn for val (0.2)")
    folder.add_argument("--seed", type=count, metavar="N", help="of that draw (0)")
    folder.add_argument(
        "--long", type=count, metavar="PIXELS", help="longer photos are read at this size (1024)"
    )
    folder.add_argument(
        "--save", type=Path, metavar="FILE.yaml", help="write what was given for data_root"
    )
