"""Networks kept in one file and opened again."""

import pytest
import torch

from wsss import models
from wsss.errors import InputError

NETWORKS = {
    "cam": (models.build_cam, {"num_classes": 3}, {"output_stride": 8, "head_channels": 6}),
    "affinity": (models.build_affinity, {}, {"output_stride": 8, "reduced": [4, 6, 8]}),
    "segmentation": (
        models.build_segmentation,
        {"num_classes": 4},
        {"output_stride": 8, "channels": 8, "low_level_channels": [2, 3]},
    ),
}
CLASSES = ["ant", "bee", "wasp"]


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_comes_back_from_its_file_alone(tmp_path, kind):
    build, counts, arguments = NETWORKS[kind]
    network = build("small", **counts, **arguments).eval()
    path = tmp_path / "weights.pt"
    models.save_network(
        path,
        network,
        kind=kind,
        classes=CLASSES,
        settings={"radius": 4},
        backbone="small",
        **arguments,
    )
    state = torch.get_rng_state()
    trained = models.open_network(tmp_path, kind)
    assert torch.equal(state, torch.get_rng_state())
    assert trained.kind == kind and trained.classes == tuple(CLASSES)
    assert trained.settings == {"radius": 4} and not trained.network.training
    assert trained.arguments == {"backbone": "small", **arguments}
    photo = torch.rand(1, 3, 24, 40)
    with torch.inference_mode():
        torch.testing.assert_close(trained.network(photo), network(photo), rtol=0, atol=0)


def test_the_stride_may_differ_and_nought_keeps_the_trained_one(tmp_path):
    network = models.build_cam("small", 3, output_stride=8)
    path = tmp_path / "w.pt"
    models.save_network(
        path, network, kind="cam", classes=CLASSES, backbone="small", output_stride=8
    )
    assert models.open_network(path, output_stride=0).network.backbone.strides[-1] == 8
    assert models.open_network(path, output_stride=16).network.backbone.strides[-1] == 16


@pytest.mark.parametrize("wanted", [["ant", "wasp", "bee"], ["ant", "bee"], ["cat", "bee", "wasp"]])
def test_a_network_of_other_classes_or_in_another_order_is_refused(tmp_path, wanted):
    network = models.build_cam("small", 3)
    path = tmp_path / "w.pt"
    models.save_network(path, network, kind="cam", classes=CLASSES, backbone="small")
    assert models.open_network(path, "cam", classes=CLASSES).classes == tuple(CLASSES)
    models.load_into(network, path, classes=CLASSES)
    refused = (
        r"w\.pt: expected a network of the data's classes, in their order, but it \(ant, bee, wasp"
    )
    for take in (
        models.open_network,
        lambda path, **given: models.load_into(network, path, **given),
    ):
        with pytest.raises(InputError, match=refused):
            take(path, classes=wanted)


def test_a_network_whose_file_was_damaged_is_refused(tmp_path):
    """torch loads tensors of zeros without a word where a block never reached the disk."""
    network = models.build_cam("small", 2)
    path = tmp_path / "weights.pt"
    models.save_network(path, network, kind="cam", classes=["a", "b"], backbone="small")
    content = bytearray(path.read_bytes())
    block = max(network.parameters(), key=torch.numel).detach().numpy().tobytes()[:4096]
    place = bytes(content).index(block)
    content[place : place + 4096] = bytes(4096)
    path.write_bytes(content)
    torch.load(path, weights_only=True)
    with pytest.raises(InputError, match=r"weights\.pt: damaged since it was written; run its st"):
        models.open_network(path)


@pytest.fixture
def walked(tmp_path):
    """Files of a segmentation network, of an AffinityNet, and of both joined."""
    torch.manual_seed(0)
    files = []
    for kind in ("segmentation", "affinity"):
        build, counts, arguments = NETWORKS[kind]
        settings = {"reduction": "sum", "radius": 4, "border_pairs": False}
        files.append(tmp_path / kind / "weights.pt")
        models.save_network(
            files[-1],
            build("small", **counts, **arguments),
            kind=kind,
            classes=CLASSES,
            settings=settings if kind == "affinity" else None,
            backbone="small",
            **arguments,
        )
    models.add_walk(
        tmp_path / "weights.pt", files[0], affinity=files[1], beta=0.5, steps=3, flip=True
    )
    return tmp_path / "weights.pt", *files


def test_a_walk_is_kept_with_both_networks(walked):
    joined, segmentation, affinity = walked
    trained = models.open_network(joined, "segmentation")
    assert trained.classes == tuple(CLASSES) and trained.arguments["backbone"] == "small"
    assert trained.network.walk == {
        **{"beta": 0.5, "steps": 3, "flip": True},  # and what the distances were learnt with
        **{"reduction": "sum", "radius": 4, "border_pairs": False},
    }
    photo = torch.rand(1, 3, 24, 40)
    for part, file in (("segmentation", segmentation), ("affinity", affinity)):
        alone = models.open_network(file, part).network
        with torch.inference_mode():
            same = getattr(trained.network, part)(photo), alone(photo)
        torch.testing.assert_close(*same, rtol=0, atol=0)
    coarse = models.open_network(joined, output_stride=16).network
    assert coarse.segmentation.backbone.strides[-1] == 16
    assert coarse.affinity.backbone.strides[-1] == 8


def test_no_second_walk_and_no_further_files(walked, tmp_path):
    joined, _, affinity = walked
    with pytest.raises(InputError, match="has a random walk already; give its train_segmentation"):
        models.add_walk(
            tmp_path / "more.pt", joined, affinity=affinity, beta=1.0, steps=2, flip=False
        )
    trained = models.open_network(joined)
    walk = trained.arguments["walk"]
    walk["affinity"] = {**walk["affinity"], "weights": "/some/other/file.pth"}
    models.save_network(
        joined,
        trained.network,
        kind="segmentation",
        classes=CLASSES,
        **{**trained.arguments, "walk": walk},
    )
    with pytest.raises(InputError, match="multiple values for keyword argument 'weights'"):
        models.open_network(joined)
