"""One battery over all backbones: strides, shapes, frozen norms, weights that fit or do not fit."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from wsss import models
from wsss.errors import InputError
from wsss.models.backbones.catalogue import BACKBONES, build_backbone
from wsss.models.backbones.layers import FrozenNormConv2d, freeze_batch_norm

TORCHVISION = {
    "mobilenet_v2": torchvision_models.mobilenet_v2,
    "resnet50": torchvision_models.resnet50,
}


@pytest.mark.parametrize(
    ("backbone", "stride"),
    [(b, s) for b in models.BACKBONES for s in (8, 16) if s in BACKBONES[b].output_strides],
)
def test_levels_have_the_channels_and_strides_that_the_backbone_claims(backbone, stride):
    built = build_backbone(backbone, output_stride=stride).eval()
    with torch.inference_mode():
        features = built(torch.rand(1, 3, 70, 90))
    assert built.strides[-1] == stride
    for level, channels, cell in zip(features, built.channels, built.strides, strict=True):
        assert level.shape == (1, channels, -(-70 // cell), -(-90 // cell))


@pytest.mark.parametrize("backbone", ["small", "mobilenet_v2", "resnet50"])
@pytest.mark.parametrize("stride", [8, 16])
def test_a_cell_looks_at_the_pixels_around_its_own(backbone, stride):
    """With every kernel flat and nothing clipped, how strongly a pixel acts on a cell is symmetric
    about the pixel that the cell stands on.
    """
    built = build_backbone(backbone, output_stride=stride).eval()
    for parent in list(built.modules()):
        for name, child in parent.named_children():
            if isinstance(child, (nn.ReLU, nn.ReLU6, nn.BatchNorm2d)):
                setattr(parent, name, nn.Identity())
            elif isinstance(child, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(3, stride=2, padding=1))
            elif isinstance(child, nn.Conv2d):
                child.weight.data.fill_(1 / child.weight[0].numel())
    photo = torch.zeros(1, 3, 65, 1281, requires_grad=True)
    level = built(photo)[-1]
    level[0, 0, 32 // stride, 640 // stride].backward()
    weight = photo.grad[0].sum((0, 1)).numpy()
    assert (weight > 0).sum() > 16
    np.testing.assert_allclose(weight, weight[::-1], rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("backbone", models.BACKBONES)
def test_parts_cover_the_backbone_once(backbone):
    built = build_backbone(backbone, output_stride=8)
    named = [
        p
        for level in range(len(built.channels))
        for part in built.parts(level)
        for p in part.parameters()
    ]
    assert len({id(p) for p in named}) == len(named) == len(list(built.parameters()))


@pytest.mark.parametrize("backbone", TORCHVISION)
def test_atrous_backbone_equals_torchvision_on_every_stride_th_position(backbone):
    """Holding the stride back keeps the old positions' values: the dense map, sampled, is
    torchvision's own.
    """
    torch.manual_seed(0)
    reference = TORCHVISION[backbone](weights=None).eval()
    built = build_backbone(backbone, output_stride=8).eval()
    state = {
        k: v for k, v in reference.state_dict().items() if not k.startswith(("fc.", "classifier."))
    }
    built.body.load_state_dict(state)
    images = torch.rand(1, 3, 128, 128)
    built.double(), reference.double()
    images = images.double()
    normalised = built.normalise(images)
    with torch.inference_mode():
        dense = built(images)[-1]
        if backbone == "mobilenet_v2":
            coarse = reference.features(normalised)
        else:
            x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(normalised))))
            coarse = reference.layer4(reference.layer3(reference.layer2(reference.layer1(x))))
    torch.testing.assert_close(dense[:, :, ::4, ::4], coarse, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("backbone", TORCHVISION)
def test_frozen_norm_changes_no_output_and_no_gradient(backbone):
    torch.manual_seed(0)
    plain = build_backbone(backbone)
    for module in plain.modules():  # statistics of a trained net, not zeros and ones
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    frozen = build_backbone(backbone).double()
    frozen.load_state_dict(plain.state_dict())
    freeze_batch_norm(frozen)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.modules())
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    plain.double().eval()
    frozen.train()  # no module of it may behave differently in training
    outputs = [each(images)[-1] for each in (plain, frozen)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-6, atol=1e-9)
    for output in outputs:
        output.square().mean().backward()
    convolutions = [[m for m in t.modules() if isinstance(m, nn.Conv2d)] for t in (plain, frozen)]
    for a, b in zip(*convolutions, strict=True):
        torch.testing.assert_close(b.weight.grad, a.weight.grad, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("channels", [0, 12])
def test_maps_average_to_the_class_scores(channels):
    """Pooling and a linear layer commute: a CAM network's score is the mean of its map."""
    network = models.build_cam("small", 4, head_channels=channels).eval()
    images = torch.rand(2, 3, 48, 64)
    torch.testing.assert_close(network.maps(images).mean((2, 3)), network(images))


