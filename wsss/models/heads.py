"""The three networks of the method: a trunk with a head for activation maps, affinities or
segmentation, the last with one of the paper's two heads or with a decoder, and with a walk along
affinities behind it or without.
"""

import torch
import torch.nn.functional as F
from torch import nn

from wsss.geometry import on_grid


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

    Args:
        channels: of a 3x3 convolution before the classifier, 512 in the paper; 0 has none, as the
            released code.
        dropout: of whole channels before the classifier.
    """

    def __init__(self, trunk, num_classes, *, channels=0, dropout=0.5, frozen_levels=0):
        super().__init__(trunk, frozen_levels=frozen_levels)
        inputs = trunk.channels[-1]
        self.adapt = nn.Sequential()
        if channels:
            self.adapt = nn.Sequential(
                nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU(inplace=True)
            )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels or inputs, num_classes, 1, bias=False)

    def forward(self, images):
        """Class scores before the sigmoid, (B, classes): the maps' mean over all positions."""
        features = self.adapt(self.trunk(images)[-1])
        pooled = self.dropout(F.adaptive_avg_pool2d(features, 1))
        return self.classifier(pooled).flatten(1)

    def maps(self, images):
        """Equation 1 before normalisation: ``w_c . f_cam(p)``, (B, classes, h, w), any sign."""
        return self.classifier(self.adapt(self.trunk(images)[-1]))


