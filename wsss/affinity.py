"""Pairwise affinities of nearby cells, and how they are learnt (paper, section 3.2; equations 3 to
10).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

IGNORED, BACKGROUND_PAIR, OBJECT_PAIR, DIFFERENT = range(4)  # values of pair_targets
RELEASED_FLOOR = 1e-5  # what the released code adds inside the logarithms


def neighbour_offsets(radius):
    """The (dy, dx) with ``dy*dy + dx*dx < radius*radius``, one of each symmetric pair (equation 4).

    The one kept points downwards, or right in the same row: 34 offsets for radius 5.
    """
    reach = range(-radius + 1, radius)
    return [
        (dy, dx)
        for dy in range(radius)
        for dx in reach
        if dy * dy + dx * dx < radius * radius and (dy > 0 or dx > 0)
    ]


def pair_slices(dy, dx, height, width):
    """Index pairs ``(source, partner)``, each (row slice, column slice), of the cells whose
    partner at (dy, dx) exists.
    """
    rows, columns = max(height - dy, 0), max(width - abs(dx), 0)
    left, right = max(-dx, 0), max(dx, 0)
    source = (slice(0, rows), slice(left, left + columns))
    partner = (slice(dy, dy + rows), slice(right, right + columns))
    return source, partner


def pair_distance(features, *, radius=5, reduction="mean", border_pairs=True):
    """L1 distance over channels between each cell and its neighbours; affinity is
    ``exp(-distance)``.

    Args:
        features: float (B, C, H, W).
        radius: in cells; see ``neighbour_offsets`` for the K offsets and their order.
        reduction: ``mean`` over channels (released code) or ``sum`` (paper, equation 3).
        border_pairs: False leaves out, as the released code does, the pairs whose cell (not its
            partner) is nearer than ``radius`` to the left, right or bottom edge.

    Returns:
        (B, K, H, W), inf where the partner lies outside the image or the pair is left out.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction '{reduction}' is not known; expected mean or sum")
    distance = _PairDistance.apply(
        features, radius, 1 / features.shape[1] if reduction == "mean" else 1.0
    )
    if not border_pairs:
        distance = distance.masked_fill(_near_edges(features, radius), torch.inf)
    return distance


def _near_edges(grid, radius):
    """Whether a cell of a grid (..., H, W) is one whose pairs the released code leaves out: bool
    (H, W).
    """
    height, width = grid.shape[-2:]
    near = torch.ones(height, width, dtype=torch.bool, device=grid.device)
    near[: max(height - radius + 1, 0), radius - 1 : max(width - radius + 1, 0)] = False
    return near


class _PairDistance(torch.autograd.Function):
    """Autograd through K shifted differences would keep K copies of the features; this keeps the
    features.
    """

    @staticmethod
    def forward(context, features, radius, factor):
        context.save_for_backward(features)
        context.radius, context.factor = radius, factor
        batch, _, height, width = features.shape
        offsets = neighbour_offsets(radius)
        # summed in float32 at least, and the channels last, where a reduction runs over contiguous
        # memory
        wide = torch.promote_types(features.dtype, torch.float32)
        cells = features.permute(0, 2, 3, 1).contiguous()  # (B, H, W, C)
        distance = features.new_full((batch, len(offsets), height, width), torch.inf, dtype=wide)
        for index, (dy, dx) in enumerate(offsets):
            source, partner = pair_slices(dy, dx, height, width)
            difference = cells[:, *source] - cells[:, *partner]
            distance[:, index, *source] = difference.abs_().sum(-1, dtype=wide) * factor
        return distance

    @staticmethod
    def backward(context, upstream):
        (features,) = context.saved_tensors
        height, width = features.shape[-2:]
        cells = features.permute(0, 2, 3, 1).contiguous()
        gradient = torch.zeros_like(cells)
        for index, (dy, dx) in enumerate(neighbour_offsets(context.radius)):
            source, partner = pair_slices(dy, dx, height, width)
            sign = (cells[:, *source] - cells[:, *partner]).sign_()
            sign *= (upstream[:, index, *source] * context.factor).unsqueeze(-1).to(sign.dtype)
            gradient[:, *source] += sign
            gradient[:, *partner] -= sign
        return gradient.permute(0, 3, 1, 2), None, None


