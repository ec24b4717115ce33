"""``wsss label`` and ``wsss predict``: label maps of your own photos."""

from pathlib import Path

from wsss.cli.command import add_command, count, formats, scales
from wsss.errors import InputError

FORMATS = ("coco", "labelme", "cvat")


def _label(arguments):
    from wsss import models
    from wsss.apply import find_networks, label_photos
    from wsss.io import atomic  # slow to import
    from wsss.lab import plan

    if (arguments.run is None) == (arguments.cam is None or arguments.affinity is None):
        raise InputError("expected --run RUN, or --cam and --affinity together; name one or both")
    overrides = plan.parse_overrides(arguments.overrides)
    if arguments.run:
        method = find_networks.method_of(arguments.run, overrides)
    else:
        method = find_networks.method_by_networks(arguments.cam, arguments.affinity, overrides)
    cam, affinity = (
        models.open_network(file, kind, output_stride=method.strides[kind])
        for kind, file in (("cam", method.cam), ("affinity", method.affinity))
    )
    dataset = _photos(arguments, tags=arguments.tags, classes=cam.classes)
    job = label_photos.label_job(
        dataset,
        cam.network,
        affinity_network=affinity.network,
        folder=arguments.out,
        **method.maps,
        walk=method.walk,
    )
    making = {"cam": atomic.digest(method.cam), "affinity": atomic.digest(method.affinity)}
    making |= {"strides": method.strides, "maps": method.maps, "walk": method.walk}
    making |= {"long": dataset.long_side}
    untagged = len(dataset.photos) - len(dataset.labelled())
    if untagged:
        print(f"{untagged} photos have no tags and get no labels; `wsss predict` takes them")
    return _run(arguments, job, dataset, dataset.ids("all"), making, dataset.tag_faults)


def _predict(arguments):
    from wsss import models
    from wsss.apply import find_networks, label_photos
    from wsss.crf import CrfParams
    from wsss.io import atomic  # slow to import

    file = find_networks.network_file(arguments.network, "segmentation")
    trained = models.open_network(file, "segmentation")
    dataset = _photos(arguments, tags=[], classes=trained.classes)
    settings = {"scales": arguments.scales, "flip": arguments.flip}
    settings["crf"] = CrfParams() if arguments.crf else None
    job = label_photos.predict_job(dataset, trained.network, folder=arguments.out, **settings)
    making = {"network": atomic.digest(file), **settings, "long": dataset.long_side}
    return _run(arguments, job, dataset, list(dataset.photos), making, [])


def _photos(arguments, **given):
    from wsss.datasets import Folder

    given = {name: value for name, value in given.items() if value is not None}
    if arguments.long is not None:
        given["long_side"] = arguments.long
    described = arguments.photos.suffix in (".yaml", ".yml")
    return (
        Folder.described(arguments.photos, **given)
        if described
        else Folder(arguments.photos, **given)
    )


def _run(arguments, job, dataset, ids, making, faults):
    from wsss.apply import label_photos

    report = label_photos.run(
        job,
        ids,
        dataset=dataset,
        folder=arguments.out,
        making=making,
        formats=arguments.write,
        processes=arguments.processes,
        faults=faults,
    )
    print(f"{arguments.out}: {report.done} label maps in labels/, pictures in overlays/")
    for name in report.written:
        print(f"{name}: written")
    if report.faults:
        log = arguments.out / "faults.txt"
        print(f"{len(report.faults)} faults, also in {log}:")
        print("\n".join(report.faults))
        more = len(report.faults) - 1
        raise InputError(f"{report.faults[0]}" + (f" (and {more} more, see {log})" if more else ""))


def add(commands):
    label = add_command(
        commands,
        "label",
        _label,
        help="label maps of your own photos, from their tags",
        description="Photos with tags and two trained networks to label maps. What is there "
        "already is left alone, so a run that was cut off goes on.",
        epilog="example: wsss label photos --tags tags.csv --run outputs/random_walk/0123456789ab "
        "--out labelled",
    )
    _add_photos(label)
    label.add_argument(
        "overrides",
        nargs="*",
        metavar="stage.parameter=value",
        help="other constants, such as random_walk.beta=12 or infer_cam.scales=[0.5,1.0]",
    )
    label.add_argument(
        "--tags",
        type=Path,
        metavar="FILE",
        help="CSV (id,labels), JSON or COCO's instances; otherwise DIR/tags.csv, DIR/tags.json, "
        "or one folder a tag",
    )
    label.add_argument(
        "--run",
        metavar="RUN",
        help="a completed random_walk (folder or MLflow run) or an experiment's MLflow run: its "
        "networks and constants",
    )
    for option, name in (("--cam", "CAM network"), ("--affinity", "AffinityNet")):
        label.add_argument(
            option,
            metavar="NET",
            help=f"the {name}: file, folder, MLflow run, models:/NAME/VERSION; the paper's "
            "constants",
        )
    _add_outputs(label)
    predict = add_command(
        commands,
        "predict",
        _predict,
        help="label maps of your own photos, without tags",
        description="Photos and a segmentation network to label maps. What is there already is "
        "left alone, so a run that was cut off goes on.",
        epilog="example: wsss predict photos --network models:/shapes-segmentation/1 --out seen",
    )
    _add_photos(predict)
    predict.add_argument(
        "--network",
        required=True,
        metavar="NET",
        help="the segmentation network: file, folder, MLflow run, models:/NAME/VERSION",
    )
    predict.add_argument(
        "--scales",
        type=scales,
        default=(1.0,),
        metavar="FACTORS",
        help="of the photo's size, averaged, such as 0.5,1.0 (1.0)",
    )
    predict.add_argument("--flip", action="store_true", help="average with the mirrored photo")
    predict.add_argument("--crf", action="store_true", help="dense CRF on the result")
    _add_outputs(predict)


def _add_photos(command):
    command.add_argument(
        "photos", type=Path, metavar="DIR", help="the photos, or a YAML file that describes them"
    )


def _add_outputs(command):
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results")
    command.add_argument(
        "--write",
        type=formats(FORMATS),
        default=("coco",),
        metavar="FORMS",
        help="further forms of the labels: coco (run-length masks), labelme and cvat, to correct "
        "them by hand and train on them (coco)",
    )
    command.add_argument(
        "--long",
        type=count,
        metavar="PIXELS",
        help="longer photos are worked on at this size; labels have the photo's own (1024)",
    )
    command.add_argument(
        "--processes", type=count, default=0, metavar="N", help="worker processes (one a core)"
    )
