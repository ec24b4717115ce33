"""``wsss label``, ``predict`` and ``auto``: label maps of your own photos."""

import argparse
import hashlib
import shlex
from pathlib import Path

from wsss.cli import command
from wsss.cli.command import TAGS, add_command, open_photos, refuse_faults
from wsss.errors import InputError
from wsss.io.safe_yaml import YAML

FORMS = ("coco", "labelme", "cvat")
# Seconds on one core: of the chain without photos, and of each photo. Measured with 30 photos of
# 500 x 375 on 2 cores, which share the work on photos but not the starting of notebooks.
START, EACH = 110, 9.0


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
    given = {"tags": arguments.tags, "classes": cam.classes, "long_side": arguments.long}
    dataset = open_photos(arguments.photos, **given)
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
    given = {"tags": [], "classes": trained.classes, "long_side": arguments.long}
    dataset = open_photos(arguments.photos, **given)
    settings = {"scales": arguments.scales or (1.0,), "flip": arguments.flip}
    settings["crf"] = CrfParams() if arguments.crf else None
    job = label_photos.predict_job(dataset, trained.network, folder=arguments.out, **settings)
    making = {"network": contents.digest(file), **settings}
    _run(arguments, job, dataset, list(dataset.photos), making)


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


def _auto(arguments):
    """Label your own tagged photos, training on them first, and keep a network: all in one command.

    Trains as experiments/own_photos.yaml says, labels every tagged photo, and writes labels/,
    overlays/, index.html to look at, and network.pt for wsss predict. The same command resumes an
    interrupted run.

    example: wsss auto photos --tags tags.csv --out labelled
    """
    from wsss.apply import find_networks, label_photos  # slow to import
    from wsss.cli.project import PROJECT
    from wsss.io import atomic
    from wsss.lab import paths, plan
    from wsss.lab.run import driver
    from wsss.runtime.devices import cores

    out = arguments.out
    atomic.refuse_foreign(out / label_photos.MAKING)
    dataset, description = _described(arguments)
    tagged = dataset.ids("all")
    minutes = (START + EACH * len(tagged) / cores()) / 60
    print(f"{len(tagged)} photos: about {minutes:.0f} min on {cores()} cores, less on a GPU")
    file = arguments.experiment or paths.project_root() / "experiments" / "own_photos.yaml"
    experiment, overrides = plan.read_experiment(file), plan.parse_overrides(arguments.overrides)
    data = {"dataset": "folder", "data_root": str(description.resolve())}
    overrides["common"] = data | overrides.get("common", {})
    planned = plan.plan(experiment, overrides, project=PROJECT)
    driver.run(experiment, planned, project=PROJECT)
    folders = {item.name: item.folder for item in planned}
    method = find_networks.method_of(folders["random_walk"])
    networks = [trained.network for trained in method.networks()]
    where = shlex.quote(str(out))
    job = label_photos.label_job(dataset, networks, folder=out, maps=method.maps, walk=method.walk)
    making = method.making() | {"long": dataset.long_side}
    network = out / "network.pt"  # written last
    if network.exists():  # this command's own, of before a tag or a photo changed
        label_photos.discard(out, making)
    given = {"dataset": dataset, "folder": out, "making": making, "label": "label"}
    report = label_photos.run(job, tagged, **given)
    with atomic.write(network) as partial:
        partial.write_bytes((folders["train_segmentation"] / "weights.pt").read_bytes())
    print(
        f"{report.done} label maps: {where}/labels; look at them: {where}/index.html\n"
        f"Next, photos without tags: wsss predict MORE --network {where}/network.pt --out seen"
    )


def _described(arguments):
    """The photos as a dataset, and a file that describes them, which notebooks read; prints what is
    in them.
    """
    from wsss.datasets import Folder, survey
    from wsss.lab import paths

    photos, tags = arguments.photos, arguments.tags
    if tags and photos.suffix in YAML:
        raise InputError(f"--tags: {photos} names its own tags; change it there")
    dataset = open_photos(photos, tags=tags)
    found = survey.survey(dataset)
    print(survey.describe(dataset, found))
    if photos.suffix in YAML:
        return dataset, photos
    digits = hashlib.blake2b(str(photos.resolve()).encode(), digest_size=3).hexdigest()
    path = paths.outputs_root() / "auto" / f"{photos.resolve().name}-{digits}.yaml"
    path.unlink(missing_ok=True)
    survey.save(dataset, found, path=path, **({"tags": tags} if tags else {}))
    return Folder.open(path), path


def add(commands):
    label = add_command(commands, "label", _label)
    predict = add_command(commands, "predict", _predict)
    auto = add_command(commands, "auto", _auto)
    photos, out = "the photos, or a YAML file of them", "for the results, new or of this command"
    for add in (label.add_argument, predict.add_argument, auto.add_argument):
        add("photos", type=Path, metavar="DIR", help=photos)
        add("--out", type=Path, required=True, metavar="DIR", help=out)
    constants = "other constants, such as random_walk.beta=12 or infer_cam.scales=[0.5,1.0]"
    changes = "changes to the experiment, such as common.weights=FILE"
    for add, others in ((label.add_argument, constants), (auto.add_argument, changes)):
        add("overrides", nargs="*", metavar="stage.parameter=value", help=others)
        add("--tags", type=Path, metavar="FILE", help=TAGS)
    forms = "also as coco (run-length masks), labelme, cvat, to correct by hand; default: none"
    longer = "longer photos are labelled at this size, label maps keep their own; default: 1024"
    processes = "worker processes; default: one per core"
    for add in (label.add_argument, predict.add_argument):
        add("--write", type=_forms, default=(), metavar="FORMS", help=forms)
        add("--long", type=command.count, metavar="PIXELS", help=longer)
        add("--processes", type=command.count, default=0, metavar="N", help=processes)
    completed = f"networks and constants of a completed random_walk: {command.RUN}"
    label.add_argument("--run", help=completed)
    for option, name in (("--cam", "CAM network"), ("--affinity", "AffinityNet")):
        source = f"the {name}, with the paper's constants: {command.NETWORK}"
        label.add_argument(option, metavar="NET", help=source)
    predict.add_argument("--network", required=True, metavar="NET", help=command.NETWORK)
    command.add_inference(predict)
    experiment = "how to train; default: experiments/own_photos.yaml"
    auto.add_argument("--experiment", type=Path, metavar="FILE", help=experiment)