class AffinityNetwork(Network):
    """Levels of the trunk, each reduced by a 1x1 convolution, joined, and mixed by another.

    The result is one feature map at ``stride`` pixels a cell; the L1 distance of two of its cells
    is the logarithm of their affinity with its sign turned (equation 3).

    Args:
        reduced: channels that each of the trunk's last levels is brought down to.
        norm_group: channels that share a group norm after each reduction, 8 in the released VGG16;
            0 has no norm.
    """

    stride = 8

    def __init__(self, trunk, *, reduced=(64, 128, 256), norm_group=0, frozen_levels=0):
        super().__init__(trunk, frozen_levels=frozen_levels)
        levels = trunk.channels[-len(reduced) :]
        self.reduce = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 1, bias=False)
            for inputs, outputs in zip(levels, reduced, strict=True)
        )
        self.norms = nn.ModuleList(
            nn.GroupNorm(outputs // norm_group, outputs) if norm_group else nn.Identity()
            for outputs in reduced
        )
        self.mix = nn.Conv2d(sum(reduced), sum(reduced), 1, bias=False)

    def forward(self, images):
        """Features of shape (B, channels, ceil(H/8), ceil(W/8))."""
        levels = self.trunk(images)[-len(self.reduce) :]
        size = [-(-side // self.stride) for side in images.shape[-2:]]
        reduced = [
            on_grid(F.elu(norm(layer(level))), size, stride=stride, onto=self.stride)
            for layer, norm, level, stride in zip(
                self.reduce, self.norms, levels, self.trunk.strides[-len(levels) :], strict=True
            )
        ]
        return F.elu(self.mix(torch.cat(reduced, 1)))


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

    @property
    def classifier(self):
        return self.head[-1]

    def forward(self, images):
        """Class scores before the softmax, (B, classes with background, h, w) at the output
        stride.
        """
        return self.head(self.trunk(images)[-1])


class LargeFovNetwork(Network):
    """DeepLab-LargeFOV (Chen et al., ICLR 2015): a 1x1 convolution on VGG16's fc7, whose fc6 looks
    12 cells far.
    """

    def __init__(self, trunk, num_classes, *, frozen_levels=0):
        super().__init__(trunk, frozen_levels=frozen_levels)
        self.dropout = nn.Dropout2d(0.5)
        self.classifier = nn.Conv2d(trunk.channels[-1], num_classes, 1)

    def forward(self, images):
        """Class scores before the softmax, (B, classes with background, h, w) at stride 8."""
        return self.classifier(self.dropout(self.trunk(images)[-1]))


class DecoderNetwork(Network):
    """Context from the last level and edges from the finer ones, joined at ``stride`` pixels a
    cell (after DeepLabv3+, Chen et al., ECCV 2018, with one light mixing step), on top of what the
    CAM network knows.

    The CAM network's last layer can stay, twice: as ``evidence`` its activation maps are added to
    the objects' scores; as ``presence`` it goes on saying which classes the photo shows. ``gate``
    is how much of the logarithm of that probability is added to a class's scores, 0 until it is
    set.

    Args:
        channels: of the context, and of the mixture that the classes are read from.
        reach: as for ``SegmentationNetwork``, of the one atrous convolution.
        fine: channels that each of the trunk's levels before the last is reduced to, finest first.
    """

    stride = 8

    def __init__(self, trunk, num_classes, *, fine, channels=256, reach=96, frozen_levels=0):
        super().__init__(trunk, frozen_levels=frozen_levels)
        rate = max(1, reach // trunk.strides[-1])
        self.evidence = nn.Conv2d(trunk.channels[-1], num_classes - 1, 1, bias=False)
        self.presence = nn.Conv2d(trunk.channels[-1], num_classes - 1, 1, bias=False)
        self.squeeze = nn.Conv2d(trunk.channels[-1], channels, 1)
        self.around = nn.Conv2d(channels, channels, 3, padding=rate, dilation=rate)
        self.whole = nn.Conv2d(channels, channels, 1)
        levels = trunk.channels[-1 - len(fine) : -1]
        self.reduce = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 1) for inputs, outputs in zip(levels, fine, strict=True)
        )
        joined = channels + sum(fine)
        self.mix = nn.Sequential(
            nn.Conv2d(joined, joined, 5, padding=2, groups=joined),
            nn.Conv2d(joined, channels, 1),
            nn.ReLU(inplace=True),
        )
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.register_buffer("gate", torch.zeros(()))

    def forward(self, images):
        """Class scores before the softmax, (B, classes with background, ceil(H/8), ceil(W/8))."""
        scores, presence = self.with_presence(images)
        lowered = self.gate * F.logsigmoid(presence.float())
        return scores + F.pad(lowered, (1, 0))[:, :, None, None]

    def with_presence(self, images):
        """The scores as if nothing were known of presence, and each object class's score of being
        in the photo, before the sigmoid: (B, object classes).
        """
        *levels, last = self.trunk(images)[-1 - len(self.reduce) :]
        # rounded up, by numbers above 0: ONNX rounds the quotient of others towards 0
        size = [(side + self.stride - 1) // self.stride for side in images.shape[-2:]]
        maps = self.evidence(last)
        pooled = F.dropout(F.adaptive_avg_pool2d(last, 1), 0.5, self.training)
        presence = self.presence(pooled).flatten(1)
        last = F.relu(self.squeeze(last))
        context = F.relu(self.around(last) + self.whole(F.adaptive_avg_pool2d(last, 1)))
        *fine, coarse = self.trunk.strides[-1 - len(levels) :]
        joined = [on_grid(context, size, stride=coarse, onto=self.stride)] + [
            on_grid(F.relu(layer(level)), size, stride=stride, onto=self.stride)
            for layer, level, stride in zip(self.reduce, levels, fine, strict=True)
        ]
        scores = self.classifier(self.dropout(self.mix(torch.cat(joined, 1))))
        maps = on_grid(maps, size, stride=coarse, onto=self.stride)
        return scores + F.pad(maps, (0, 0, 0, 0, 1, 0)), presence


class WalkedNetwork(nn.Module):
    """A segmentation network and an AffinityNet: what the first makes of a photo walks along the
    second's affinities, as the maps do that the labels are made of, see ``synthesis.spread``.

    The walk is over the whole photo, after scales and mirror images are averaged, so ``forward``
    does without it.

    Args:
        segmentation, affinity: both trained.
        walk: arguments of ``synthesis.Walk``: ``beta``, ``steps`` and what tells pairs.
    """

    def __init__(self, segmentation, affinity, **walk):
        super().__init__()
        self.segmentation, self.affinity, self.walk = segmentation, affinity, walk

    def forward(self, images):
        """Class scores before the softmax and the walk, as the segmentation network gives them."""
        return self.segmentation(images)


def log_shares(shares):
    """The logarithm of each class's share of the training pixels, float32 (classes,); 0 for a class
    that was never taught, whose score nobody corrects.
    """
    shares = torch.as_tensor(shares, dtype=torch.float32)
    return torch.where(shares > 0, shares, torch.ones_like(shares)).log()


@torch.no_grad()
def favour_rare(network, shares, strength):
    """Take ``strength`` times the logarithm of each class's share off a segmentation network's
    scores, in place (logit adjustment, Menon et al., ICLR 2021).

    Where labels err, a rare class seldom becomes the most probable one; mean IoU counts it as much
    as any other.

    Args:
        network: a trained ``SegmentationNetwork`` or ``DecoderNetwork``.
        shares: of the training pixels, background first, in [0, 1].
        strength: for a network that learnt the classes' frequencies, 0 changes nothing and 1 treats
            all classes as equally frequent; for one that was trained with them as a prior (see
            ``losses.segmentation_loss``), -1 gives them back and 0 changes nothing.
    """
    bias = network.classifier.bias
    bias -= strength * log_shares(shares).to(bias)
