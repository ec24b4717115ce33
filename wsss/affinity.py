"""Affinities of nearby cells, and the loss that trains them (section 3.2, equations 3 to 10)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

STRIDE = 8  # pixels per cell of AffinityNet's features, and of the random walk
NEUTRAL = 255  # label of a pixel that is not confidently an object or background
IGNORED, BACKGROUND_PAIR, OBJECT_PAIR, DIFFERENT = range(4)  # values of pair_targets
KINDS = OBJECT_PAIR, BACKGROUND_PAIR, DIFFERENT  # in the order of the loss's terms
RELEASED_FLOOR = 1e-5  # the released code adds it inside the logarithms

Cells = tuple[slice, slice]  # rows and columns of a grid


def neighbour_offsets(radius: int) -> list[tuple[int, int]]:
    """The (dy, dx) with ``dy*dy + dx*dx < radius*radius``, one of each symmetric pair (equation 4).

    The one kept points downwards, or right in the same row: 34 offsets for radius 5.
    """
    return [
        (dy, dx)
        for dy in range(radius)
        for dx in range(-radius + 1, radius)
        if dy * dy + dx * dx < radius * radius and (dy > 0 or dx > 0)
    ]


def pair_slices(offset: tuple[int, int], size: Sequence[int]) -> tuple[Cells, Cells]:
    """The cells of a grid (H, W) that have a partner at an offset (dy, dx) of
    ``neighbour_offsets``, and these partners.
    """
    (dy, dx), (height, width) = offset, size
    rows, columns = max(height - dy, 0), max(width - abs(dx), 0)
    left, right = max(-dx, 0), max(dx, 0)
    source = slice(0, rows), slice(left, left + columns)
    return source, (slice(dy, dy + rows), slice(right, right + columns))


def pair_distance(
    features: torch.Tensor, *, radius: int = 5, reduction: str = "mean", border_pairs: bool = True
) -> torch.Tensor:
    """L1 distance over channels between each cell and its neighbours (equation 3), whose affinity
    is ``exp(-distance)``: (B, K, H, W), inf where the partner lies outside the image or the pair is
    left out. Raises ValueError for another reduction.

    Args:
        features: float (B, C, H, W).
        radius: in cells; see ``neighbour_offsets`` for the K offsets and their order.
        reduction: ``mean`` over channels (released code) or ``sum`` (paper, equation 3).
        border_pairs: False leaves out, as the released code does, the pairs whose cell (not its
            partner) is nearer than ``radius`` to the left, right or bottom edge.
    """
    factors = {"mean": 1 / features.shape[1], "sum": 1.0}
    if reduction not in factors:
        raise ValueError(f"unknown reduction '{reduction}'; expected mean or sum")
    distance = _PairDistance.apply(features, radius, factors[reduction])
    if not border_pairs:
        distance = distance.masked_fill(_near_edges(features, radius), torch.inf)
    return distance


def _near_edges(grid, radius):
    """The cells of a grid (..., H, W) whose pairs the released code leaves out: bool (H, W)."""
    height, width = grid.shape[-2:]
    near = torch.ones(height, width, dtype=torch.bool, device=grid.device)
    near[: max(height - radius + 1, 0), radius - 1 : max(width - radius + 1, 0)] = False
    return near


class _PairDistance(torch.autograd.Function):
    """Keeps the features for the backward pass; plain autograd would keep K differences of them."""

    @staticmethod
    def forward(context, features, radius, factor):
        context.save_for_backward(features)
        context.radius, context.factor = radius, factor
        batch, _, height, width = features.shape
        offsets = neighbour_offsets(radius)
        # channels last: the reduction then runs over contiguous memory, in float32 or wider
        wide = torch.promote_types(features.dtype, torch.float32)
        cells = features.permute(0, 2, 3, 1).contiguous()  # (B, H, W, C)
        distance = features.new_full((batch, len(offsets), height, width), torch.inf, dtype=wide)
        for index, offset in enumerate(offsets):
            source, partner = pair_slices(offset, (height, width))
            difference = cells[:, *source] - cells[:, *partner]
            distance[:, index, *source] = difference.abs_().sum(-1, dtype=wide) * factor
        return distance

    @staticmethod
    def backward(context, upstream):
        (features,) = context.saved_tensors
        height, width = features.shape[-2:]
        cells = features.permute(0, 2, 3, 1).contiguous()
        gradient = torch.zeros_like(cells)
        for index, offset in enumerate(neighbour_offsets(context.radius)):
            source, partner = pair_slices(offset, (height, width))
            sign = (cells[:, *source] - cells[:, *partner]).sign_()
            sign *= (upstream[:, index, *source] * context.factor).unsqueeze(-1).to(sign.dtype)
            gradient[:, *source] += sign
            gradient[:, *partner] -= sign
        return gradient.permute(0, 3, 1, 2), None, None


def boundaries(affinity: torch.Tensor, *, radius: int = 5) -> np.ndarray:
    """One minus the mean affinity of each cell to its neighbours, float32 (h, w) in [0, 1], from
    affinities, float (K, h, w) in [0, 1], at the K offsets of ``neighbour_offsets(radius)``.
    """
    size = affinity.shape[-2:]
    total, count = affinity.new_zeros(size), affinity.new_zeros(size)
    for weight, offset in zip(affinity, neighbour_offsets(radius), strict=True):
        source, partner = pair_slices(offset, size)
        for cells in (source, partner):
            total[cells] += weight[source]
            count[cells] += 1
    return (1 - total / count.clamp(min=1)).cpu().numpy()


def flat_offsets(radius: int, width: int) -> list[int]:
    """The offsets in a flat layout: rows of ``width`` cells one after the other, ``radius - 1``
    empty cells after each row, which stand for the partners outside the image.
    """
    return [dy * (width + radius - 1) + dx for dy, dx in neighbour_offsets(radius)]


def pair_targets(
    labels: torch.Tensor, *, radius: int = 5, border_pairs: bool = True
) -> torch.Tensor:
    """Classify each pair by its two confident labels (equations 5 and 6): uint8 (B, K, H, W), 0
    ignored (a cell of the pair is neutral or outside the image, or the pair is left out), 1 both
    background, 2 both the same object class, 3 different.

    ``labels`` are uint8 (B, H, W): 0 background, 1.. classes, 255 neutral. ``radius`` and
    ``border_pairs`` are those of ``pair_distance``.
    """
    batch, height, width = labels.shape
    row = width + radius - 1
    cells = height * row
    # neutral below the image and in the gaps
    flat = F.pad(labels, (0, radius - 1, 0, radius), value=NEUTRAL).flatten(1)
    # 3 where both labels are known, minus 2 or 1 where they are equal; in bytes, of which vector
    # instructions handle dozens at once
    known = (flat != NEUTRAL).to(torch.uint8) * DIFFERENT
    less = torch.where(flat == 0, DIFFERENT - BACKGROUND_PAIR, DIFFERENT - OBJECT_PAIR)
    less = less.to(torch.uint8).masked_fill_(flat == NEUTRAL, 0)[:, :cells]
    offsets = flat_offsets(radius, width)
    targets = labels.new_empty((batch, len(offsets), cells))
    for target, offset in zip(targets.unbind(1), offsets, strict=True):
        partners = slice(offset, offset + cells)
        same = (flat[:, :cells] == flat[:, partners]).view(torch.uint8)
        torch.sub(known[:, :cells] & known[:, partners], same * less, out=target)
    targets = targets.unflatten(-1, (height, row))[..., :width].contiguous()
    return targets if border_pairs else targets.masked_fill_(_near_edges(labels, radius), IGNORED)


def pair_counts(targets: torch.Tensor) -> torch.Tensor:
    """Count object pairs, background pairs and different pairs: float32 (3,)."""
    kinds = targets.float()  # comparing and summing floats is several times as fast as bytes
    return torch.stack([(kinds == kind).float().sum() for kind in KINDS])


class AffinityLoss(NamedTuple):
    """The terms of equation 10, scalars: ``total = foreground + background + 2 * negative``, or a
    quarter of it, as in the released code.
    """

    total: torch.Tensor
    foreground: torch.Tensor
    background: torch.Tensor
    negative: torch.Tensor


def affinity_loss(
    distance: torch.Tensor,
    targets: torch.Tensor,
    *,
    released: bool = False,
    counts: torch.Tensor | None = None,
) -> AffinityLoss:
    """Equations 7 to 10, in log space: ``log W = -distance`` and ``log(1 - W) =
    log(-expm1(-distance))``.

    Args:
        distance: float (B, K, H, W) from ``pair_distance``.
        targets: uint8 (B, K, H, W) from ``pair_targets``.
        released: compute the released code's loss: a quarter of the paper's total, with 1e-5 added
            inside the logarithms, so that no pair costs more than 11.5.
        counts: float (3,), the divisors of the three sums of costs, of which a kind of pair that
            does not occur contributes 0; None takes ``pair_counts(targets)``.
    """
    counts = pair_counts(targets) if counts is None else counts
    foreground, background, negative = _MeanCosts.apply(distance, targets, released, counts)
    total = foreground + background + 2 * negative
    return AffinityLoss(total / 4 if released else total, foreground, background, negative)


class _MeanCosts(torch.autograd.Function):
    """The mean costs of ``KINDS``, summed as dot products of all costs with zeros and ones;
    selecting pairs by index takes several times as long.
    """

    @staticmethod
    def forward(context, distance, targets, released, counts):
        # finite stand-ins: for a distance of 0, whose cost as a different pair is infinite, and for
        # inf, which times zero is nan
        limits = torch.finfo(distance.dtype)
        cost = distance.clamp(4 * limits.tiny, limits.max)
        if released:
            kept = torch.exp(-cost)  # W
            same = torch.log(kept + RELEASED_FLOOR).neg_()
            different = torch.log((1 + RELEASED_FLOOR) - kept).neg_()
        else:
            # 1 - exp(-d) = 2h / (1 + h) with h = tanh(d / 2), exact for small d too; torch's expm1
            # and log1p are ten times as slow
            kept = cost.div(2).tanh_()  # h
            same = cost
            different = (kept + 1).reciprocal_().mul_(kept).mul_(2).log_().neg_()
        kinds = targets.to(distance.dtype)
        chosen = torch.empty_like(kinds)
        sums = []
        for kind, cost in zip(KINDS, (same, same, different), strict=True):
            torch.eq(kinds, kind, out=chosen)
            sums.append(torch.dot(chosen.flatten(), cost.flatten()))
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
        for kind, weight in zip(KINDS[:2], weights[:2], strict=True):
            torch.eq(kinds, kind, out=chosen)
            if context.released:
                chosen.mul_(kept / (kept + RELEASED_FLOOR))  # of -log(W + 1e-5)
            gradient.addcmul_(chosen, weight)
        return gradient, None, None, None


def cell_labels(labels: torch.Tensor, stride: int, *, majority: bool = False) -> torch.Tensor:
    """Labels of a grid's cells, (ceil(H / stride), ceil(W / stride)), from integers (H, W): the
    cell's own pixel's, or the majority's of the ``stride`` x ``stride`` pixels from there on.
    """
    if not majority:
        return labels[::stride, ::stride]
    height, width = labels.shape
    below, right = -height % stride, -width % stride
    padded = F.pad(labels[None, None].float(), (0, right, 0, below), mode="replicate")[0, 0]
    blocks = padded.unfold(0, stride, stride).unfold(1, stride, stride)  # (h, w, stride, stride)
    return blocks.flatten(-2).mode().values.to(labels.dtype)
