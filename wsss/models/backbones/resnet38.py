"""ResNet-38, "model A1" of Wu et al. (Wider or Deeper, 2016), the paper's backbone: wide, and
pre-activated (a block normalises, activates, then convolves). Tensors are named as in the authors'
checkpoints (``b5_1.conv_branch2a.weight``), which respell the original MXNet file's names.
"""

import re

import torch
import torch.nn.functional as F
from torch import nn

from wsss.models.backbones.layers import Backbone, conv3x3

# from the MXNet file's names to ours: aux:bn5b1_branch2a_moving_mean, b5_1.bn_branch2a.running_mean
RESPELL = {
    r"^(arg|aux):": "",
    r"^(res|bn)(\d)a_": r"b\2.\1_",  # the first block of a level
    r"^(res|bn)(\d)b(\d)_": r"b\2_\3.\1_",
    r"\.res_": ".conv_",
    r"_(weight|gamma)$": ".weight",
    r"_beta$": ".bias",
    r"_moving_(mean|var)$": r".running_\1",
}


class Block(nn.Module):
    """Two 3x3 convolutions beside the identity, or a 1x1 convolution where the shape changes."""

    def __init__(self, inputs, middle, outputs, *, stride=1, first_dilation=1, dilation=1):
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = conv3x3(inputs, middle, stride=stride, dilation=first_dilation)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = conv3x3(middle, outputs, dilation=dilation)
        self.conv_branch1 = None
        if inputs != outputs or stride != 1:
            self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = activate(self, x)
        beside = x if self.conv_branch1 is None else self.conv_branch1(active)
        x = F.relu(self.bn_branch2b1(self.conv_branch2a(active)))
        return beside + self.conv_branch2b1(x)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last two behind dropout, beside a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, *, dilation: int, dropout: float) -> None:
        super().__init__()
        quarter, half = outputs // 4, outputs // 2
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(inputs, quarter, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(quarter)
        self.conv_branch2b1 = conv3x3(quarter, half, dilation=dilation)
        self.bn_branch2b2 = nn.BatchNorm2d(half)
        self.conv_branch2b2 = nn.Conv2d(half, outputs, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = activate(self, x)
        x = F.relu(self.bn_branch2b1(self.conv_branch2a(active)))
        x = F.relu(self.bn_branch2b2(self.conv_branch2b1(self.dropout(x))))
        return self.conv_branch1(active) + self.conv_branch2b2(self.dropout(x))


def activate(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The input of a block's convolutions."""
    return F.relu(block.get_submodule("bn_branch2a")(x))


class Body(nn.Module):
    """The layers by the authors' names; ``levels`` lists their order."""

    levels = (
        ("conv1a", "b2", "b2_1", "b2_2"),
        ("b3", "b3_1", "b3_2"),
        ("b4", "b4_1", "b4_2", "b4_3", "b4_4", "b4_5"),
        ("b5", "b5_1", "b5_2"),
        ("b6", "b7", "bn7"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.conv1a = conv3x3(3, 64)
        inputs = 64
        for level, width in zip(self.levels[:3], (128, 256, 512), strict=True):
            for name in level:
                if name != "conv1a":
                    stride = 1 if inputs == width else 2
                    self.add_module(name, Block(inputs, width, width, stride=stride))
                    inputs = width
        # from here on the stride stays and the convolutions are dilated instead
        self.b5 = Block(512, 512, 1024, dilation=2)
        self.b5_1 = Block(1024, 512, 1024, first_dilation=2, dilation=2)
        self.b5_2 = Block(1024, 512, 1024, first_dilation=2, dilation=2)
        self.b6 = Bottleneck(1024, 2048, dilation=4, dropout=0.3)
        self.b7 = Bottleneck(2048, 4096, dilation=4, dropout=0.5)
        self.bn7 = nn.BatchNorm2d(4096)


class ResNet38(Backbone):
    """ResNet-38 with the last levels atrous, stride 8; 105 M parameters.

    As in the released code, a level's features are the input of the next block's convolutions,
    after its norm and activation: the last three levels are its ``conv4``, ``conv5``, ``conv6``.
    """

    origin = "ilsvrc-cls_rna-a1_cls1000_ep-0001.params, the MXNet file of 'Wider or Deeper'"
    classifier = "linear1000"
    output_strides = (8,)

    def __init__(self, output_stride: int) -> None:
        super().__init__()
        self.body = Body()
        self.channels = (128, 256, 512, 1024, 4096)
        self.strides = (2, 4, 8, 8, 8)

    def blocks(self, level: int) -> list[nn.Module]:
        return self.parts(level)[: -1 if level == 4 else None]  # without bn7

    def output(self, level: int, x: torch.Tensor) -> torch.Tensor:
        if level == 4:
            return F.relu(self.body.bn7(x))
        return activate(self.parts(level + 1)[0], x)

    @staticmethod
    def own_name(name: str) -> str:
        for pattern, replacement in RESPELL.items():
            name = re.sub(pattern, replacement, name)
        return name
