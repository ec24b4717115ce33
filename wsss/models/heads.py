"""The networks of the method: a backbone with a head for activation maps (section 3.1), affinities
(3.2) or segmentation (3.5: one of the paper's two heads or a decoder, optionally a random walk).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from wsss.affinity import STRIDE
from wsss.geometry import on_grid
from wsss.models.backbones.layers import Backbone


class Network(nn.Module):
    """A backbone and a head, whose parameters learn faster than the pretrained backbone's."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def head_parameters(self) -> list[nn.Parameter]:
        return [p for name, p in self.named_parameters() if not name.startswith("backbone.")]


class CamNetwork(Network):
    """A multi-label classifier whose last layer is a 1x1 convolution, so that it yields maps too;
    ``channels`` are the ``head_channels`` of ``build_cam``.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, *, channels: int = 0, dropout: float = 0.5
    ) -> None:
        super().__init__(backbone)
        inputs = backbone.channels[-1]
        layers = (nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU(True)) if channels else ()
        self.adapt = nn.Sequential(*layers)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels or inputs, num_classes, 1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores before the sigmoid, (B, classes): the maps' mean over all positions."""
        features = self.adapt(self.backbone(images)[-1])
        pooled = self.dropout(F.adaptive_avg_pool2d(features, 1))
        return self.classifier(pooled).flatten(1)

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Equation 1 before normalisation: ``w_c . f_cam(p)``, (B, classes, h, w), any sign."""
        return self.classifier(self.adapt(self.backbone(images)[-1]))


class AffinityNetwork(Network):
    """Features whose distances are affinities (``affinity.pair_distance``): the backbone's last
    levels, each reduced by a 1x1 convolution to as many channels as ``reduced`` says, concatenated
    at stride 8, and mixed by another. After each reduction ``norm_group`` channels share a group
    norm, 8 in the released VGG16; 0 has no norm.
    """

    def __init__(self, backbone: Backbone, *, reduced: Sequence[int], norm_group: int = 0) -> None:
        super().__init__(backbone)
        self.reduce = _reductions(backbone.channels[-len(reduced) :], reduced, bias=False)
        self.norms = nn.ModuleList(
            nn.GroupNorm(outputs // norm_group, outputs) if norm_group else nn.Identity()
            for outputs in reduced
        )
        self.mix = nn.Conv2d(sum(reduced), sum(reduced), 1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features of shape (B, channels, ceil(H/8), ceil(W/8))."""
        levels = self.backbone(images)[-len(self.reduce) :]
        layers = zip(self.reduce, self.norms, levels, strict=True)
        reduced = [F.elu(norm(layer(level))) for layer, norm, level in layers]
        strides = self.backbone.strides[-len(reduced) :]
        return F.elu(self.mix(torch.cat(_at_stride_8(reduced, strides, images), 1)))


def _reductions(channels, reduced, **options):
    """A 1x1 convolution for each level, from its channels to fewer."""
    pairs = zip(channels, reduced, strict=True)
    return nn.ModuleList(nn.Conv2d(before, after, 1, **options) for before, after in pairs)


