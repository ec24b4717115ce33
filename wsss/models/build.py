"""The three networks of the method over any backbone."""

from collections.abc import Sequence
from typing import Any

from wsss.errors import InputError
from wsss.models import heads
from wsss.models.backbones.catalogue import build_backbone
from wsss.models.backbones.layers import Backbone, freeze_batch_norm
from wsss.models.state_dicts import Weights, fit_state, pretrained_state


def build_cam(
    backbone: str, num_classes: int, *, head_channels: int = 0, dropout: float = 0.5, **options: Any
) -> heads.CamNetwork:
    """The classifier whose maps localise (paper, section 3.1); ``num_classes`` leaves out the
    background. ``head_channels`` are those of a 3x3 convolution before the classifier (paper: 512);
    0 has none. ``dropout`` is of whole channels before the classifier. Other arguments are those of
    ``prepare_backbone``.
    """
    features = prepare_backbone(backbone, **options)
    return heads.CamNetwork(features, num_classes, channels=head_channels, dropout=dropout)


def build_affinity(
    backbone: str,
    *,
    output_stride: int = 8,
    reduced: Sequence[int] = (64, 128, 256),
    norm_group: int = 0,
    **options: Any,
) -> heads.AffinityNetwork:
    """AffinityNet (section 3.2): class-agnostic features at stride 8. Arguments are those of
    ``AffinityNetwork`` and ``prepare_backbone``.
    """
    if norm_group and any(channels % norm_group for channels in reduced):
        raise InputError(
            f"norm_group {norm_group} does not divide all of reduced {list(reduced)}; take one "
            "that does, or 0"
        )
    if backbone == "vgg16":
        options["rate"] = 4  # as in the released code
    features = prepare_backbone(backbone, output_stride=output_stride, **options)
    if len(reduced) > len(features.channels):
        raise InputError(
            f"reduced lists {len(reduced)} stages, but {backbone} has {len(features.channels)}; "
            "list fewer"
        )
    return heads.AffinityNetwork(features, reduced=reduced, norm_group=norm_group)


def build_segmentation(
    backbone: str,
    num_classes: int,
    *,
    channels: int = 512,
    dilation: int = 96,
    low_level_channels: Sequence[int] = (),
    **options: Any,
) -> heads.SegmentationNetwork | heads.DecoderNetwork | heads.LargeFovNetwork:
    """The segmentation network (section 3.5): the paper's head on ResNet-38; with
    ``low_level_channels`` a decoder. VGG16 without them is DeepLab-LargeFOV, the paper's other
    network, whose fc6 has the ``dilation``. ``num_classes`` counts the background; other arguments
    are those of ``SegmentationNetwork``, ``DecoderNetwork`` and ``prepare_backbone``.
    """
    if backbone == "vgg16" and not low_level_channels:
        options |= {"rate": max(1, dilation // 8), "pool5": True}
        return heads.LargeFovNetwork(prepare_backbone(backbone, **options), num_classes)
    features = prepare_backbone(backbone, **options)
    head: dict[str, Any] = {"channels": channels, "dilation": dilation}
    if not low_level_channels:
        return heads.SegmentationNetwork(features, num_classes, **head)
    if len(low_level_channels) >= len(features.channels):
        raise InputError(
            f"low_level_channels lists {len(low_level_channels)} levels, but {backbone} has "
            f"{len(features.channels) - 1} before its last; list fewer"
        )
    head["low_level_channels"] = low_level_channels
    return heads.DecoderNetwork(features, num_classes, **head)


def prepare_backbone(
    name: str,
    *,
    output_stride: int = 16,
    weights: Weights = "",
    frozen_stages: int = 0,
    activation_checkpointing: bool = False,
    **own: Any,
) -> Backbone:
    """A backbone with its weights; batch norms are frozen if it has pretrained weights, since small
    batches of crops are too few and too alike to learn the statistics from. Raises InputError for
    an unknown backbone or stride, or weights that do not fit.

    Args:
        name: one of ``BACKBONES``.
        output_stride: pixels per cell of the last level: 8, 16, or the pretrained network's own 32.
        weights: the backbone's ImageNet weights: a file that ``load_state`` reads, ``download`` for
            torchvision's own, or empty for random weights.
        frozen_stages: number of the backbone's first levels that are not trained.
        activation_checkpointing: train in less memory and more time, see ``Backbone``.
        own: arguments that only this backbone takes.
    """
    backbone = build_backbone(name, output_stride=output_stride, **own)
    backbone.activation_checkpointing = activation_checkpointing
    if frozen_stages > (count := len(backbone.channels)):
        raise InputError(f"frozen_stages {frozen_stages}: {name} has {count} stages; freeze fewer")
    if weights:
        given, source = pretrained_state(type(backbone), weights)
        state, skipped = backbone.adapt(given)
        fit_state(backbone.body, state, source=source, hint=backbone.origin)
        reasons = ", ".join(f"{name} ({reason})" for name, reason in skipped.items())
        print(f"{source}: took {len(state)} tensors, left out {reasons or 'none'}")
    if backbone.origin:
        freeze_batch_norm(backbone)
    for level in range(frozen_stages):
        for part in backbone.parts(level):
            part.requires_grad_(False)
    return backbone
