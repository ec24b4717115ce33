"""One cell in detail: its affinities to its neighbours, and where a walker goes from it."""

from collections.abc import Sequence

import numpy as np
import torch

from wsss.affinity import neighbour_offsets, pair_slices
from wsss.random_walk import random_walk


def walker_ends(
    affinity: torch.Tensor,
    cell: tuple[int, int],
    *,
    beta: float,
    steps: int | Sequence[int],
    radius: int = 5,
) -> torch.Tensor:
    """Where a walker that starts on a cell (row, column) is after t steps: row i of ``T^t``
    (equation 12), float (h, w) in [0, 1], which sums to 1; (len(steps), h, w) of several t. The
    other arguments are those of ``random_walk``.
    """
    # random_walk maps an impulse at cell i to column i of T^t; as the walk is reversible,
    # D_i (T^t)_ij = D_j (T^t)_ji gives the row
    impulse, degree = torch.zeros_like(affinity[:1]), torch.ones_like(affinity[0])
    impulse[0, cell[0], cell[1]] = 1
    column = random_walk(impulse, affinity, beta=beta, steps=steps, radius=radius).squeeze(-3)
    for weight, offset in zip(affinity**beta, neighbour_offsets(radius), strict=True):
        source, partner = pair_slices(offset, affinity.shape[-2:])
        degree[source] += weight[source]
        degree[partner] += weight[source]
    return (column * degree / degree[cell]).clamp(min=0)


def neighbourhood(affinity: torch.Tensor, cell: tuple[int, int], *, radius: int = 5) -> np.ndarray:
    """Affinities of a cell to its neighbours: float32 (2 radius - 1, 2 radius - 1) with the cell in
    the middle, which is 1; nan beyond the radius and outside the photo.
    """
    height, width = affinity.shape[-2:]
    middle = radius - 1
    found = np.full((2 * radius - 1, 2 * radius - 1), np.nan, np.float32)
    found[middle, middle] = 1
    for k, (dy, dx) in enumerate(neighbour_offsets(radius)):
        for sign in (1, -1):  # each pair is stored at one of its cells
            y, x = cell[0] + sign * dy, cell[1] + sign * dx
            if 0 <= y < height and 0 <= x < width:
                weight = affinity[k][cell if sign == 1 else (y, x)]
                found[middle + sign * dy, middle + sign * dx] = weight
    return found
