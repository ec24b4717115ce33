"""VGG16 as DeepLab changed it (Chen et al., ICLR 2015): stride 8, pools of 3, and fc6 and fc7 as
light convolutions. ``rate`` is 1 for the released code's activation maps, 4 for its affinities and
12 for DeepLab-LargeFOV.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from wsss.models.backbones.layers import Backbone, State

BLUE_GREEN_RED_MEAN = (104.008, 116.669, 122.675)  # of ImageNet, 0 to 255, as Caffe had it


class Body(nn.Module):
    """The layers by their Caffe names."""

    levels = (
        ("conv1_1", "conv1_2"),
        ("conv2_1", "conv2_2"),
        ("conv3_1", "conv3_2", "conv3_3"),
        ("conv4_1", "conv4_2", "conv4_3"),
        ("conv5_1", "conv5_2", "conv5_3"),
        ("fc6", "fc7"),
    )

    def __init__(self, rate: int) -> None:
        super().__init__()
        inputs = 3
        for level, width in zip(self.levels[:5], (64, 128, 256, 512, 512), strict=True):
            apart = 2 if level[0] == "conv5_1" else 1  # pool4 no longer halves
            for name in level:
                self.add_module(name, nn.Conv2d(inputs, width, 3, padding=apart, dilation=apart))
                inputs = width
        self.fc6 = nn.Conv2d(512, 1024, 3, padding=rate, dilation=rate)
        self.fc7 = nn.Conv2d(1024, 1024, 1)


class VGG16(Backbone):
    """DeepLab's VGG16, 20 M parameters. ``rate`` is the dilation of fc6, in cells; ``pool5`` pools
    before fc6, by maximum and then by mean, as DeepLab-LargeFOV does, unlike the released code.
    """

    origin = "vgg16_20M.caffemodel, DeepLab's own ImageNet weights"
    classifier = "fc8"
    output_strides = (8,)

    def __init__(self, output_stride: int, *, rate: int = 1, pool5: bool = False) -> None:
        super().__init__(mean=BLUE_GREEN_RED_MEAN)
        self.body = Body(rate)
        self.pool5 = pool5
        self.dropout = nn.Dropout2d(0.5)
        self.channels = (64, 128, 256, 512, 512, 1024)
        self.strides = (1, 2, 4, 8, 8, 8)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """RGB in [0, 1] to Caffe's input: blue first, 0 to 255, minus the mean."""
        return 255 * images.flip(1) - self.mean

    def blocks(self, level: int) -> list[Callable[[torch.Tensor], torch.Tensor]]:
        return [partial(self._level, level)]

    def _level(self, level, x):
        if 0 < level < 5:
            x = F.max_pool2d(x, 3, stride=2 if level < 4 else 1, padding=1)
        if level == 5 and self.pool5:
            x = F.avg_pool2d(F.max_pool2d(x, 3, stride=1, padding=1), 3, stride=1, padding=1)
        for name in Body.levels[level]:
            x = F.relu(getattr(self.body, name)(x))
            if name == "fc6":
                x = self.dropout(x)
        return x

    @classmethod
    def adapt(cls, state: State) -> tuple[State, dict[str, str]]:
        """As ``Backbone.adapt``; Caffe kept biases as (1, 1, 1, n)."""
        found, skipped = super().adapt(state)
        return {n: t.flatten() if n.endswith(".bias") else t for n, t in found.items()}, skipped
