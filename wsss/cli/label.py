"""``wsss label`` and ``wsss predict``: label maps of your own photos."""

import argparse
from pathlib import Path

from wsss.cli.command import NETWORK, RUN, TAGS, add_command, add_inference, count, refuse_faults
from wsss.errors import InputError

FORMS = ("coco", "labelme", "cvat")


def _label(arguments):
    """Label your own tagged photos with a CAM network and an AffinityNet.

    Label maps that exist are kept, unless their photo or its tags changed, so the same command
    resumes an interrupted run.

    example: wsss label photos --tags tags.csv --run latest --out labelled
    """
    from wsss.apply import find_networks, label_photos  # slow to import
    from wsss.lab import plan

    files = (arguments.cam, arguments.affinity)
    if (arguments.run is None) == (None in files):
        raise InputError("expected --run RUN, or --cam and --affinity together; name one or both")
    overrides = plan.parse_overrides(arguments.overrides)
    if arguments.run:
        method = find_networks.method_of(arguments.run, overrides)
    else:
        method = find_networks.method_by_networks(*files, overrides=overrides)
    cam, affinity = method.networks()
    dataset = _photos(arguments, tags=arguments.tags, classes=cam.classes)
    networks = (cam.network, affinity.network)
    given = {"folder": arguments.out, "maps": method.maps, "walk": method.walk}
    job = label_photos.label_job(dataset, networks, **given)
    tagged, unknown = dataset.labelled(), dataset.unknown_tags
    if unknown and not tagged:
        names = ", ".join(sorted({name for tags in unknown.values() for name in tags}))
        knows = f"the network knows {', '.join(cam.classes)}, and none of your tags ({names})"
        raise InputError(f"{dataset.tags_from}: {knows} is among them; rename the tags")
    if untagged := dataset.photos.keys() - tagged - unknown.keys():
        print(f"{len(untagged)} photos have no tags and get no labels; `wsss predict` takes them")
    _run(arguments, job, dataset, dataset.ids("all"), method.making())


def _predict(arguments):
    """Label your own photos, without tags, with a segmentation network.

    Label maps that exist are kept, unless their photo changed, so the same command resumes an
    interrupted run.

    example: wsss predict photos --network models:/shapes-segmentation --out seen
    """
    from wsss import models
    from wsss.apply import find_networks, label_photos  # slow to import
    from wsss.crf import CrfParams
    from wsss.io import contents

    file = find_networks.network_file(arguments.network, "segmentation")
    trained = models.open_network(file, "segmentation")
    dataset = _photos(arguments, tags=[], classes=trained.classes)
    settings = {"scales": arguments.scales or (1.0,), "flip": arguments.flip}
    settings["crf"] = CrfParams() if arguments.crf else None
    job = label_photos.predict_job(dataset, trained.network, folder=arguments.out, **settings)
    making = {"network": contents.digest(file), **settings}
    _run(arguments, job, dataset, list(dataset.photos), making)


def _photos(arguments, **given):
    from wsss.datasets import Folder

    given["long_side"] = arguments.long
    given = {name: value for name, value in given.items() if value is not None}
    return Folder.open(arguments.photos, **given)


def _run(arguments, job, dataset, ids, making):
    from wsss.apply import label_photos

    report = label_photos.run(
        job,
        ids,
        dataset=dataset,
        folder=arguments.out,
        making=making | {"long": dataset.long_side},
        label=arguments.command,
        forms=arguments.write,
        processes=arguments.processes,
    )
    print(f"{arguments.out}: {report.done} label maps in labels/, pictures in overlays/")
    for name in report.written:
        print(f"{name}: written")
    if report.faults:
        print(f"{len(report.faults)} faults, also in {arguments.out / 'faults.txt'}:")
        print("\n".join(report.faults))
    refuse_faults(report.faults, f"see {arguments.out / 'faults.txt'}")
    print(f"look at {arguments.out / 'overlays'}; to correct them: docs/correct-and-retrain.md")


def _forms(text):
    """Parse some of ``FORMS``, such as ``coco,labelme``."""
    names = tuple(filter(None, text.split(",")))
    if unknown := [name for name in names if name not in FORMS]:
        known = ", ".join(FORMS)
        raise argparse.ArgumentTypeError(f"expected some of {known} but got {unknown[0]!r}")
    return names


def add(commands):
    label = add_command(commands, "label", _label)
    predict = add_command(commands, "predict", _predict)
    photos, out = "the photos, or a YAML file of them", "for the results, new or of this command"
    forms = "also as coco (run-length masks), labelme, cvat, to correct by hand; default: none"
    longer = "longer photos are labelled at this size, label maps keep their own; default: 1024"
    processes = "worker processes; default: one per core"
    for command in (label, predict):
        command.add_argument("photos", type=Path, metavar="DIR", help=photos)
        command.add_argument("--out", type=Path, required=True, metavar="DIR", help=out)
        command.add_argument("--write", type=_forms, default=(), metavar="FORMS", help=forms)
        command.add_argument("--long", type=count, metavar="PIXELS", help=longer)
        command.add_argument("--processes", type=count, default=0, metavar="N", help=processes)
    constants = "other constants, such as random_walk.beta=12 or infer_cam.scales=[0.5,1.0]"
    label.add_argument("overrides", nargs="*", metavar="stage.parameter=value", help=constants)
    label.add_argument("--tags", type=Path, metavar="FILE", help=TAGS)
    completed = f"networks and constants of a completed random_walk: {RUN}"
    label.add_argument("--run", help=completed)
    for option, name in (("--cam", "CAM network"), ("--affinity", "AffinityNet")):
        with_constants = f"the {name}, with the paper's constants: {NETWORK}"
        label.add_argument(option, metavar="NET", help=with_constants)
    predict.add_argument("--network", required=True, metavar="NET", help=NETWORK)
    add_inference(predict)
