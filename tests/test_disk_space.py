"""The room that an experiment will take, against what its stages then write."""

import os
import shutil
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from wsss import models
from wsss.cost import disk_space
from wsss.crf import CrfParams
from wsss.datasets.transforms import Samples, augment
from wsss.datasets.voc import Devkit
from wsss.errors import InputError
from wsss.lab import stages
from wsss.lab.plan import Planned
from wsss.photos import jobs
from wsss.photos.map_photos import infer
from wsss.photos.segmentation import segment_job
from wsss.synthesis import Walk
from wsss.train import loop, losses

SMALL = {
    "train_cam": {"soup_size": 2, "epochs": 1, "crop": 32},
    "infer_cam": {},
    "affinity_labels": {"marginals": True},
    "train_affinity": {"reduced": [8, 8, 8], "optimiser": "sgd"},
    "random_walk": {},
    "train_segmentation": {"channels": 16, "frozen_stages": 1},
    "evaluate": {},
}


def planned(name, values, folder, root, *, done=False):
    stage = stages.read_stages()[name]
    resolved = stage.resolve(values | {"data_root": str(root)})
    return Planned(stage, resolved, "0", folder / name, done)


def taken(folder):
    """What a folder's files take on the disk, in bytes, by the file system's own account."""
    return sum(512 * p.stat().st_blocks for p in folder.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def chain(tiny_shapes, tmp_path_factory):
    """A tiny chain: the plan of its stages, whose folders hold what they wrote; none is done."""
    folder, data = tmp_path_factory.mktemp("outputs"), Devkit(tiny_shapes)
    plan = {name: planned(name, values, folder, tiny_shapes) for name, values in SMALL.items()}
    networks = {
        name: disk_space.NETWORKS[name](plan[name].values, len(data.classes))
        for name in disk_space.NETWORKS
    }
    ids = sorted(set(data.ids("train_aug")) | set(data.ids("train")))
    samples = Samples(data, data.ids("train"), transform=augment(32), target=data.label_vector)
    cropped = Samples(data, data.ids("train"), transform=augment(32), target=data.mask)
    pairs = partial(losses.pair_loss, radius=2, reduction="mean")
    for name, network in networks.items():
        schedule = loop.schedule_from(
            plan[name].values
            | {"epochs": 3, "batch_size": 6, "workers": 0, "checkpoint_minutes": 0.0}
        )
        given = {"schedule": schedule, "folder": plan[name].folder}
        if name == "train_cam":
            loop.fit_soup(network, samples, loss=losses.classification_loss, soup_size=2, **given)
        elif name == "train_segmentation":
            loop.fit_soup(network, cropped, loss=losses.segmentation_loss, soup_size=1, **given)
        else:
            regions = Samples(
                data,
                data.ids("train"),
                transform=augment(32),
                target=data.mask,
                reduce=lambda id, mask: mask[::8, ::8],
            )
            loop.fit(network, regions, loss=pairs, **given)
        models.save_state(network, plan[name].folder / "weights.pt", description={"kind": name})
    walk = Walk(steps=4, crf_steps=1, radius=2)
    cams, labels = plan["infer_cam"].folder / "cams", plan["affinity_labels"].folder
    network = networks["train_segmentation"]
    settings = {"alpha_low": 4, "alpha_high": 16, "crf": CrfParams(), "crf_steps": 2}
    settings |= {"folder": labels / "labels", "marginals": labels / "marginals"}
    walker, walked = networks["train_affinity"], plan["random_walk"].folder
    for job, photos in (
        (
            jobs.cam_job(data, networks["train_cam"], folder=cams, scales=(1.0,), flip=False),
            ids,
        ),
        (jobs.affinity_label_job(data, cams, **settings), data.ids("train_aug")),
        (jobs.walk_job(data, cams, network=walker, folder=walked, walk=walk), ids),
        (segment_job(data, network, folder=plan["evaluate"].folder), data.ids("val")),
    ):
        infer(photos, job, label="t", processes=1)
    return data, plan


@pytest.mark.parametrize("name", SMALL)
def test_a_stage_takes_about_what_was_estimated(chain, name):
    data, plan = chain
    found, estimate = (
        taken(plan[name].folder),
        disk_space.stage_bytes(name, plan[name].values, data=data),
    )
    assert found > 0
    assert 0.8 * found <= estimate <= 2 * found, f"estimated {estimate}, takes {found}"


def test_photos_that_are_not_there_yet_take_as_much_each(chain):
    data, plan = chain
    for name in ("infer_cam", "affinity_labels", "random_walk", "evaluate"):
        estimate = disk_space.stage_bytes(name, plan[name].values, data=data)
        assert (
            disk_space.stage_bytes(name, plan[name].values, data=data, times=1000)
            == 1000 * estimate
        )


def test_more_classes_count(chain):
    data, plan = chain
    values = plan["train_segmentation"].values | {"frozen_stages": 0, "optimiser": "sgd"}
    size = disk_space.stage_bytes("train_segmentation", values, data=data, classes=80)
    network = disk_space.NETWORKS["train_segmentation"](values, 80)
    weights = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    momenta = sum(4 * p.numel() for p in network.parameters())
    expected = 2 * weights + 2 * (weights + momenta)  # its own, its one member's, two checkpoints
    assert expected <= size < 1.1 * expected + 2**17


@pytest.mark.parametrize("backbone", ["small", "mobilenet_v2", "vgg16"])
def test_networks_are_measured_without_being_built(chain, backbone):
    data, plan = chain
    for name, build in disk_space.NETWORKS.items():
        values = plan[name].values | {"backbone": backbone, "soup_size": 3, "optimiser": "adam"}
        if name == "train_affinity":
            del values["soup_size"]  # it has none
        random = torch.get_rng_state()
        estimate = disk_space.stage_bytes(name, values, data=data)
        assert torch.equal(torch.get_rng_state(), random)
        network = build(values, len(data.classes))
        weights = sum(t.numel() * t.element_size() for t in network.state_dict().values())
        trained = sum(4 * p.numel() for p in network.parameters() if p.requires_grad)
        members = values.get("soup_size", 0)
        expected = weights * (1 + members) + 2 * max(1, members) * (weights + 2 * trained)
        assert expected <= estimate < 1.1 * expected + 2**20


def test_only_what_is_still_to_be_written_counts(chain, tmp_path):
    data, plan = chain
    whole = [planned(i.name, SMALL[i.name], tmp_path, data.root) for i in plan.values()]
    all_of_it = disk_space.needed(whole)
    stage = (
        disk_space.stage_bytes("infer_cam", plan["infer_cam"].values, data=data)
        + disk_space.PICTURES
    )
    whole[1].done = True
    assert disk_space.needed(whole) == all_of_it - stage
    whole[1].done = False
    whole[1].folder.mkdir()
    (whole[1].folder / "part").write_bytes(bytes(4 * disk_space.BLOCK - 7))
    assert disk_space.needed(whole) == all_of_it - 4 * disk_space.BLOCK
    (whole[1].folder / "part").write_bytes(bytes(2 * stage))  # more than was estimated
    assert disk_space.needed(whole) == all_of_it - stage
    for item in whole:
        item.done = True
    assert disk_space.needed(whole) == 0


@pytest.mark.parametrize("trained", [True, False])
def test_a_network_joined_for_a_walk_counts_once_more(chain, tmp_path, trained):
    data, plan = chain
    names = ("train_segmentation", "train_affinity")
    folder = plan["train_cam"].folder.parent if trained else tmp_path
    runs = {f"{name}_run": str(folder / name) for name in names}
    whole = [planned(name, SMALL[name], folder, data.root, done=trained) for name in names]
    sizes = [
        disk_space.needed([*whole, planned("evaluate", runs | walk, tmp_path, data.root)])
        for walk in ({"walk_steps": 0}, {"walk_steps": 4})
    ]
    written = sum((plan[name].folder / "weights.pt").stat().st_size for name in names)
    assert 0.8 * written < sizes[1] - sizes[0] < 1.2 * written


def test_too_little_room_is_one_line_with_the_fix(chain, tmp_path, monkeypatch):
    data, _ = chain
    todo = [planned("infer_cam", {}, tmp_path, data.root)]
    wanted, asked = disk_space.needed(todo) + disk_space.SPARE, []

    def usage(free, path):
        asked.append(path)
        return SimpleNamespace(total=2**40, used=0, free=free)

    folder = tmp_path / "not" / "yet"
    monkeypatch.setattr(shutil, "disk_usage", partial(usage, wanted))
    disk_space.check(todo, folder)
    assert asked == [tmp_path]
    monkeypatch.setattr(shutil, "disk_usage", partial(usage, wanted - 1))
    with pytest.raises(InputError, match=r"0\.3 GiB .* 0\.3 GiB are free.* WSSS_OUTPUTS") as fault:
        disk_space.check(todo, folder)
    assert str(fault.value).startswith(f"{folder}: ") and "\n" not in str(fault.value)
    monkeypatch.setattr(shutil, "disk_usage", partial(usage, 0))
    disk_space.check([planned("infer_cam", {}, tmp_path, data.root, done=True)], folder)
    assert os.listdir(tmp_path) == []  # asking makes nothing
