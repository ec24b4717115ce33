"""Networks prepared for inference give the same answers and leave the trained ones alone."""

import pytest
import torch

from wsss import models
from wsss.models.backbones.layers import ActivatedConv2d, FrozenNormConv2d
from wsss.models.ready import ready
from wsss.runtime.devices import autocast


@pytest.mark.parametrize("backbone", ["small", "mobilenet_v2", "resnet38"])
def test_a_ready_network_gives_the_same_and_leaves_the_trained_one_alone(backbone):
    torch.manual_seed(0)
    network = models.build_cam(backbone, 4, output_stride=8).eval()
    for module in network.modules():
        if isinstance(module, FrozenNormConv2d):  # a norm that does something
            module.scale.uniform_(0.5, 1.5)
            module.shift.normal_()
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    copied = ready(network)
    device = next(copied.parameters()).device
    images = torch.rand(1, 3, 65, 49, device=device)
    with torch.inference_mode(), autocast(device):
        found, expected = (each.to(device).maps(images).float() for each in (copied, network))
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()  # bfloat16, 38 layers deep
    assert not any(isinstance(module, FrozenNormConv2d) for module in copied.modules())
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == kept[name].dtype and torch.equal(tensor.cpu(), kept[name])


@pytest.mark.parametrize("half", [True, False])
def test_convolutions_compute_the_activations_that_follow(half, monkeypatch):
    number = torch.bfloat16 if half else torch.float32
    monkeypatch.setattr("wsss.models.ready.pick_device", lambda: torch.device("cpu"))
    monkeypatch.setattr("wsss.models.ready.precision", lambda device: number)
    torch.manual_seed(0)
    network = models.build_cam("mobilenet_v2", 4, head_channels=8).eval()
    network.adapt[0].bias.data.normal_()
    fused = ready(network)
    monkeypatch.setattr("wsss.models.ready.fuse_activations", lambda network: None)
    apart = ready(network)
    assert sum(isinstance(module, ActivatedConv2d) for module in fused.modules()) == 36
    images = torch.rand(2, 3, 129, 97).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        found = [*fused.backbone(images), fused.maps(images)]
        expected = [*apart.backbone(images), apart.maps(images)]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype and other.abs().max() > 0
        assert (one - other).abs().max() <= (0.02 if half else 1e-5) * other.abs().max()
