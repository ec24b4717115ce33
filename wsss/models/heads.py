"""The three networks of the method: a trunk with a head for activation maps, affinities or
segmentation.
"""

import torch
import torch.nn.functional as F
from torch import nn

from wsss.geometry import upsample


class Network(nn.Module):
    """A trunk and a head; ``head_parameters`` learn faster than the trunk's, which come pretrained.

    Args:
        trunk: see ``backbones``.
        frozen_levels: how many of the trunk's first levels keep their weights in training.
    """

    def __init__(self, trunk, *, frozen_levels=0):
        super().__init__()
        self.trunk = trunk
        for level in range(frozen_levels):
            for part in trunk.parts(level):
                part.requires_grad_(False)

    def head_parameters(self):
        trunk = {id(parameter) for parameter in self.trunk.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in trunk]


class CamNetwork(Network):
    """A multi-label classifier whose last layer is a 1x1 convolution, so that it also yields
    maps.
    """

    def __init__(self, trunk, num_classes, *, dropout=0.5, frozen_levels=0):
        super().__init__(trunk, frozen_levels=frozen_levels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(trunk.channels[-1], num_classes, 1, bias=False)

    def forward(self, images):
        """Class scores before the sigmoid, (B, classes): the maps' mean over all positions."""
        features = self.trunk(images)[-1]
        pooled = self.dropout(F.adaptive_avg_pool2d(features, 1))
        return self.classifier(pooled).flatten(1)

    def maps(self, images):
        """Equation 1 before normalisation: ``w_c . f_cam(p)``, (B, classes, h, w), any sign."""
        return self.classifier(self.trunk(images)[-1])


class AffinityNetwork(Network):
    """Levels of the trunk, each reduced by a 1x1 convolution, joined, and mixed by another.

    The result is one feature map at ``stride`` pixels a cell; the L1 distance of two of its cells
    is the logarithm of their affinity with its sign turned (equation 3).
    """

    stride = 8

    def __init__(self, trunk, *, reduced=(64, 128, 256), frozen_levels=0):
        super().__init__(trunk, frozen_levels=frozen_levels)
        levels = trunk.channels[-len(reduced) :]
        self.reduce = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 1, bias=False)
            for inputs, outputs in zip(levels, reduced, strict=True)
        )
        self.mix = nn.Conv2d(sum(reduced), sum(reduced), 1, bias=False)

    def forward(self, images):
        """Features of shape (B, channels, ceil(H/8), ceil(W/8))."""
        levels = self.trunk(images)[-len(self.reduce) :]
        size = [-(-side // self.stride) for side in images.shape[-2:]]
        reduced = [
            self._at_stride(F.elu(layer(level)), size)
            for layer, level in zip(self.reduce, levels, strict=True)
        ]
        return F.elu(self.mix(torch.cat(reduced, 1)))

    @staticmethod
    def _at_stride(level, size):
        step = -(-level.shape[-1] // size[1])  # 1 but for levels finer than the features
        return upsample(level[..., ::step, ::step], size)


class SegmentationNetwork(Network):
    """The paper's own head: two 3x3 atrous convolutions.

    Args:
        reach: pixels from a convolution's middle tap to its outer ones, kept at any stride; the
            paper's rate of 12 at stride 8 is 96, for photos of 500 pixels.
    """

    def __init__(self, trunk, num_classes, *, channels=512, reach=96, frozen_levels=0):
        super().__init__(trunk, frozen_levels=frozen_levels)
        rate = max(1, reach // trunk.strides[-1])
        self.head = nn.Sequential(
            nn.Conv2d(trunk.channels[-1], channels, 3, padding=rate, dilation=rate),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.5),
            nn.Conv2d(channels, num_classes, 3, padding=rate, dilation=rate),
        )

    def forward(self, images):
        """Class scores before the softmax, (B, classes with background, h, w) at the output
        stride.
        """
        return self.head(self.trunk(images)[-1])
