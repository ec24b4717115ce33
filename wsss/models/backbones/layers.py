"""What backbones share: input normalisation, frozen batch norms, activations in one pass with their
convolutions, steps that are computed twice.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


class Normalise(nn.Module):
    """Subtract the mean and divide by the standard deviation that the weights were trained with."""

    def __init__(self, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images):
        return (images - self.mean) / self.std


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

    def folded(self):
        """The same as a plain convolution, whose weights can no longer be trained."""
        conv = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            device="meta",  # without weights of its own
        )
        conv.weight = nn.Parameter((self.weight * self.scale).detach(), requires_grad=False)
        conv.bias = nn.Parameter(self.shift.clone(), requires_grad=False)
        return conv


class FrozenNorm2d(nn.Module):
    """A frozen batch norm before an activation, where no convolution can take it in; computed in
    float32 whatever the activations' format.
    """

    def __init__(self, norm):
        super().__init__()
        self.eps = norm.eps
        for name in ("running_mean", "running_var", "weight", "bias"):
            self.register_buffer(name, getattr(norm, name).detach().clone())

    def forward(self, x):
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def freeze_batch_norm(backbone):
    """Freeze every batch norm, in place: one that follows a convolution becomes part of it (a
    ``FrozenNormConv2d``), any other a ``FrozenNorm2d``.
    """
    for parent in list(backbone.modules()):
        children = list(parent.named_children())
        for (name, conv), (following, norm) in itertools.pairwise(children):
            if type(conv) is nn.Conv2d and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, FrozenNormConv2d(conv, norm))
                setattr(parent, following, nn.Identity())
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, FrozenNorm2d(norm))


def fold_norms(network):
    """Put each frozen norm into the weights of its convolution, in place, for inference alone."""
    for parent in list(network.modules()):
        for name, conv in list(parent.named_children()):
            if isinstance(conv, FrozenNormConv2d):
                setattr(parent, name, conv.folded())


class ActivatedConv2d(nn.Module):
    """A convolution and the activation after it in one pass over the data, by oneDNN, for inference
    on a processor. Rounding apart, the result is that of the two one after the other.

    Args:
        conv: a convolution with all that it needs, whose weights are in the format to compute in.
        activation: an ``nn.ReLU`` or ``nn.ReLU6``.
    """

    def __init__(self, conv, activation):
        super().__init__()
        self.conv = conv
        limited = isinstance(activation, nn.ReLU6)
        self.activation, self.limits = ("hardtanh", [0.0, 6.0]) if limited else ("relu", [])

    def forward(self, x):
        conv = self.conv
        return torch.ops.mkldnn._convolution_pointwise(
            x.to(conv.weight.dtype),  # as autocast does, which does not know of this
            conv.weight,
            conv.bias,
            conv.padding,
            conv.stride,
            conv.dilation,
            conv.groups,
            self.activation,
            self.limits,
            "",
        )


def fuse_activations(network):
    """Let each convolution of a sequence apply the activation after it, in place, for inference
    alone; a torch that was built without oneDNN leaves the network as it is.

    By itself an activation takes as long as the data takes to come from memory and to go back, a
    sixth of MobileNetV2's time.
    """
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return
    for parent in list(network.modules()):
        if not isinstance(parent, nn.Sequential):
            continue
        children = [each for each in parent.named_children() if type(each[1]) is not nn.Identity]
        for (name, conv), (following, activation) in itertools.pairwise(children):
            if type(conv) is nn.Conv2d and type(activation) in (nn.ReLU, nn.ReLU6):
                setattr(parent, name, ActivatedConv2d(conv, activation))
                setattr(parent, following, nn.Identity())


def step(backbone, block, x):
    """``block(x)``; if ``backbone.activation_checkpointing`` is set, the block's inner activations
    are discarded and computed again in the backward pass, so that training holds those of one
    block at a time (Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016).
    """
    if backbone.activation_checkpointing and torch.is_grad_enabled():
        return checkpoint(block, x, use_reentrant=False)
    return block(x)
