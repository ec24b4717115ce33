"""Backbones: from an RGB photo in [0, 1] to feature maps, with the stride held back by atrous
convolution.

A backbone is a module with ``channels`` (of each level it returns, coarsest last), ``strides``
(likewise), ``parts(level)``, the modules that make that level from the one before, and
``forward(images (B, 3, H, W) in [0, 1]) -> list of (B, channels, ceil(H/stride), ceil(W/stride))``.
It normalises its input itself, since that belongs to the weights, and says which they are:
``origin`` in words (None: there are none), ``offered`` by torchvision under a name (else None),
``adapt(state) -> (the body's state dict, {name: why it was left out})`` from the file's own names.
With ``activation_checkpointing`` set it trains in less memory (see ``layers.step``).
"""

from torch import nn

from wsss.errors import InputError
from wsss.models.backbones.layers import Normalise, step
from wsss.models.backbones.resnet38 import ResNet38
from wsss.models.backbones.vgg16 import VGG16


class ResNet50(nn.Module):
    """torchvision's ResNet-50 with the last one or two levels atrous."""

    origin = "torchvision's resnet50, IMAGENET1K_V1"
    offered = "ResNet50_Weights.IMAGENET1K_V1"
    output_strides = (8, 16, 32)

    def __init__(self, output_stride):
        from torchvision import models  # slow to import, and the built-in dataset needs none

        super().__init__()
        atrous = [False, output_stride == 8, output_stride <= 16]
        self.normalise = Normalise()
        self.body = models.resnet50(weights=None, replace_stride_with_dilation=atrous)
        del self.body.fc
        self.channels = (256, 512, 1024, 2048)
        self.strides = (4, 8, min(16, output_stride), output_stride)
        self.activation_checkpointing = False

    def parts(self, level):
        body = self.body
        stem = [body.conv1, body.bn1] if level == 0 else []
        return [*stem, (body.layer1, body.layer2, body.layer3, body.layer4)[level]]

    def forward(self, images):
        body = self.body
        x = body.maxpool(body.relu(body.bn1(body.conv1(self.normalise(images)))))
        features = []
        for layer in (body.layer1, body.layer2, body.layer3, body.layer4):
            for block in layer:
                x = step(self, block, x)
            features.append(x)
        return features

    @staticmethod
    def adapt(state):
        return without_classifier(state, "fc.")


class MobileNetV2(nn.Module):
    """torchvision's MobileNetV2 with the blocks after the output stride atrous."""

    origin = "torchvision's mobilenet_v2, IMAGENET1K_V1"
    offered = "MobileNet_V2_Weights.IMAGENET1K_V1"
    output_strides = (8, 16, 32)
    ends = (3, 6, 13, 18)  # the last block of each level in torchvision's `features`

    def __init__(self, output_stride):
        from torchvision import models

        super().__init__()
        self.normalise = Normalise()
        self.body = models.mobilenet_v2(weights=None)
        del self.body.classifier
        self.channels = (24, 32, 96, 1280)
        self.strides = (4, 8, min(16, output_stride), output_stride)
        self.activation_checkpointing = False
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
            x = step(self, block, x)
            if index in self.ends:
                features.append(x)
        return features

    @staticmethod
    def adapt(state):
        return without_classifier(state, "classifier.")


class Small(nn.Module):
    """A light net for the built-in dataset, trained from scratch: four levels, 0.3 M parameters."""

    origin = offered = None
    output_strides = (8, 16)

    def __init__(self, output_stride):
        super().__init__()
        self.normalise = Normalise()
        self.channels = (16, 32, 64, 128)
        self.strides = (2, 4, 8, 8) if output_stride == 8 else (2, 4, 8, 16)
        self.activation_checkpointing = False
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
            x = step(self, level, x)
            features.append(x)
        return features


def without_classifier(state, beginning):
    """A state dict less the tensors of ImageNet's classifier, and those with the reason."""
    skipped = {name: "ImageNet's classifier" for name in state if name.startswith(beginning)}
    return {name: tensor for name, tensor in state.items() if name not in skipped}, skipped


BACKBONES = {
    "resnet38": ResNet38,
    "vgg16": VGG16,
    "resnet50": ResNet50,
    "mobilenet_v2": MobileNetV2,
    "small": Small,
}


def build_backbone(backbone, *, output_stride=16, **own):
    """The backbone of that name without weights; ``output_stride`` in pixels a cell, ``own`` are
    arguments that only this backbone takes (``VGG16``).
    """
    if backbone not in BACKBONES:
        raise InputError(
            f"backbone '{backbone}' is not known; expected one of: {', '.join(BACKBONES)}"
        )
    possible = BACKBONES[backbone].output_strides
    if output_stride not in possible:
        raise InputError(
            f"output_stride {output_stride} is not supported by {backbone}; expected one of: "
            + ", ".join(map(str, possible))
        )
    return BACKBONES[backbone](output_stride, **own)