def test_affinity_features_have_stride_8_whatever_the_backbone():
    for stride in (8, 16):
        network = models.build_affinity("small", output_stride=stride, reduced=(4, 6, 8)).eval()
        assert network(torch.rand(1, 3, 50, 75)).shape == (1, 18, 7, 10)


def test_group_norms_follow_the_reductions_and_must_divide_them():
    network = models.build_affinity("small", reduced=(4, 8, 12), norm_group=4)
    assert [(n.num_groups, n.num_channels) for n in network.norms] == [(1, 4), (2, 8), (3, 12)]
    with pytest.raises(InputError, match="norm_group 8 does not divide all of reduced"):
        models.build_affinity("small", reduced=(4, 8, 12), norm_group=8)


@pytest.mark.parametrize("backbone", ["small", "mobilenet_v2", "vgg16"])
def test_recomputing_changes_no_gradient(backbone):
    torch.manual_seed(0)
    networks = [
        models.build_cam(backbone, 3, activation_checkpointing=r, output_stride=8)
        for r in (False, True)
    ]
    networks[1].load_state_dict(networks[0].state_dict())
    images = torch.rand(2, 3, 40, 56)
    for network in networks:
        torch.manual_seed(1)  # of dropout, whose draws must be the same the second time too
        network(images).square().sum().backward()
    for a, b in zip(*(n.parameters() for n in networks), strict=True):
        torch.testing.assert_close(b.grad, a.grad)


def test_frozen_levels_get_no_gradient_and_the_others_do():
    network = models.build_cam("mobilenet_v2", 3, frozen_stages=2)
    network(torch.rand(1, 3, 64, 64)).sum().backward()
    for level in range(4):
        for part in network.backbone.parts(level):
            for parameter in part.parameters():
                assert (parameter.grad is None) == (level < 2)
    assert len(network.head_parameters()) == 1 and network.classifier.weight.grad is not None


def test_segmentation_rate_spans_the_same_pixels_at_both_strides():
    spans = [
        models.build_segmentation("small", 5, output_stride=s).head[0].dilation[0] * s
        for s in (8, 16)
    ]
    assert spans == [96, 96]  # rate 12 at stride 8 (paper)
    near = [
        models.build_segmentation("small", 5, output_stride=s, dilation=16).head[3].dilation[0]
        for s in (8, 16)
    ]
    assert near == [2, 1]


def test_decoder_has_stride_8_whatever_the_backbone_and_spans_the_same_pixels():
    spans = set()
    for stride in (8, 16, 32):
        network = models.build_segmentation(
            "mobilenet_v2",
            5,
            output_stride=stride,
            channels=8,
            low_level_channels=[4, 6, 2],
            dilation=64,
        ).eval()
        assert network(torch.rand(1, 3, 50, 75)).shape == (1, 5, 7, 10)
        spans.add(network.atrous.dilation[0] * stride)
    assert spans == {64}


def test_a_decoder_takes_no_more_levels_than_there_are():
    with pytest.raises(
        InputError, match="low_level_channels lists 4 levels, but small has 3 before its last"
    ):
        models.build_segmentation("small", 5, low_level_channels=[4, 4, 4, 4])


