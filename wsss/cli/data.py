"""``wsss data``: prepare datasets."""

import os
import shlex
from pathlib import Path

from wsss.cli.command import TAGS, add_command, count, open_photos, refuse_faults, say_next
from wsss.errors import InputError
from wsss.io.safe_yaml import YAML


def _voc12(arguments):
    """Make one devkit folder of PASCAL VOC 2012 and SBD: masks, id lists, image labels.

    Downloads nothing and keeps what is done already.

    example: wsss data voc12 --root data/voc12 --voc VOCtrainval_11-May-2012.tar --sbd benchmark.tgz
    """
    from wsss.datasets.prepare import voc12

    given = {name: vars(arguments)[name] for name in ("voc", "sbd", "any_digest")}
    report = voc12.prepare(arguments.root, **given)
    print(voc12.table(report))
    if report.lacking:
        names = " and ".join(download.archive for download in report.lacking)
        fault = f"expected the contents of {names} but files are missing; the lines above name them"
        raise InputError(f"{arguments.root}: {fault} and where to get them")
    experiment = "experiments/voc12_resnet50.yaml"
    say_next(f"wsss run {experiment} {shlex.quote(f'common.data_root={arguments.root}')}")


def _small(arguments):
    """Copy a devkit with smaller photos and masks, to try things on.

    Half the side is a quarter of the work. Do not compare its scores with the full devkit's.

    example: wsss data small --from ../shared/voc-sample --root data/voc-sample-250 --long 250
    """
    from wsss.datasets.prepare import shrink

    kit = shrink.shrink(arguments.source, arguments.root, long_side=arguments.long)
    print(f"{kit.root}: ready")
    root = shlex.quote(f"common.data_root={kit.root}")
    say_next(f"wsss run experiments/voc_sample.yaml {root}    # or another experiment on voc")


def _folder(arguments):
    """Check your own photos with tags, and change nothing in their folder.

    Counts photos per class; lists photos without tags, tags without photos, duplicate pictures and
    unreadable files.

    example: wsss data folder photos --tags tags.csv --save photos.yaml
    """
    from wsss.datasets import survey, tags

    names = ("tags", "classes", "masks", "val_share", "seed", "long_side")
    given = {name: value for name in names if (value := vars(arguments)[name]) is not None}
    classes = arguments.classes
    if classes and "," not in classes and os.path.isfile(classes):
        given["classes"] = list(tags.read_classes(classes))
    elif classes:
        given["classes"] = classes.split(",")
    if arguments.root.suffix in YAML and (given or arguments.save):
        raise InputError(f"{arguments.root}: this file has all settings; leave the options out")
    dataset = open_photos(arguments.root, **given)
    found = survey.survey(dataset)
    print(survey.describe(dataset, found))
    faults = [*found.faults, *found.unreadable.values()]
    if arguments.save:
        survey.save(dataset, found, path=arguments.save, **given)
        print(f"{arguments.save}: written")
        faults = found.faults  # the written file leaves out unreadable photos
    refuse_faults(faults, "listed above")
    root = shlex.quote(f"common.data_root={arguments.save or arguments.root}")
    say_next(f"wsss run experiments/own_photos.yaml {root}")


def add(commands):
    data = commands.add_parser("data", help="Prepare a dataset that you have downloaded.")
    datasets = data.add_subparsers(title="datasets", required=True, metavar="dataset")
    add = add_command(datasets, "voc12", _voc12).add_argument
    add("--root", required=True, metavar="DIR", help="the folder to prepare")
    for option, name in (("--voc", "VOCtrainval_11-May-2012.tar"), ("--sbd", "benchmark.tgz")):
        add(option, metavar="PATH", help=f"{name}, or its folder; default: in DIR")
    repacked = "accept archives whose MD5 is not the published one, as some mirrors repack them"
    add("--any-digest", action="store_true", help=repacked)

    add = add_command(datasets, "small", _small).add_argument
    add("--from", dest="source", required=True, metavar="DIR", help="a devkit")
    add("--root", required=True, metavar="DIR", help="the folder to write")
    add("--long", type=count, required=True, metavar="PIXELS", help="longer side")

    add = add_command(datasets, "folder", _folder).add_argument
    add("root", type=Path, metavar="DIR", help="the photos, or a YAML file of them")
    add("--tags", type=Path, metavar="FILE", help=TAGS)
    names = "in the order of their numbers, or a file with one per line; default: the tags' own"
    add("--classes", metavar="A,B|FILE", help=names)
    add("--masks", type=Path, metavar="DIR", help="of <id>.png; default: DIR/masks")
    add("--val-share", type=float, metavar="SHARE", help="drawn for val; default: 0.2")
    add("--seed", type=count, metavar="N", help="of that draw; default: 0")
    longer = "longer photos are read at this size; default: 1024"
    add("--long", dest="long_side", type=count, metavar="PIXELS", help=longer)
    add("--save", type=Path, metavar="FILE.yaml", help="write these settings")
