"""Trunks: from an RGB photo in [0, 1] to feature maps, with the stride held back by atrous
convolution.

A trunk is a module with ``channels`` (of each level it returns, coarsest last), ``strides``
(likewise), ``parts(level)``, the modules that make that level from the one before, and
``forward(images (B, 3, H, W) in [0, 1]) -> list of (B, channels, ceil(H/stride), ceil(W/stride))``.
It normalises its input itself, since that belongs to the weights.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models

from wsss.errors import InputError


class Normalise(nn.Module):
    """Subtract the mean and divide by the standard deviation that the weights were trained with."""

    def __init__(self, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images):
        return (images - self.mean) / self.std


class ResNet50(nn.Module):
    """torchvision's ResNet-50 with the last one or two levels atrous."""

    pretrained = models.ResNet50_Weights.IMAGENET1K_V1
    output_strides = (8, 16, 32)

    def __init__(self, output_stride):
        super().__init__()
        atrous = [False, output_stride == 8, output_stride <= 16]
        self.normalise = Normalise()
        self.body = models.resnet50(weights=None, replace_stride_with_dilation=atrous)
        del self.body.fc
        self.channels = (256, 512, 1024, 2048)
        self.strides = (4, 8, min(16, output_stride), output_stride)

    def parts(self, level):
        body = self.body
        stem = [body.conv1, body.bn1] if level == 0 else []
        return [*stem, (body.layer1, body.layer2, body.layer3, body.layer4)[level]]

    def forward(self, images):
        body = self.body
        x = body.maxpool(body.relu(body.bn1(body.conv1(self.normalise(images)))))
        features = []
        for layer in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = layer(x)
            features.append(x)
        return features


class MobileNetV2(nn.Module):
    """torchvision's MobileNetV2 with the blocks after the output stride atrous."""

    pretrained = models.MobileNet_V2_Weights.IMAGENET1K_V1
    output_strides = (8, 16, 32)
    ends = (3, 6, 13, 18)  # the last block of each level in torchvision's `features`

    def __init__(self, output_stride):
        super().__init__()
        self.normalise = Normalise()
        self.body = models.mobilenet_v2(weights=None)
        del self.body.classifier
        self.channels = (24, 32, 96, 1280)
        self.strides = (4, 8, min(16, output_stride), output_stride)
        stride, dilation = 1, 1
        for module in self.body.features.modules():
            if not isinstance(module, nn.Conv2d) or module.kernel_size == (1, 1):
                continue
            # a strided convolution past the output stride keeps its own dilation; those after it
            # double theirs
            before = dilation
            if module.stride == (2, 2):
                if stride == output_stride:
                    dilation *= 2
                    module.stride = (1, 1)
                else:
                    stride *= 2
            module.dilation = (before, before)
            module.padding = (before, before)
        for module in self.body.modules():
            if isinstance(module, nn.ReLU6):
                module.inplace = (
                    False  # in place, its backward keeps a copy of the input all the same
                )

    def parts(self, level):
        return list(self.body.features[([-1, *self.ends][level] + 1) : self.ends[level] + 1])

    def forward(self, images):
        x = self.normalise(images)
        features = []
        for index, block in enumerate(self.body.features):
            x = block(x)
            if index in self.ends:
                features.append(x)
        return features


class Small(nn.Module):
    """A light net for the built-in dataset, trained from scratch: four levels, 0.3 M parameters."""

    pretrained = None
    output_strides = (8, 16)

    def __init__(self, output_stride):
        super().__init__()
        self.normalise = Normalise()
        self.channels = (16, 32, 64, 128)
        self.strides = (2, 4, 8, 8) if output_stride == 8 else (2, 4, 8, 16)
        levels, inputs = [], 3
        for index, outputs in enumerate(self.channels):
            stride = 2 if index == 0 or self.strides[index] > self.strides[index - 1] else 1
            dilation = 2 if index == 3 and output_stride == 8 else 1
            levels.append(
                nn.Sequential(
                    *self._convolution(inputs, outputs, stride=stride),
                    *self._convolution(outputs, outputs, dilation=dilation),
                )
            )
            inputs = outputs
        self.levels = nn.ModuleList(levels)

    @staticmethod
    def _convolution(inputs, outputs, *, stride=1, dilation=1):
        return (
            nn.Conv2d(
                inputs,
                outputs,
                3,
                stride=stride,
                padding=dilation,
                dilation=dilation,
                bias=False,
            ),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    def parts(self, level):
        return [self.levels[level]]

    def forward(self, images):
        x = self.normalise(images)
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


class FrozenNormConv2d(nn.Conv2d):
    """A convolution and the frozen batch norm after it, in one pass over the data.

    The weight stays as it was before the norm, and is scaled on the way, so training takes the same
    steps as with a batch norm in evaluation mode.
    """

    def __init__(self, conv, norm):
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            bias=False,
        )
        self.weight = conv.weight
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        self.register_buffer("scale", scale.detach().view(-1, 1, 1, 1).clone())
        self.register_buffer("shift", (norm.bias - norm.running_mean * scale).detach().clone())

    def forward(self, x):
        return F.conv2d(
            x,
            self.weight * self.scale,
            self.shift,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


def freeze_batch_norm(trunk):
    """Turn every convolution followed by a batch norm into a ``FrozenNormConv2d``, in place."""
    for parent in list(trunk.modules()):
        children = list(parent.named_children())
        for (name, conv), (following, norm) in itertools.pairwise(children):
            if type(conv) is nn.Conv2d and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, FrozenNormConv2d(conv, norm))
                setattr(parent, following, nn.Identity())


TRUNKS = {"resnet50": ResNet50, "mobilenet_v2": MobileNetV2, "small": Small}


def build_trunk(backbone, *, output_stride=16):
    """The trunk of that name without weights; ``output_stride`` is in pixels a cell."""
    if backbone not in TRUNKS:
        raise InputError(
            f"backbone '{backbone}' is not known; expected one of: {', '.join(TRUNKS)}"
        )
    possible = TRUNKS[backbone].output_strides
    if output_stride not in possible:
        raise InputError(
            f"output_stride {output_stride} is not supported by {backbone}; expected one of: "
            + ", ".join(map(str, possible))
        )
    return TRUNKS[backbone](output_stride)