def flat_offsets(radius, width):
    """How many cells further each partner lies, where rows of ``width`` cells follow one another
    with a gap of ``radius - 1`` cells between them: 34 numbers for radius 5.

    In this layout one shift of a whole grid meets all partners at an offset, and those outside the
    image lie in gaps.
    """
    return [dy * (width + radius - 1) + dx for dy, dx in neighbour_offsets(radius)]


def pair_targets(labels, *, radius=5, border_pairs=True):
    """What the confident labels say of each pair (equations 5 and 6).

    Args:
        labels: uint8 (B, H, W): 0 background, 1.. classes, 255 neutral.
        radius, border_pairs: as for ``pair_distance``.

    Returns:
        uint8 (B, K, H, W): 0 ignored (an end is neutral or outside, or the pair is left out), 1
        both background, 2 both the same object class, 3 different.
    """
    batch, height, width = labels.shape
    row = width + radius - 1
    cells = height * row
    # below the image and in the gaps all is neutral
    flat = F.pad(labels, (0, radius - 1, 0, radius), value=255).flatten(1)
    # 3 where both ends are known, less what makes it 1 or 2 where they are equal: bytes throughout,
    # of which a processor computes dozens at once
    known = (flat != 255).to(torch.uint8) * DIFFERENT
    less = torch.where(flat == 0, DIFFERENT - BACKGROUND_PAIR, DIFFERENT - OBJECT_PAIR)
    less = less.to(torch.uint8).masked_fill_(flat == 255, 0)[:, :cells]
    offsets = flat_offsets(radius, width)
    targets = labels.new_empty((batch, len(offsets), cells))
    for target, offset in zip(targets.unbind(1), offsets, strict=True):
        there = slice(offset, offset + cells)
        same = (flat[:, :cells] == flat[:, there]).view(torch.uint8)
        torch.sub(known[:, :cells] & known[:, there], same * less, out=target)
    targets = targets.unflatten(-1, (height, row))[..., :width].contiguous()
    return targets if border_pairs else targets.masked_fill_(_near_edges(labels, radius), IGNORED)


def pair_counts(targets):
    """How many object pairs, background pairs and different pairs there are: float32 (3,)."""
    kinds = targets.float()  # to compare and add up floats is several times as fast as bytes
    return torch.stack(
        [(kinds == kind).float().sum() for kind in (OBJECT_PAIR, BACKGROUND_PAIR, DIFFERENT)]
    )


class AffinityLoss(NamedTuple):
    """The terms of equation 10, scalars; ``total = foreground + background + 2 * negative``, or a
    quarter of that as released.
    """

    total: torch.Tensor
    foreground: torch.Tensor
    background: torch.Tensor
    negative: torch.Tensor


def affinity_loss(distance, targets, *, released=False, counts=None):
    """Equations 7 to 10, in log space: ``log W = -distance`` and ``log(1 - W) =
    log(-expm1(-distance))``.

    Args:
        distance: float (B, K, H, W) from ``pair_distance``.
        targets: uint8 (B, K, H, W) from ``pair_targets``.
        released: as the released code has it: a quarter of the paper's total, and 1e-5 added inside
            the logarithms, so that no pair costs more than 11.5.
        counts: float (3,), what the costs of each kind are divided by: ``pair_counts(targets)``,
            unless told otherwise.

    Returns:
        ``AffinityLoss``. A kind of pair that does not occur contributes 0.
    """
    foreground, background, negative = _MeanCosts.apply(distance, targets, released, counts)
    total = foreground + background + 2 * negative
    return AffinityLoss(total / 4 if released else total, foreground, background, negative)