def test_a_decoder_starts_from_the_activation_maps():
    torch.manual_seed(0)
    cam = models.build_cam("small", 4, output_stride=8).eval()
    decoder = models.build_segmentation(
        "small", 5, output_stride=8, channels=8, low_level_channels=[4, 4]
    ).eval()
    decoder.backbone.load_state_dict(cam.backbone.state_dict())
    for layer in (decoder.cam_head, decoder.image_level_head):
        layer.load_state_dict(cam.classifier.state_dict())
    images = torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        for tensor in decoder.classifier.parameters():
            tensor.zero_()
        scores, presence = decoder.with_presence(images)
        torch.testing.assert_close(scores[:, 1:], cam.maps(images))
        assert (scores[:, 0] == 0).all()
        torch.testing.assert_close(presence, cam(images))


def test_presence_weight_multiplies_the_odds_of_a_class_by_a_power_of_its_presence():
    torch.manual_seed(0)
    network = models.build_segmentation("small", 4, channels=8, low_level_channels=[4, 4]).eval()
    torch.nn.init.normal_(network.image_level_head.weight)
    images = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        before = network(images).softmax(1)
        network.presence_weight.fill_(0.5)
        after = network(images).softmax(1)
        _, presence = network.with_presence(images)
    odds = (before[:, 1:] / before[:, :1], after[:, 1:] / after[:, :1])
    torch.testing.assert_close(odds[1], odds[0] * presence.sigmoid().sqrt()[:, :, None, None])


@pytest.mark.parametrize("fine", [[], [4, 4]])
def test_favouring_rare_classes_is_dividing_by_a_power_of_their_share(fine):
    network = models.build_segmentation("small", 3, channels=8, low_level_channels=fine).eval()
    images, shares = torch.rand(1, 3, 32, 48), torch.tensor([0.9, 0.1, 0.0])
    with torch.no_grad():
        before = network(images).softmax(1)
        models.favour_rare(network, shares, strength=0.4)
        after = network(images).softmax(1)
    divided = before / torch.tensor([0.9**0.4, 0.1**0.4, 1.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(after, divided / divided.sum(1, keepdim=True))


def test_real_weights_fit_strictly(mobilenet_weights):
    network = models.build_cam("mobilenet_v2", 20, weights=mobilenet_weights)
    state = torch.load(mobilenet_weights, weights_only=True)
    first = next(m for m in network.backbone.modules() if isinstance(m, FrozenNormConv2d))
    assert torch.equal(first.weight, state["features.0.0.weight"])


def test_checkpoints_round_trip_and_parts_of_them(tmp_path):
    network = models.build_cam("small", 4)
    models.save_state(network, tmp_path / "weights.pt")
    again = models.build_cam("small", 4)
    models.load_into(again, tmp_path / "weights.pt")
    backbone = models.build_affinity("small", reduced=(4, 6, 8)).backbone
    models.load_into(backbone, tmp_path / "weights.pt", prefix="backbone.")
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
        if name.startswith("backbone."):
            kept = backbone.state_dict()[name.removeprefix("backbone.")]
            assert torch.equal(kept, tensor)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


class Unwanted:
    """Something that must never be unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("the file's code was run",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such weight file"),
        (b"not a file of torch", "not a state dict"),
        ({"code": Unwanted()}, "not a state dict"),
        ([torch.zeros(2)], "expected a dict of name to tensor"),
        ({"classifier.weight": torch.zeros(9, 128, 1, 1)}, "has no 'backbone"),
    ],
)
def test_wrong_weight_files_are_refused_by_name(tmp_path, content, reason):
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=reason) as raised:
        models.load_into(models.build_cam("small", 4), path)
    assert "w.pth" in str(raised.value) and "\n" not in str(raised.value)


def test_weights_of_another_shape_name_the_tensor(tmp_path):
    models.save_state(models.build_cam("small", 5), tmp_path / "w.pt")
    with pytest.raises(
        InputError,
        match=r"'classifier.weight' of shape \(5, 128, 1, 1\), expected \(4, 128, 1, 1\)",
    ):
        models.load_into(models.build_cam("small", 4), tmp_path / "w.pt")


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="expected one of: resnet38, vgg16, resnet50"):
        models.build_cam("resnet51", 4)
    with pytest.raises(InputError, match="expected one of: 8, 16"):
        models.build_cam("small", 4, output_stride=32)
    with pytest.raises(InputError, match="leave weights empty"):
        models.build_cam("small", 4, weights="download")
