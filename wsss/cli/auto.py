"""``wsss auto``: from tagged photos to label maps and a network, in one command."""

import hashlib
import shlex
from pathlib import Path

from wsss.cli.command import TAGS, add_command
from wsss.errors import InputError

# Seconds on one core: of the chain without photos, and of each photo. Measured with 30 photos of
# 500 x 375 on 2 cores, which share the work on photos but not the starting of notebooks.
START, EACH = 110, 9.0
NETWORK = "network.pt"  # in the folder of results, written last


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
    if (out / NETWORK).exists():  # this command's own, of before a tag or a photo changed
        label_photos.discard(out, making)
    given = {"dataset": dataset, "folder": out, "making": making, "label": "label"}
    report = label_photos.run(job, tagged, **given)
    network = folders["train_segmentation"] / "weights.pt"
    with atomic.write(out / NETWORK) as partial:
        partial.write_bytes(network.read_bytes())
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

    photos = arguments.photos
    if photos.suffix in (".yaml", ".yml"):
        if arguments.tags:
            raise InputError(f"--tags: {photos} names its own tags; change it there")
        dataset = Folder.open(photos)
        print(survey.describe(dataset, survey.survey(dataset)))
        return dataset, photos
    given = {"tags": arguments.tags} if arguments.tags else {}
    dataset = Folder(photos, **given)
    found = survey.survey(dataset)
    print(survey.describe(dataset, found))
    digits = hashlib.blake2b(str(photos.resolve()).encode(), digest_size=3).hexdigest()
    path = paths.outputs_root() / "auto" / f"{photos.resolve().name}-{digits}.yaml"
    path.unlink(missing_ok=True)
    survey.save(dataset, found, path=path, **given)
    return Folder.open(path), path


def add(commands):
    auto = add_command(commands, "auto", _auto)
    auto.add_argument("photos", type=Path, metavar="DIR", help="photos, or a YAML file of them")
    changes = "changes to the experiment, such as common.weights=FILE"
    auto.add_argument("overrides", nargs="*", metavar="stage.parameter=value", help=changes)
    auto.add_argument("--tags", type=Path, metavar="FILE", help=TAGS)
    auto.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results")
    experiment = "how to train (default: experiments/own_photos.yaml)"
    auto.add_argument("--experiment", type=Path, metavar="FILE", help=experiment)
