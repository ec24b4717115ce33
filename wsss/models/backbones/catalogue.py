"""The backbones by name: torchvision's networks, a small one, and those of the other files."""

from torch import nn

from wsss.errors import InputError, did_you_mean
from wsss.models.backbones.layers import Backbone, conv3x3
from wsss.models.backbones.resnet38 import ResNet38
from wsss.models.backbones.vgg16 import VGG16


class ResNet50(Backbone):
    """torchvision's ResNet-50 with the last one or two levels atrous."""

    origin = "torchvision's resnet50, IMAGENET1K_V1"
    offered = "ResNet50_Weights.IMAGENET1K_V1"
    classifier = "fc."
    output_strides = (8, 16, 32)

    def __init__(self, output_stride: int) -> None:
        from torchvision import models  # slow to import, and the built-in dataset needs none

        super().__init__()
        atrous = [False, output_stride == 8, output_stride <= 16]
        self.body = models.resnet50(weights=None, replace_stride_with_dilation=atrous)
        del self.body.fc
        self.channels = (256, 512, 1024, 2048)
        self.strides = (4, 8, min(16, output_stride), output_stride)

    def parts(self, level: int) -> list[nn.Module]:
        body = self.body
        stem = [nn.Sequential(body.conv1, body.bn1, body.relu, body.maxpool)] if level == 0 else []
        return [*stem, *(body.layer1, body.layer2, body.layer3, body.layer4)[level]]


class MobileNetV2(Backbone):
    """torchvision's MobileNetV2 with the blocks after the output stride atrous."""

    origin = "torchvision's mobilenet_v2, IMAGENET1K_V1"
    offered = "MobileNet_V2_Weights.IMAGENET1K_V1"
    classifier = "classifier."
    output_strides = (8, 16, 32)
    ends = (0, 4, 7, 14, 19)  # of each level in torchvision's `features`

    def __init__(self, output_stride: int) -> None:
        from torchvision import models

        super().__init__()
        self.body = models.mobilenet_v2(weights=None)
        del self.body.classifier
        self.channels = (24, 32, 96, 1280)
        self.strides = (4, 8, min(16, output_stride), output_stride)
        stride, dilation = 1, 1
        for module in self.body.features.modules():
            if isinstance(module, nn.ReLU6):
                module.inplace = False  # in place, its backward would copy the input anyway
            if not isinstance(module, nn.Conv2d) or module.kernel_size == (1, 1):
                continue
            # a strided convolution past the output stride keeps its own dilation; those after it
            # double theirs
            module.dilation = module.padding = (dilation, dilation)
            if module.stride == (2, 2) and stride == output_stride:
                dilation *= 2
                module.stride = (1, 1)
            elif module.stride == (2, 2):
                stride *= 2

    def parts(self, level: int) -> list[nn.Module]:
        return list(self.body.features[self.ends[level] : self.ends[level + 1]])


class Small(Backbone):
    """A light net for the built-in dataset, trained from scratch: four levels, 0.3 M parameters."""

    output_strides = (8, 16)

    def __init__(self, output_stride: int) -> None:
        super().__init__()
        self.channels = (16, 32, 64, 128)
        self.strides = (2, 4, 8, output_stride)
        self.levels = nn.ModuleList()
        inputs, before = 3, 1
        for outputs, stride in zip(self.channels, self.strides, strict=True):
            first = conv3x3(inputs, outputs, stride=stride // before)
            # dilated in place of a stride
            second = conv3x3(outputs, outputs, dilation=2 if stride == before else 1)
            layers = []
            for conv in (first, second):
                layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            self.levels.append(nn.Sequential(*layers))
            inputs, before = outputs, stride

    def parts(self, level: int) -> list[nn.Module]:
        return [self.levels[level]]


BACKBONES: dict[str, type[Backbone]] = {
    "resnet38": ResNet38,
    "vgg16": VGG16,
    "resnet50": ResNet50,
    "mobilenet_v2": MobileNetV2,
    "small": Small,
}


def build_backbone(backbone: str, *, output_stride: int = 16, **own: object) -> Backbone:
    """The backbone of that name with random weights; arguments as for ``prepare_backbone``. Raises
    InputError for an unknown name or an unsupported stride.
    """
    if backbone not in BACKBONES:
        known = f"{did_you_mean(backbone, BACKBONES)}; expected one of: {', '.join(BACKBONES)}"
        raise InputError(f"unknown backbone '{backbone}'{known}")
    possible = BACKBONES[backbone].output_strides
    if output_stride not in possible:
        raise InputError(
            f"output_stride {output_stride} is not supported by {backbone}; expected one of: "
            + ", ".join(map(str, possible))
        )
    return BACKBONES[backbone](output_stride, **own)  # type: ignore[arg-type]
