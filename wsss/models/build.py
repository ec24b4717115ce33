"""The three networks over any backbone: ``build_cam``, ``build_affinity``,
``build_segmentation``.
"""

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
from wsss.models.state_dicts import fit_backbone, fit_state, load_state


def build_cam(
    backbone,
    num_classes,
    *,
    weights="",
    output_stride=16,
    head_channels=0,
    dropout=0.5,
    frozen_stages=0,
    activation_checkpointing=False,
):
    """The classifier whose maps localise (paper, section 3.1). ``num_classes`` counts objects only.

    Args:
        backbone: one of ``BACKBONES``.
        num_classes: object classes, without background.
        weights: the backbone's ImageNet weights: a file that ``load_state`` reads, ``download`` for
            torchvision's own, or empty for random weights.
        output_stride: pixels a cell of the last level: 8, 16, or the pretrained network's own 32.
        head_channels: of a 3x3 convolution before the classifier (paper: 512); 0 has none.
        dropout: of whole channels before the classifier.
        frozen_stages: how many of the backbone's first levels are not trained.
        activation_checkpointing: train in less memory and more time, see ``layers.step``.
    """
    features = _features(backbone, output_stride, weights, activation_checkpointing)
    return CamNetwork(
        features, num_classes, channels=head_channels, dropout=dropout, frozen_stages=frozen_stages
    )


def build_affinity(
    backbone,
    *,
    weights="",
    output_stride=8,
    frozen_stages=0,
    reduced=(64, 128, 256),
    norm_group=0,
    activation_checkpointing=False,
):
    """AffinityNet (section 3.2): class-agnostic features at stride 8.

    Args:
        reduced: channels that each of the backbone's last levels is reduced to; their sum is the
            number of channels of the features.
        norm_group: channels of each group norm after that; see ``AffinityNetwork``.

    The other arguments are those of ``build_cam``.
    """
    if norm_group and any(channels % norm_group for channels in reduced):
        raise InputError(
            f"norm_group {norm_group} does not divide all of reduced {list(reduced)}; take one "
            "that does, or 0"
        )
    own = {"rate": 4} if backbone == "vgg16" else {}  # as in the released code
    features = _features(backbone, output_stride, weights, activation_checkpointing, **own)
    return AffinityNetwork(
        features, reduced=reduced, norm_group=norm_group, frozen_stages=frozen_stages
    )


def build_segmentation(
    backbone,
    num_classes,
    *,
    weights="",
    output_stride=16,
    frozen_stages=0,
    channels=512,
    dilation=96,
    low_level_channels=(),
    activation_checkpointing=False,
):
    """The segmentation network (section 3.5). ``num_classes`` counts the background too.

    The head is the paper's on ResNet-38; with ``low_level_channels`` a decoder. VGG16 without them
    is DeepLab-LargeFOV, the paper's other network, whose fc6 has the ``dilation``.

    Args:
        channels, dilation: of the head; see ``SegmentationNetwork`` and ``DecoderNetwork``.
        low_level_channels: channels that each finer level is reduced to for the decoder; empty has
            no decoder.

    The other arguments are those of ``build_cam``.
    """
    large_fov = backbone == "vgg16" and not low_level_channels
    own = {"rate": max(1, dilation // 8), "pool5": True} if large_fov else {}
    features = _features(backbone, output_stride, weights, activation_checkpointing, **own)
    if len(low_level_channels) >= len(features.channels):
        raise InputError(
            f"low_level_channels lists {len(low_level_channels)} levels, but {backbone} has "
            f"{len(features.channels) - 1} before its last; list fewer"
        )
    if low_level_channels:
        return DecoderNetwork(
            features,
            num_classes,
            low_level_channels=low_level_channels,
            channels=channels,
            dilation=dilation,
            frozen_stages=frozen_stages,
        )
    if large_fov:
        return LargeFovNetwork(features, num_classes, frozen_stages=frozen_stages)
    return SegmentationNetwork(
        features,
        num_classes,
        channels=channels,
        dilation=dilation,
        frozen_stages=frozen_stages,
    )


def load_into(module, path, *, prefix=""):
    """Load one of our own weight files into a module, strictly; ``prefix`` selects a part of it,
    such as ``backbone.``.
    """
    state = load_state(path)
    part = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    fit_state(module, part, path)


def _features(backbone, output_stride, weights, activation_checkpointing, **own):
    """A backbone with its weights; batch norms are frozen if it comes pretrained, since small
    batches of crops are too few and too alike to learn the statistics from.
    """
    features = build_backbone(backbone, output_stride=output_stride, **own)
    features.activation_checkpointing = activation_checkpointing
    if weights and features.origin is None:
        raise InputError(f"backbone '{backbone}' has no ImageNet weights; leave weights empty")
    if weights:
        print(fit_backbone(features, weights))
    if features.origin is not None:
        freeze_batch_norm(features)
    return features
