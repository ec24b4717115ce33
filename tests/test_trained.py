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
        {"output_stride": 8, "channels": 8, "fine": [2, 3]},
    ),
}
CLASSES = ["ant", "bee", "wasp"]


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_comes_back_from_its_file_alone(tmp_path, kind):
    build, counts, arguments = NETWORKS[kind]
    network = build("small", **counts, **arguments).eval()
    path = tmp_path / "weights.pt"
    models.save_network(
        path, network, kind, CLASSES, settings={"radius": 4}, backbone="small", **arguments
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
    models.save_network(path, network, "cam", CLASSES, backbone="small", output_stride=8)
    assert models.open_network(path, output_stride=0).network.trunk.strides[-1] == 8
    assert models.open_network(path, output_stride=16).network.trunk.strides[-1] == 16


def test_a_network_whose_file_was_damaged_is_refused(tmp_path):
    """torch loads tensors of zeros without a word where a block never reached the disk."""
    network = models.build_cam("small", 2)
    path = tmp_path / "weights.pt"
    models.save_network(path, network, "cam", ["a", "b"], backbone="small")
    content = bytearray(path.read_bytes())
    block = max(network.parameters(), key=torch.numel).detach().numpy().tobytes()[:4096]
    place = bytes(content).index(block)
    content[place : place + 4096] = bytes(4096)
    path.write_bytes(content)
    torch.load(path, weights_only=True)
    with pytest.raises(InputError, match=r"weights\.pt: damaged since it was written; run its st"):
        models.open_network(path)
