"""What backbones share: an interface, frozen batch norms, convolutions fused with activations."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

State = dict[str, torch.Tensor]  # tensors by name


class Backbone(nn.Module):
    """From RGB photos to feature maps, the stride held back by atrous convolution."""

    origin = ""  # names the ImageNet weights that fit, for messages; empty where there are none
    offered = ""  # torchvision's name for these weights; empty where it does not offer them
    classifier = ""  # prefix of the names of these weights' classifier
    output_strides: tuple[int, ...]  # supported strides of the last level, in pixels
    channels: tuple[int, ...]  # of each level, coarsest last
    strides: tuple[int, ...]  # pixels per cell of each level
    body: Any  # a module: all layers with weights
    # in training, keep the activations of one block at a time, and compute the others again in the
    # backward pass (Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016)
    activation_checkpointing = False
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):  # ImageNet's, red first
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def parts(self, level: int) -> list[nn.Module]:
        """The modules that make a level from the one before, by default by ``body.levels``."""
        return [getattr(self.body, name) for name in self.body.levels[level]]

    def blocks(self, level: int) -> Sequence[Callable[[torch.Tensor], torch.Tensor]]:
        """The functions that make a level from the one before."""
        return self.parts(level)

    def output(self, level: int, x: torch.Tensor) -> torch.Tensor:
        """The features that a level returns."""
        return x

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Images as the weights were trained with, from RGB (B, 3, H, W) in [0, 1]."""
        return (images - self.mean) / self.std

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Features (B, channels, ceil(H / stride), ceil(W / stride)) of each level, of RGB images,
        float (B, 3, H, W) in [0, 1].
        """
        x, features = self.normalise(images), []
        for level in range(len(self.channels)):
            for block in self.blocks(level):
                if self.activation_checkpointing and torch.is_grad_enabled():
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
            features.append(self.output(level, x))
        return features

    @staticmethod
    def own_name(name: str) -> str:
        """The body's name of a tensor, from the name in a file of ImageNet weights."""
        return name

    @classmethod
    def adapt(cls, state: State) -> tuple[State, dict[str, str]]:
        """``(the body's state dict, {name: why it is left out})`` of a file's ImageNet weights."""
        own = {name: cls.own_name(name) for name in state}
        skipped = {n: "ImageNet's classifier" for n in state if own[n].startswith(cls.classifier)}
        return {own[name]: state[name] for name in state if name not in skipped}, skipped


def conv3x3(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias, padded so that each cell keeps its place."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False)


def _geometry(conv: nn.Conv2d) -> dict[str, Any]:
    """The arguments of a convolution's constructor, but for its bias."""
    names = "in_channels out_channels kernel_size stride padding dilation groups"
    return {name: getattr(conv, name) for name in names.split()}


class FrozenNormConv2d(nn.Conv2d):
    """A convolution and the frozen batch norm after it, in one pass over the data. The weight is
    scaled on the way, so it is trained as before a batch norm in evaluation mode.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__(**_geometry(conv), bias=False)
        self.weight = conv.weight
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        scale = norm.weight / torch.sqrt(variance + norm.eps)
        self.register_buffer("scale", scale.detach().view(-1, 1, 1, 1).clone())
        self.register_buffer("shift", (norm.bias - mean * scale).detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.weight * self.scale, self.shift)


class FrozenNorm2d(nn.Module):
    """A frozen batch norm that follows no convolution, computed in float32 at any precision."""

    names = ("running_mean", "running_var", "weight", "bias")

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps = norm.eps
        for name in self.names:
            self.register_buffer(name, getattr(norm, name).detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, variance, weight, bias = map(self.get_buffer, self.names)
        return F.batch_norm(x, mean, variance, weight, bias, eps=self.eps)


def freeze_batch_norm(backbone: nn.Module) -> None:
    """Freeze every batch norm, in place: one that follows a convolution becomes part of it (a
    ``FrozenNormConv2d``), any other a ``FrozenNorm2d``.
    """
    for parent in list(backbone.modules()):
        for (name, conv), (following, norm) in itertools.pairwise(list(parent.named_children())):
            if type(conv) is nn.Conv2d and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, FrozenNormConv2d(conv, norm))
                setattr(parent, following, nn.Identity())
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, FrozenNorm2d(norm))


def fold_norms(network: nn.Module) -> None:
    """Put each frozen norm into the weights of its convolution, in place, for inference alone."""
    for parent in list(network.modules()):
        for name, conv in list(parent.named_children()):
            if isinstance(conv, FrozenNormConv2d):
                folded = nn.Conv2d(**_geometry(conv), device="meta")  # without weights of its own
                folded.weight = nn.Parameter(conv.weight.detach() * conv.scale, requires_grad=False)
                folded.bias = nn.Parameter(conv.shift.clone(), requires_grad=False)
                setattr(parent, name, folded)


class ActivatedConv2d(nn.Module):
    """A convolution and the ``nn.ReLU`` or ``nn.ReLU6`` after it in one pass over the data, by
    oneDNN, for inference on a processor, in the format of the weights; equal but for rounding.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        limited = isinstance(activation, nn.ReLU6)
        self.activation = ("hardtanh", [0.0, 6.0], "") if limited else ("relu", [], "")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv = self.conv
        x = x.to(conv.weight.dtype)  # autocast does not know this operator
        geometry = conv.padding, conv.stride, conv.dilation, conv.groups, *self.activation
        return torch.ops.mkldnn._convolution_pointwise(x, conv.weight, conv.bias, *geometry)


def fuse_activations(network: nn.Module) -> None:
    """Let each convolution of a sequence apply the activation after it, in place, for inference
    alone, if torch has oneDNN. A separate pass over the data takes a sixth of MobileNetV2's time.
    """
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return
    for parent in [each for each in network.modules() if isinstance(each, nn.Sequential)]:
        children = [each for each in parent.named_children() if type(each[1]) is not nn.Identity]
        for (name, conv), (following, activation) in itertools.pairwise(children):
            if type(conv) is nn.Conv2d and type(activation) in (nn.ReLU, nn.ReLU6):
                setattr(parent, name, ActivatedConv2d(conv, activation))
                setattr(parent, following, nn.Identity())