def _at_stride_8(levels, strides, images):
    """Levels of these strides, each on the grid of stride 8 of a batch of images."""
    # rounded up with positive numbers only: ONNX rounds negative quotients towards 0
    size = [(side + STRIDE - 1) // STRIDE for side in images.shape[-2:]]
    pairs = zip(levels, strides, strict=True)
    return [on_grid(level, size, stride=stride, onto=STRIDE) for level, stride in pairs]


class SegmentationNetwork(Network):
    """The paper's own head: two 3x3 atrous convolutions. ``dilation`` is in pixels at any output
    stride; the paper's 12 cells at stride 8 are 96 pixels, for photos of 500 pixels.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, *, channels: int, dilation: int
    ) -> None:
        super().__init__(backbone)
        rate = max(1, dilation // backbone.strides[-1])  # cells
        self.head = nn.Sequential(
            nn.Conv2d(backbone.channels[-1], channels, 3, padding=rate, dilation=rate),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.5),
            nn.Conv2d(channels, num_classes, 3, padding=rate, dilation=rate),
        )

    @property
    def classifier(self) -> nn.Module:
        return self.head[-1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores before softmax, (B, classes with background, h, w) at the output stride."""
        return self.head(self.backbone(images)[-1])


class LargeFovNetwork(Network):
    """DeepLab-LargeFOV (Chen et al., ICLR 2015): a 1x1 convolution on VGG16's fc7."""

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone)
        self.dropout = nn.Dropout2d(0.5)
        self.classifier = nn.Conv2d(backbone.channels[-1], num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores before softmax, (B, classes with background, h, w) at stride 8."""
        return self.classifier(self.dropout(self.backbone(images)[-1]))


class DecoderNetwork(Network):
    """Context from the last level and edges from the finer levels, concatenated at stride 8 (after
    DeepLabv3+, Chen et al., ECCV 2018, with one light mixing step), added to the activation maps.

    The CAM network's last layer can initialise two heads: the maps of ``cam_head`` are added to the
    objects' scores; ``image_level_head`` predicts which classes the photo shows, and the logarithm
    of that probability, times ``presence_weight`` (initially 0), is added to the class's scores.

    ``low_level_channels`` are those that each level before the last is reduced to, finest first;
    ``channels`` those of the context, and of the mixture that the classifier reads. ``dilation``,
    see ``SegmentationNetwork``, is of the one atrous convolution.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        low_level_channels: Sequence[int],
        channels: int,
        dilation: int,
    ) -> None:
        super().__init__(backbone)
        rate = max(1, dilation // backbone.strides[-1])  # cells
        last = backbone.channels[-1]
        self.cam_head = nn.Conv2d(last, num_classes - 1, 1, bias=False)
        self.image_level_head = nn.Conv2d(last, num_classes - 1, 1, bias=False)
        self.project = nn.Conv2d(last, channels, 1)
        self.atrous = nn.Conv2d(channels, channels, 3, padding=rate, dilation=rate)
        self.image_pool = nn.Conv2d(channels, channels, 1)
        levels = backbone.channels[-1 - len(low_level_channels) : -1]
        self.reduce = _reductions(levels, low_level_channels)
        joined = channels + sum(low_level_channels)
        self.mix = nn.Sequential(
            nn.Conv2d(joined, joined, 5, padding=2, groups=joined),
            nn.Conv2d(joined, channels, 1),
            nn.ReLU(inplace=True),
        )
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.register_buffer("presence_weight", torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores before softmax, (B, classes with background, ceil(H/8), ceil(W/8))."""
        scores, presence = self.with_presence(images)
        lowered = self.get_buffer("presence_weight") * F.logsigmoid(presence.float())
        return scores + F.pad(lowered, (1, 0))[:, :, None, None]

    def with_presence(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Class scores as in ``forward`` but without the image-level term, and the image-level
        score of each object class before the sigmoid, (B, object classes).
        """
        *levels, last = self.backbone(images)[-1 - len(self.reduce) :]
        maps = self.cam_head(last)
        pooled = F.dropout(F.adaptive_avg_pool2d(last, 1), 0.5, self.training)
        presence = self.image_level_head(pooled).flatten(1)
        last = F.relu(self.project(last))
        context = F.relu(self.atrous(last) + self.image_pool(F.adaptive_avg_pool2d(last, 1)))
        reduced = [F.relu(layer(x)) for layer, x in zip(self.reduce, levels, strict=True)]
        *finer, coarsest = self.backbone.strides[-1 - len(levels) :]
        strides = [coarsest, coarsest, *finer]
        maps, *joined = _at_stride_8([maps, context, *reduced], strides, images)
        scores = self.classifier(self.dropout(self.mix(torch.cat(joined, 1))))
        return scores + F.pad(maps, (0, 0, 0, 0, 1, 0)), presence


class RandomWalkSegmenter(nn.Module):
    """A segmentation network, and an AffinityNet for a random walk of its class probabilities
    (``synthesis.walk_probabilities``), once per photo, after scales and mirror images are averaged.
    ``walk`` has arguments of ``synthesis.Walk``: ``beta``, ``steps`` and those of the affinities.
    """

    def __init__(self, segmentation: nn.Module, affinity: nn.Module, **walk: Any) -> None:
        super().__init__()
        self.segmentation, self.affinity, self.walk = segmentation, affinity, walk

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores before softmax and walk."""
        return self.segmentation(images)


def log_shares(shares: Sequence[float] | torch.Tensor) -> torch.Tensor:
    """The logarithm of each class's share of the training pixels, float32 (classes,); 0 for a class
    without pixels, whose score is not corrected.
    """
    shares = torch.as_tensor(shares, dtype=torch.float32)
    return shares.where(shares > 0, 1).log()


@torch.no_grad()
def favour_rare(network: nn.Module, shares: Sequence[float], *, strength: float) -> None:
    """Subtract ``strength`` times ``log_shares(shares)`` from the scores of a trained segmentation
    network, in place (logit adjustment, Menon et al., ICLR 2021): with noisy labels a rare class is
    seldom the most probable one, though mean IoU weighs all classes equally.

    ``shares`` are of the training pixels, background first, in [0, 1]. A ``strength`` of 0 changes
    nothing; 1 treats all classes as equally frequent if the network learnt their frequencies; -1
    restores these if it was trained with them as a prior (see ``losses.segmentation_loss``).
    """
    bias = network.get_parameter("classifier.bias")
    bias -= strength * log_shares(shares).to(bias)
