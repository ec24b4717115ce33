"""DeepLab's VGG16 and LargeFOV against plain functions, and Caffe's blobs in their places."""

import pytest
import torch
import torch.nn.functional as F

from wsss import models
from wsss.models.backbones.catalogue import build_backbone
from wsss.models.backbones.vgg16 import VGG16
from wsss.models.heads import LargeFovNetwork

WIDTHS = {"1": (64, 2), "2": (128, 2), "3": (256, 3), "4": (512, 3), "5": (512, 3)}


def reference(state, images, *, rate, pool5):
    """conv4_3, conv5_3 and fc7 after their activations, from an RGB photo in [0, 1]."""
    red, green, blue = (255 * images).unbind(1)
    x = torch.stack([blue - 104.008, green - 116.669, red - 122.675], 1)
    kept = {}
    for level, (_, count) in WIDTHS.items():
        for index in range(1, count + 1):
            name, apart = f"conv{level}_{index}", 2 if level == "5" else 1
            x = F.conv2d(
                x, state[f"{name}.weight"], state[f"{name}.bias"], padding=apart, dilation=apart
            ).relu()
        kept[level] = x
        if level != "5":
            x = F.max_pool2d(x, 3, 1 if level == "4" else 2, 1)
    if pool5:
        x = F.avg_pool2d(F.max_pool2d(x, 3, 1, 1), 3, 1, 1)
    x = F.conv2d(x, state["fc6.weight"], state["fc6.bias"], padding=rate, dilation=rate).relu()
    return kept["4"], kept["5"], F.conv2d(x, state["fc7.weight"], state["fc7.bias"]).relu()


def scaled(state):
    """Weights that keep activations alive through sixteen layers."""
    for name, tensor in state.items():
        if name.endswith("weight"):
            torch.nn.init.kaiming_normal_(tensor)
    return state


@pytest.mark.parametrize(("rate", "pool5"), [(1, False), (4, False), (12, True)])
def test_features_equal_the_plain_reference(rate, pool5):
    torch.manual_seed(0)
    backbone = build_backbone("vgg16", output_stride=8, rate=rate, pool5=pool5).eval()
    state = scaled(backbone.body.state_dict())
    images = torch.rand(2, 3, 41, 58)
    with torch.inference_mode():
        levels = backbone(images)[-3:]
        for level, wanted in zip(
            levels, reference(state, images, rate=rate, pool5=pool5), strict=True
        ):
            assert level.shape[-2:] == (6, 8) and wanted.std() > 0.01
            torch.testing.assert_close(level, wanted, rtol=1e-4, atol=1e-3)


def test_the_trunk_has_deeplabs_20_million_parameters():
    backbone = build_backbone("vgg16", output_stride=8)
    assert sum(p.numel() for p in backbone.parameters()) == 20_483_904


def test_networks_over_it_have_the_rates_of_the_released_code_and_of_largefov():
    cam = models.build_cam("vgg16", 20, output_stride=8)
    affinity = models.build_affinity("vgg16", norm_group=8)
    deeplab = models.build_segmentation("vgg16", 21, output_stride=8)
    assert [n.backbone.body.fc6.dilation[0] for n in (cam, affinity, deeplab)] == [1, 4, 12]
    assert [n.backbone.pool5 for n in (cam, affinity, deeplab)] == [False, False, True]
    assert isinstance(deeplab, LargeFovNetwork)
    assert [norm.num_groups for norm in affinity.norms] == [8, 16, 32]  # as released
    images = torch.rand(1, 3, 33, 50)
    with torch.inference_mode():
        assert deeplab.eval()(images).shape == (1, 21, 5, 7)
        assert affinity.eval()(images).shape == (1, 448, 5, 7)


def test_caffes_biases_are_flattened_and_its_last_layer_left_out():
    given = {"conv1_1.bias": torch.arange(3.0).view(1, 1, 1, 3), "fc8_voc12.weight": 0}
    found, skipped = VGG16.adapt(given)
    assert list(found) == ["conv1_1.bias"] and found["conv1_1.bias"].tolist() == [0, 1, 2]
    assert skipped == {"fc8_voc12.weight": "ImageNet's classifier"}
