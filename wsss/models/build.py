"""The three networks over any of the trunks: ``build_cam``, ``build_affinity``,
``build_segmentation``.
"""

from wsss.errors import InputError
from wsss.models.backbones.catalogue import TRUNKS, build_trunk
from wsss.models.heads import (
    AffinityNetwork,
    CamNetwork,
    DecoderNetwork,
    LargeFovNetwork,
    SegmentationNetwork,
)
from wsss.models.layers import freeze_batch_norm
from wsss.models.state_dicts import fit_state, fit_trunk, load_state

BACKBONES = tuple(TRUNKS)


def build_cam(
    backbone,
    num_classes,
    *,
    weights="",
    output_stride=16,
    head_channels=0,
    dropout=0.5,
    frozen_levels=0,
    recompute=False,
):
    """The classifier whose maps localise (paper, section 3.1). ``num_classes`` counts objects only.

    Args:
        backbone: one of ``BACKBONES``.
        num_classes: object classes, without background.
        weights: ImageNet weights for the trunk: a file that ``load_state`` reads, ``download`` for
            torchvision's own, or empty for random weights.
        output_stride: pixels a cell of the last level: 8, 16, or the pretrained network's own 32.
        head_channels: of a 3x3 convolution before the classifier (paper: 512); 0 has none.
        dropout: of whole channels before the classifier.
        frozen_levels: how many of the trunk's first levels are not trained.
        recompute: train in less memory and more time, see ``layers.step``.
    """
    trunk = _trunk(backbone, output_stride, weights, recompute)
    return CamNetwork(
        trunk, num_classes, channels=head_channels, dropout=dropout, frozen_levels=frozen_levels
    )


def build_affinity(
    backbone,
    *,
    weights="",
    output_stride=8,
    frozen_levels=0,
    reduced=(64, 128, 256),
    norm_group=0,
    recompute=False,
):
    """AffinityNet (section 3.2): class-agnostic features at stride 8. Arguments as in
    ``build_cam``.

    ``reduced`` are the channels that each of the trunk's last levels is brought down to (their sum
    is the number of channels of the features), ``norm_group`` the channels of each group norm after
    that; see ``AffinityNetwork``.
    """
    if norm_group and any(channels % norm_group for channels in reduced):
        raise InputError(
            f"norm_group {norm_group} does not divide all of reduced {list(reduced)}; take one "
            "that does, or 0"
        )
    own = {"rate": 4} if backbone == "vgg16" else {}  # as in the released code
    trunk = _trunk(backbone, output_stride, weights, recompute, **own)
    return AffinityNetwork(
        trunk, reduced=reduced, norm_group=norm_group, frozen_levels=frozen_levels
    )


def build_segmentation(
    backbone,
    num_classes,
    *,
    weights="",
    output_stride=16,
    frozen_levels=0,
    channels=512,
    reach=96,
    fine=(),
    recompute=False,
):
    """The segmentation network (section 3.5). ``num_classes`` counts the background too.

    ``channels`` and ``reach`` are of its head: the paper's on ResNet-38, or where ``fine`` lists
    channels of finer levels, a decoder that joins them; see ``SegmentationNetwork`` and
    ``DecoderNetwork``. VGG16 without ``fine`` is DeepLab-LargeFOV, the paper's other one, whose
    fc6 has that reach.
    """
    large_fov = backbone == "vgg16" and not fine
    own = {"rate": max(1, reach // 8), "pool5": True} if large_fov else {}
    trunk = _trunk(backbone, output_stride, weights, recompute, **own)
    if len(fine) >= len(trunk.channels):
        raise InputError(
            f"fine lists {len(fine)} levels, but {backbone} has {len(trunk.channels) - 1} before "
            "its last; list fewer"
        )
    if fine:
        return DecoderNetwork(
            trunk,
            num_classes,
            fine=fine,
            channels=channels,
            reach=reach,
            frozen_levels=frozen_levels,
        )
    if large_fov:
        return LargeFovNetwork(trunk, num_classes, frozen_levels=frozen_levels)
    return SegmentationNetwork(
        trunk, num_classes, channels=channels, reach=reach, frozen_levels=frozen_levels
    )


def load_into(module, path, *, prefix=""):
    """Load one of our own checkpoints into a module, strictly; ``prefix`` picks a part of it, such
    as ``trunk.``.
    """
    state = load_state(path)
    part = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    fit_state(module, part, path)


def _trunk(backbone, output_stride, weights, recompute, **own):
    """A trunk with its weights; batch norm is frozen where the backbone comes pretrained.

    Crops in small batches are too few and too alike to learn the norm's statistics from.
    """
    trunk = build_trunk(backbone, output_stride=output_stride, **own)
    trunk.recompute = recompute
    if weights and trunk.origin is None:
        raise InputError(f"backbone '{backbone}' has no ImageNet weights; leave weights empty")
    if weights:
        print(fit_trunk(trunk, weights))
    if trunk.origin is not None:
        freeze_batch_norm(trunk)
    return trunk
