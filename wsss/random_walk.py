"""The random walk that spreads scores along affinities (paper, section 3.4; equations 11 and
12).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from wsss.affinity import neighbour_offsets, pair_slices

TOLERANCE = 1e-6  # the largest total weight of the terms that the expansion leaves out


def random_walk(scores, affinity, *, beta=8.0, steps=256, radius=5):
    """``T^t`` applied to each map, where ``T = D^-1 W^(beta)`` and ``W_ii = 1``.

    The N x N matrix is never built. T is similar to the symmetric ``S = D^-1/2 W^(beta) D^-1/2``
    with its spectrum in [-1, 1], so ``S^t = sum_k c_k(t) T_k(S)`` in Chebyshev polynomials ``T_k``,
    where ``c_k(t)`` is the probability that a walk of t fair steps on a line ends at distance k
    from its start. These fall off like a Gaussian of width sqrt(t): about 80 products with S stand
    in for 256. One recurrence serves every t.

    Args:
        scores: float (C, H, W), such as background and class scores.
        affinity: float (K, H, W) in [0, 1] with the K offsets of ``neighbour_offsets(radius)``;
            where the partner lies outside the image it is not looked at.
        beta: sharpens the affinities (equation 11).
        steps: t, or several of them.
        radius: in cells.

    Returns:
        As ``scores``; (len(steps), C, H, W) where ``steps`` is a sequence.
    """
    several = isinstance(steps, Sequence)
    wanted = list(steps) if several else [steps]
    height, width = scores.shape[-2:]
    # hundreds of steps: half precision would be lost on the way
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    edges = _edges(affinity.to(scores.dtype).clamp(min=0) ** beta, radius, height, width)
    degree = torch.ones((height, width), dtype=scores.dtype, device=scores.device)  # W_ii = 1
    for (source, partner), weight in edges:
        degree[source] += weight
        degree[partner] += weight
    root = degree.sqrt()
    # S's off-diagonal entries, for every direction, over cells padded by the radius: one
    # multiply-add each
    reach = radius - 1
    shifts, weights = [], []
    for (dy, dx), ((source, partner), weight) in zip(neighbour_offsets(radius), edges, strict=True):
        if weight.numel() == 0:
            continue
        normal = weight / (root[source] * root[partner])
        forth, back = torch.zeros_like(degree), torch.zeros_like(degree)
        forth[source], back[partner] = normal, normal
        shifts += [(dy, dx), (-dy, -dx)]
        weights += [forth, back]
    diagonal = 1 / degree

    def step(field):
        padded = F.pad(field, (reach,) * 4)
        result = field * diagonal
        for (dy, dx), weight in zip(shifts, weights, strict=True):
            shifted = padded[:, reach + dy : reach + dy + height, reach + dx : reach + dx + width]
            result.addcmul_(shifted, weight)
        return result

    coefficients = [_coefficients(t) for t in wanted]
    before, current = None, scores * root  # T_0(S) v
    sums = [c[0] * current for c in coefficients]
    for k in range(1, max(map(len, coefficients))):
        following = step(current)
        if before is not None:
            following = following.mul_(2).sub_(before)
        before, current = current, following
        for total, c in zip(sums, coefficients, strict=True):
            if k < len(c) and c[k]:
                total.add_(current, alpha=c[k])
    result = torch.stack(sums) / root
    return result if several else result[0]


def _edges(weights, radius, height, width):
    """Each offset's ``((source, partner), weights of the pairs that exist)``."""
    result = []
    for weight, (dy, dx) in zip(weights, neighbour_offsets(radius), strict=True):
        source, partner = pair_slices(dy, dx, height, width)
        result.append(((source, partner), weight[source]))
    return result


def _coefficients(steps):
    """``c_k`` of ``x^t = sum_k c_k T_k(x)``, cut where what is left weighs under TOLERANCE."""
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
