"""The networks' heads against convolutions written out, on a backbone that samples the photo."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsss.geometry import upsample
from wsss.models import heads
from wsss.models.backbones.layers import Backbone


class Sampled(Backbone):
    """Levels that are the photo's own pixels at several strides, weighed by channel."""

    def __init__(self, channels, strides):
        super().__init__()
        self.channels, self.strides = channels, strides
        self.gain = torch.nn.Parameter(torch.ones(()))

    def forward(self, images):
        return [
            self.gain * torch.linspace(0.3, 2, width)[:, None, None] * (images[:, :1, ::s, ::s] - k)
            for k, (width, s) in enumerate(zip(self.channels, self.strides, strict=True))
        ]


def backbone(last=16):
    return Sampled((2, 3, 4), (4, 8, last))


def photos(height=20, width=41):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def seeded(network):
    """The network in evaluation mode, with weights of which none is near zero."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator) - 0.3
    return network.eval()


def convolved(x, layer, rate=1):
    """A convolution as a sum over its kernel's places; a cell outside the map is zero."""
    weight, (height, width) = layer.weight, x.shape[-2:]
    reach = rate * (weight.shape[-1] // 2)
    padded = F.pad(x, [reach] * 4)
    total = 0 if layer.bias is None else layer.bias[:, None, None]
    for i, j in np.ndindex(*weight.shape[-2:]):
        seen = padded[..., rate * i : rate * i + height, rate * j : rate * j + width]
        if layer.groups == 1:
            total = total + torch.einsum("oc,bchw->bohw", weight[:, :, i, j], seen)
        else:  # one for each channel
            total = total + weight[:, 0, i, j, None, None] * seen
    return total


def at_stride_8(level, stride, images):
    """A level on the grid of stride 8."""
    size = [-(-side // 8) for side in images.shape[-2:]]
    return level[..., :: 8 // stride, :: 8 // stride] if stride < 8 else upsample(level, size)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def own_parameters(network):
    """Numbers of the parameters outside the backbone."""
    return {id(p) for p in network.parameters()} - {id(p) for p in network.backbone.parameters()}


@torch.no_grad()
@pytest.mark.parametrize("channels", [0, 5])
def test_a_cam_network_s_scores_are_the_means_of_its_maps(channels):
    network = seeded(heads.CamNetwork(backbone(), 3, channels=channels))
    assert network.classifier.bias is None and network.dropout.p == 0.5
    assert {id(p) for p in network.head_parameters()} == own_parameters(network)
    images = photos()
    features = network.backbone(images)[-1]
    if channels:
        features = convolved(features, network.adapt[0]).clamp(min=0)
    maps = convolved(features, network.classifier)
    assert maps.shape == (2, 3, 2, 3)
    close(network.maps(images), maps)
    close(network(images), maps.mean((2, 3)))


def test_a_cam_network_has_no_convolution_before_the_classifier_by_default():
    network = heads.CamNetwork(backbone(), 3)
    assert len(network.adapt) == 0 and network.classifier.in_channels == 4
    assert heads.CamNetwork(backbone(), 3, dropout=0.2).dropout.p == 0.2


@torch.no_grad()
@pytest.mark.parametrize("size", [(20, 41), (16, 24), (1, 7)])
@pytest.mark.parametrize("norm_group", [0, 2])
def test_affinity_features_mix_the_reduced_levels_at_stride_8(norm_group, size):
    options = {"norm_group": norm_group} if norm_group else {}
    network = seeded(heads.AffinityNetwork(backbone(), reduced=[4, 6], **options))
    assert network.mix.bias is None and all(layer.bias is None for layer in network.reduce)
    images = photos(*size)
    joined = []
    levels = zip(network.backbone(images)[1:], (8, 16), strict=True)
    for layer, norm, (level, stride) in zip(network.reduce, network.norms, levels, strict=True):
        reduced = convolved(level, layer)
        if norm_group:  # channels that share a mean and a variance
            groups = reduced.unflatten(1, (-1, norm_group))
            mean = groups.mean((2, 3, 4), keepdim=True)
            variance = groups.var((2, 3, 4), keepdim=True, correction=0)
            reduced = ((groups - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
            reduced = reduced * norm.weight[:, None, None] + norm.bias[:, None, None]
        joined.append(at_stride_8(F.elu(reduced), stride, images))
    expected = F.elu(convolved(torch.cat(joined, 1), network.mix))
    assert expected.shape == (2, 10, -(-size[0] // 8), -(-size[1] // 8))
    close(network(images), expected)


@torch.no_grad()
@pytest.mark.parametrize(("last", "dilation", "rate"), [(16, 32, 2), (8, 32, 4), (16, 8, 1)])
def test_the_paper_s_segmentation_head_is_two_atrous_convolutions(last, dilation, rate):
    network = heads.SegmentationNetwork(backbone(last), 3, channels=5, dilation=dilation)
    network = seeded(network)
    assert network.classifier is network.head[3] and network.head[2].p == 0.5
    images = photos()
    hidden = convolved(network.backbone(images)[-1], network.head[0], rate).clamp(min=0)
    close(network(images), convolved(hidden, network.head[3], rate))


@torch.no_grad()
def test_deeplab_s_head_is_a_convolution_of_1x1():
    network = seeded(heads.LargeFovNetwork(backbone(), 3))
    assert network.dropout.p == 0.5
    images = photos()
    close(network(images), convolved(network.backbone(images)[-1], network.classifier))


@torch.no_grad()
@pytest.mark.parametrize("low_level_channels", [[5], [2, 3]])
@pytest.mark.parametrize(("last", "dilation", "rate"), [(16, 32, 2), (8, 16, 2), (16, 8, 1)])
def test_a_decoder_adds_context_edges_and_activation_maps(low_level_channels, last, dilation, rate):
    network = heads.DecoderNetwork(
        backbone(last), 4, channels=6, dilation=dilation, low_level_channels=low_level_channels
    )
    network = seeded(network)
    assert network.dropout.p == 0.1 and network.presence_weight == 0
    assert network.cam_head.bias is None and network.image_level_head.bias is None
    images = photos()
    *levels, deep = network.backbone(images)
    levels = levels[-len(low_level_channels) :]
    mean = deep.mean((2, 3), keepdim=True)
    presence = convolved(mean, network.image_level_head).flatten(1)
    projected = convolved(deep, network.project).clamp(min=0)
    pooled = convolved(projected.mean((2, 3), keepdim=True), network.image_pool)
    context = (convolved(projected, network.atrous, rate) + pooled).clamp(min=0)
    joined = [at_stride_8(context, last, images)]
    strides = (4, 8)[-len(levels) :]
    for layer, level, stride in zip(network.reduce, levels, strides, strict=True):
        joined.append(at_stride_8(convolved(level, layer).clamp(min=0), stride, images))
    mixed = convolved(convolved(torch.cat(joined, 1), network.mix[0]), network.mix[1])
    expected = convolved(mixed.clamp(min=0), network.classifier)
    expected[:, 1:] += at_stride_8(convolved(deep, network.cam_head), last, images)
    scores, shown = network.with_presence(images)
    close(scores, expected)
    close(shown, presence)
    close(network(images), expected)
    network.presence_weight.fill_(0.7)
    expected[:, 1:] -= 0.7 * torch.log(1 + torch.exp(-presence))[:, :, None, None]
    close(network(images), expected)


def test_a_decoder_drops_whole_pictures_means_in_training_alone():
    network = heads.DecoderNetwork(
        backbone(), 3, channels=6, dilation=16, low_level_channels=[2]
    ).train()
    torch.manual_seed(0)
    drawn = {network.with_presence(photos())[1][0, 0].item() for _ in range(20)}
    assert len(drawn) > 2


def test_logarithms_of_shares_and_scores_that_favour_the_rare():
    shares = [0.5, 0.25, 0.0, 0.25]
    found = heads.log_shares(shares)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([np.log(0.5), np.log(0.25), 0, np.log(0.25)])
    torch.testing.assert_close(heads.log_shares(torch.tensor(shares)), found)
    network = heads.LargeFovNetwork(backbone(), 4)
    before = network.classifier.bias.tolist()
    for strength in (0.4, -0.4):
        heads.favour_rare(network, shares, strength=strength)
        if strength > 0:
            wanted = [
                b - 0.4 * (np.log(s) if s else 0) for b, s in zip(before, shares, strict=True)
            ]
            assert network.classifier.bias.tolist() == pytest.approx(wanted)
    assert network.classifier.bias.tolist() == pytest.approx(before)
    assert network.classifier.bias.requires_grad


def test_a_segmenter_with_a_walk_scores_as_its_network_and_keeps_the_constants():
    scorer, walker = torch.nn.Conv2d(3, 2, 1), torch.nn.Conv2d(3, 4, 1)
    network = heads.RandomWalkSegmenter(scorer, walker, beta=3, steps=5)
    assert network.walk == {"beta": 3, "steps": 5}
    assert torch.equal(network(photos()), scorer(photos()))
    names = {name.split(".")[0] for name in network.state_dict()}
    assert names == {"segmentation", "affinity"}
