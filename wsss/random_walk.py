"""The random walk that propagates scores along affinities (paper, section 3.4, equations 11-12)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from wsss.affinity import flat_offsets

TOLERANCE = 1e-6  # largest total weight of the terms that the expansion leaves out


def random_walk(
    scores: torch.Tensor,
    affinity: torch.Tensor,
    *,
    beta: float = 8.0,
    steps: int | Sequence[int] = 256,
    radius: int = 5,
) -> torch.Tensor:
    """Apply ``T^t`` to each map (equation 12), where ``T = D^-1 W^(beta)`` and ``W_ii = 1``
    (equation 11): float of the shape of ``scores``, with a first axis for a sequence of ``steps``.

    The N x N matrix is never built. T is similar to the symmetric ``S = D^-1/2 W^(beta) D^-1/2``
    with its spectrum in [-1, 1], so ``S^t = sum_k c_k(t) T_k(S)`` in Chebyshev polynomials ``T_k``,
    where ``c_k(t)`` is the probability that a walk of t fair steps on a line ends at distance k
    from its start. The ``c_k`` fall off like a Gaussian of width sqrt(t): about 80 products with S
    replace 256. One recurrence serves every t.

    Args:
        scores: float (C, H, W), such as background and class scores.
        affinity: float (K, H, W) in [0, 1] with the K offsets of ``neighbour_offsets(radius)``;
            values whose partner lies outside the image are ignored.
        beta: exponent of the affinities.
        steps: t, or a sequence of several.
        radius: of the affinities, in cells.
    """
    wanted = list(steps) if isinstance(steps, Sequence) else [steps]
    # hundreds of steps need at least float32
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    grid = _Grid(scores.shape[-2:], radius)
    degree, pairs = _pairs(affinity.to(scores.dtype).clamp(min=0) ** beta, grid, radius)
    root = degree.sqrt()
    # the entries of 2 S, so that a step is one multiplication and addition for each direction
    for weight, offset in pairs:
        grid.at(weight).mul_(2).div_(grid.at(root)).div_(grid.at(root, offset))
    diagonal = grid.at(2 / degree)
    entries = [grid.at(weight, shift) for weight, offset in pairs for shift in (0, -offset)]
    shifts = [shift for _, offset in pairs for shift in (offset, -offset)]
    # this term and the one before, each with its shifted views: two buffers suffice
    current = grid.flat(scores).mul_(root)  # T_0(S) v
    before = torch.zeros_like(current)
    views = [grid.at(current, shift) for shift in shifts]
    views_before = [grid.at(before, shift) for shift in shifts]
    coefficients = [_coefficients(t) for t in wanted]
    sums = [c[0] * grid.at(current) for c in coefficients]
    for k in range(1, max(map(len, coefficients))):
        # T_k = 2 S T_(k-1) - T_(k-2), and T_1 = S T_0
        following = grid.at(before).neg_().addcmul_(grid.at(current), diagonal)
        for view, entry in zip(views, entries, strict=True):
            following.addcmul_(view, entry)
        if k == 1:
            following.div_(2)
        current, before, views, views_before = before, current, views_before, views
        for total, c in zip(sums, coefficients, strict=True):
            if k < len(c) and c[k]:
                total.add_(grid.at(current), alpha=c[k])
    result = grid.unflat(torch.stack(sums) / grid.at(root))
    return result if isinstance(steps, Sequence) else result[0]


class _Grid:
    """Maps flattened to one row (see ``flat_offsets``), with gaps and margins so wide that every
    partner lies in the image, a gap or a margin.
    """

    def __init__(self, size, radius):
        self.height, self.width = size
        self.gap = radius - 1
        self.row = self.width + self.gap
        self.cells = self.height * self.row
        self.margin = self.gap * self.row + self.gap

    def flat(self, field):
        """Flatten (..., H, W); gaps and margins are zero."""
        rows = F.pad(field, (0, self.gap)).flatten(-2)
        return F.pad(rows, (self.margin, self.margin))

    def at(self, flat, shift=0):
        """A view of the image's cells and gaps, shifted by ``shift`` cells."""
        return flat.narrow(-1, self.margin + shift, self.cells)

    def unflat(self, cells):
        """(..., H, W) of a view by ``at``."""
        return cells.unflatten(-1, (self.height, self.row))[..., : self.width].contiguous()


def _pairs(weights, grid, radius):
    """The degree of each cell, 1 in gaps and margins, and ``(weights, flat offset)`` of every
    offset, zero where the partner lies outside the image; all flat.
    """
    inside = grid.flat(torch.ones_like(weights[0], dtype=torch.bool))
    degree = torch.ones_like(inside, dtype=weights.dtype)  # W_ii = 1
    pairs = []
    flat = grid.flat(weights)
    for weight, offset in zip(flat, flat_offsets(radius, grid.width), strict=True):
        outside = ~(grid.at(inside) & grid.at(inside, offset))
        grid.at(weight).masked_fill_(outside, 0)
        grid.at(degree).add_(grid.at(weight)).add_(grid.at(weight, -offset))
        pairs.append((weight, offset))
    return degree, pairs


def _coefficients(steps):
    """``c_k`` of ``x^t = sum_k c_k T_k(x)``, cut where the rest weighs less than TOLERANCE."""
    coefficients, left = [], 1.0
    for k in range(steps + 1):
        value = 0.0
        if (steps - k) % 2 == 0:
            log_binomial = (
                math.lgamma(steps + 1)
                - math.lgamma((steps - k) // 2 + 1)
                - math.lgamma((steps + k) // 2 + 1)
            )
            value = math.exp(log_binomial - (steps - (k > 0)) * math.log(2))
        coefficients.append(value)
        left -= value
        if left < TOLERANCE:
            break
    return coefficients
