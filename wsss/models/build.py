"""The three networks over any backbone: ``build_cam``, ``build_affinity``,
``build_segmentation``.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from wsss.errors import InputError
from wsss.models.backbones.catalogue import build_backbone
from wsss.models.backbones.layers import freeze_batch_norm
from wsss.models.heads import (
    AffinityNetwork,
    CamNetwork,
    DecoderNetwork,
    LargeFovNetwork,
    SegmentationNetwork,
)
from wsss.models.state_dicts import Weights, fit_backbone, fit_state, load_state


def build_cam(
    backbone: str,
    num_classes: int,
    *,
    weights: Weights = "",
    output_stride: int = 16,
    head_channels: int = 0,
    dropout: float = 0.5,
    frozen_stages: int = 0,
    activation_checkpointing: bool = False,
) -> CamNetwork:
    """The classifier whose maps localise (paper, section 3.1).

    Args:
        backbone: one of ``BACKBONES``.
        num_classes: object classes, without background.
        weights: the backbone's ImageNet weights: a file that ``load_state`` reads, ``download`` for
            torchvision's own, or empty for random weights.
        output_stride: pixels per cell of the last level: 8, 16, or the pretrained network's own 32.
        head_channels: of a 3x3 convolution before the classifier (paper: 512); 0 has none.
        dropout: of whole channels before the classifier.
        frozen_stages: number of the backbone's first levels that are not trained.
        activation_checkpointing: train in less memory and more time, see ``Backbone``.

    Raises:
        InputError: an unknown backbone or stride, or weights that do not fit.
    """
    features = _backbone(backbone, output_stride, weights, frozen_stages, activation_checkpointing)
    return CamNetwork(features, num_classes, channels=head_channels, dropout=dropout)


def build_affinity(
    backbone: str,
    *,
    weights: Weights = "",
    output_stride: int = 8,
    frozen_stages: int = 0,
    reduced: Sequence[int] = (64, 128, 256),
    norm_group: int = 0,
    activation_checkpointing: bool = False,
) -> AffinityNetwork:
    """AffinityNet (section 3.2): class-agnostic features at stride 8.

    Args:
        reduced, norm_group: see ``AffinityNetwork``.

    The other arguments are those of ``build_cam``.
    """
    if norm_group and any(channels % norm_group for channels in reduced):
        raise InputError(
            f"norm_group {norm_group} does not divide all of reduced {list(reduced)}; take one "
            "that does, or 0"
        )
    own = {"rate": 4} if backbone == "vgg16" else {}  # as in the released code
    features = _backbone(
        backbone, output_stride, weights, frozen_stages, activation_checkpointing, **own
    )
    return AffinityNetwork(features, reduced=reduced, norm_group=norm_group)


def build_segmentation(
    backbone: str,
    num_classes: int,
    *,
    weights: Weights = "",
    output_stride: int = 16,
    frozen_stages: int = 0,
    channels: int = 512,
    dilation: int = 96,
    low_level_channels: Sequence[int] = (),
    activation_checkpointing: bool = False,
) -> SegmentationNetwork | DecoderNetwork | LargeFovNetwork:
    """The segmentation network (section 3.5).

    The head is the paper's on ResNet-38; with ``low_level_channels`` a decoder. VGG16 without them
    is DeepLab-LargeFOV, the paper's other network, whose fc6 has the ``dilation``.

    Args:
        num_classes: with the background.
        channels, dilation: of the head; see ``SegmentationNetwork`` and ``DecoderNetwork``.
        low_level_channels: channels that each finer level is reduced to for the decoder; empty has
            no decoder.

    The other arguments are those of ``build_cam``.
    """
    large_fov = backbone == "vgg16" and not low_level_channels
    own = {"rate": max(1, dilation // 8), "pool5": True} if large_fov else {}
    features = _backbone(
        backbone, output_stride, weights, frozen_stages, activation_checkpointing, **own
    )
    if large_fov:
        return LargeFovNetwork(features, num_classes)
    head = {"channels": channels, "dilation": dilation}
    if not low_level_channels:
        return SegmentationNetwork(features, num_classes, **head)
    if len(low_level_channels) >= len(features.channels):
        raise InputError(
            f"low_level_channels lists {len(low_level_channels)} levels, but {backbone} has "
            f"{len(features.channels) - 1} before its last; list fewer"
        )
    return DecoderNetwork(features, num_classes, low_level_channels=low_level_channels, **head)


def load_into(module: nn.Module, path: Path | str, *, prefix: str = "") -> None:
    """Load one of our own weight files into a module, strictly; ``prefix`` selects a part of it,
    such as ``backbone.``.
    """
    state = load_state(path).items()
    part = {name.removeprefix(prefix): each for name, each in state if name.startswith(prefix)}
    fit_state(module, part, source=path)


def _backbone(name, output_stride, weights, frozen_stages, activation_checkpointing, **own):
    """A backbone with its weights; batch norms are frozen if it has pretrained weights, since small
    batches of crops are too few and too alike to learn the statistics from.
    """
    backbone = build_backbone(name, output_stride=output_stride, **own)
    backbone.activation_checkpointing = activation_checkpointing
    if weights and not backbone.origin:
        raise InputError(f"backbone '{name}' has no ImageNet weights; leave weights empty")
    if weights:
        print(fit_backbone(backbone, weights))
    if backbone.origin:
        freeze_batch_norm(backbone)
    for level in range(frozen_stages):
        for part in backbone.parts(level):
            part.requires_grad_(False)
    return backbone