class _MeanCosts(torch.autograd.Function):
    """The mean costs of object pairs, of background pairs and of different pairs.

    To pick out the pairs of a kind, and to put their gradients back in their places, takes several
    times as long as to compute the cost of every pair and to sum those of a kind as a product with
    zeros and ones.
    """

    @staticmethod
    def forward(context, distance, targets, released, counts):
        # equal features have affinity 1 exactly, whose cost as a different pair is infinite: a
        # number near the smallest stands for a distance of zero; and the largest for infinity,
        # which times zero is no number
        limits = torch.finfo(distance.dtype)
        cost = distance.clamp(4 * limits.tiny, limits.max)
        if released:
            kept = torch.exp(-cost)  # W
            same = torch.log(kept + RELEASED_FLOOR).neg_()
            different = torch.log((1 + RELEASED_FLOOR) - kept).neg_()
        else:
            # 1 - exp(-d) is 2h / (1 + h), exact for small d too; torch's own expm1 and log1p are
            # ten times as slow
            kept = cost.div(2).tanh_()  # h
            same = cost
            different = (kept + 1).reciprocal_().mul_(kept).mul_(2).log_().neg_()
        kinds = targets.to(distance.dtype)
        chosen = torch.empty_like(kinds)
        sums, found = [], []
        costs = ((OBJECT_PAIR, same), (BACKGROUND_PAIR, same), (DIFFERENT, different))
        for kind, cost in costs:
            torch.eq(kinds, kind, out=chosen)
            found.append(chosen.sum())
            sums.append(torch.dot(chosen.flatten(), cost.flatten()))
        counts = torch.stack(found) if counts is None else counts
        counts = counts.where(counts > 0, 1)
        context.released = released
        context.save_for_backward(kinds, kept, counts)
        return tuple(torch.stack(sums) / counts)

    @staticmethod
    def backward(context, *upstream):
        kinds, kept, counts = context.saved_tensors
        weights = [each / count for each, count in zip(upstream, counts, strict=True)]
        if context.released:
            slope = kept / (kept - (1 + RELEASED_FLOOR))  # of -log(1 + 1e-5 - W)
        else:
            slope = kept.reciprocal().sub_(1).div_(-2)  # -1 / (exp(d) - 1)
        chosen = torch.eq(kinds, DIFFERENT, out=torch.empty_like(kinds))
        gradient = slope.mul_(chosen).mul_(weights[2])
        for kind, weight in ((OBJECT_PAIR, weights[0]), (BACKGROUND_PAIR, weights[1])):
            torch.eq(kinds, kind, out=chosen)
            if context.released:
                chosen.mul_(kept / (kept + RELEASED_FLOOR))  # of -log(W + 1e-5)
            gradient.addcmul_(chosen, weight)
        return gradient, None, None, None


def cell_labels(labels, stride, *, majority=False):
    """Labels of a grid's cells: of the pixel that a cell stands on, or the most frequent one of the
    ``stride`` x ``stride`` pixels from there on.

    Args:
        labels: (H, W) integers.

    Returns:
        (ceil(H / stride), ceil(W / stride)) of the same type.
    """
    if not majority:
        return labels[::stride, ::stride]
    height, width = labels.shape
    below, right = -height % stride, -width % stride
    padded = F.pad(labels[None, None].float(), (0, right, 0, below), mode="replicate")[0, 0]
    blocks = padded.unfold(0, stride, stride).unfold(1, stride, stride)  # (h, w, stride, stride)
    return blocks.flatten(-2).mode().values.to(labels.dtype)


def cell_means(values, stride):
    """Means over the ``stride`` x ``stride`` pixels from each cell's own on: float (C, h, w) of
    (C, H, W), fewer of them at the right and lower edge.
    """
    return F.avg_pool2d(values[None], stride, ceil_mode=True)[0]
