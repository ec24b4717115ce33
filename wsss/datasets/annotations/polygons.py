"""Label maps as polygons, traced along the edges of pixels, and polygons painted back.

Points are (x, y) in pixels, y down: the pixel in row r and column c is the square from (c, r) to
(c + 1, r + 1). It belongs to a polygon if its centre does.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import ndimage

THIN = 3  # times the tolerance: narrower regions are not simplified


def outlines(
    labels: np.ndarray, *, tolerance: float = 1.0, least_area: int = 10
) -> list[tuple[int, np.ndarray]]:
    """``(value, points)`` of the polygons that give a label map when painted in this order on 0;
    points are float64 (N, 2), the first not repeated.

    Each 4-connected region of one value gives its outer border, larger ones first; its holes are
    regions that are painted later. Neighbours share the points of their common border.

    Args:
        labels: uint8 (H, W).
        tolerance: pixels from the exact border to the simplified one at most; 0 keeps each corner,
            and so the exact label map.
        least_area: pixels; smaller regions, hard to edit by hand, take the value of the nearest
            pixels outside. 0 keeps all.
    """
    regions, values = _regions(labels)
    small = np.bincount(regions.ravel()) < least_area
    small[0] = False  # no region has number 0
    if small.any() and not small[1:].all():
        nearest: Any = ndimage.distance_transform_edt(
            small[regions], return_distances=False, return_indices=True
        )
        labels = labels[tuple(nearest)]
        regions, values = _regions(labels)
    padded = np.pad(regions, 1)
    allowed = _allowed(padded, tolerance)
    polygons = [
        (value, border[0], *_simplified(padded, np.array(border), allowed))
        for value, border in zip(values.tolist(), _trace(padded), strict=True)
    ]
    canvas, found = np.zeros_like(labels), []
    for value, start, exact, simple in sorted(polygons, key=lambda each: -_area(each[2])):
        row, column = divmod(start, padded.shape[1])  # the region's first pixel
        if canvas[row - 1, column - 1] != value:  # else it shows already
            paint(canvas, exact, value=value)
            found.append((value, simple))
    return found


def paint(
    canvas: np.ndarray, points: np.ndarray | Sequence[tuple[float, float]], *, value: int
) -> None:
    """Set the pixels of a canvas (H, W) whose centres lie inside a polygon, in place.

    The points (N, 2), N > 2, may leave the canvas. Where the polygon crosses itself, the even-odd
    rule decides.
    """
    height, width = canvas.shape
    x, y = np.asarray(points, float).T
    ahead_x, ahead_y = np.roll(x, -1), np.roll(y, -1)
    begin, end = np.ceil(np.sort([y, ahead_y], axis=0) - 0.5).clip(0, height).astype(int)
    rows = end - begin  # rows whose centres an edge crosses
    edge = np.repeat(np.arange(len(rows)), rows)
    if not edge.size:
        return
    row = begin[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows)
    slope = (ahead_x - x)[edge] / (ahead_y - y)[edge]
    crossing = x[edge] + (row + 0.5 - y[edge]) * slope
    column = np.ceil(crossing - 0.5).clip(0, width).astype(int)  # the first centre not before it
    top, left, right = row.min(), column.min(), column.max()
    turns = np.zeros((row.max() + 1 - top, right + 1 - left), np.uint8)
    np.bitwise_xor.at(turns, (row - top, column - left), 1)
    inside = np.bitwise_xor.accumulate(turns, axis=1)[:, :-1].astype(bool)
    canvas[top : top + len(turns), left:right][inside] = value


def _regions(labels):
    """The number of each pixel's region, from 1, int32 (H, W), and each region's value, uint8."""
    regions, values = np.zeros(labels.shape, np.int32), []
    for value in np.flatnonzero(np.bincount(labels.ravel())):
        mask = labels == value
        parts, count = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues]
        np.add(parts, len(values), out=regions, where=mask)
        values += [value] * count
    return regions, np.array(values, np.uint8)


def _trace(padded):
    """The outer border of each region, by number: a list of vertices a pixel apart, clockwise, from
    the upper left corner of the region's first pixel.

    A vertex is the flat index, in ``padded`` (the regions in a rim of 0), of the pixel to its lower
    right. Where two pixels of a region touch at a corner only, the border separates them.
    """
    stride = padded.shape[1]
    flat = padded.ravel()
    runs = np.flatnonzero(np.diff(flat)) + 1  # where a row enters a region
    starts = runs[np.unique(flat[runs], return_index=True)[1][1:]]  # the first of each, but of 0
    cells = flat.data  # faster to index than an array
    steps, around = (1, stride, -1, -stride), _around(stride)  # right, down, left, up
    borders = []
    for start in starts.tolist():
        number, heading, vertex, path = cells[start], 0, start + 1, [start]
        while vertex != start:
            path.append(vertex)
            if cells[vertex + around[heading]] != number:  # ahead on the right
                heading = (heading + 1) % 4
            elif cells[vertex + around[heading - 1]] == number:  # ahead on the left
                heading = (heading - 1) % 4
            vertex += steps[heading]
        borders.append(path)
    return borders


def _around(stride):
    """Offsets from a vertex to the four pixels around it, clockwise from the lower right one."""
    return 0, -1, -stride - 1, -stride


def _simplified(padded, border, allowed):
    """``(exact, simple)`` of a border: all corners and those kept, both float64 (N, 2).

    Points where more than two regions meet are kept. Between two that are kept, the farthest from
    their line is kept too while its distance exceeds that of ``allowed`` (Douglas and Peucker). As
    ties go to the lowest vertex, both regions of a line keep equal points.
    """
    stride = padded.shape[1]
    around = padded.ravel()[np.add.outer(border, _around(stride))]
    meets = (around != np.roll(around, 1, axis=1)).sum(1) > 2
    step = np.diff(border, append=border[0])
    corners = np.flatnonzero(meets | (step != np.roll(step, 1)))
    corners = np.roll(corners, -np.argmax(meets[corners]))  # from the first kept one, if any
    names, squared = border[corners], allowed[around[corners]].min(1) ** 2
    points = (names % stride - 1) + 1j * (names // stride - 1)  # x + iy
    keep = meets[corners] | (squared == 0)
    keep[0] = True
    waiting = list(pairwise([*np.flatnonzero(keep).tolist(), len(keep)]))
    while waiting:
        begin, end = waiting.pop()
        if end - begin < 2:
            continue
        inner = slice(begin + 1, end)
        distance = _squared_distance(points[inner], points[begin], points[end % len(points)])
        place = begin + 1 + np.lexsort((names[inner], -distance))[0]
        if distance[place - begin - 1] > squared[place]:
            keep[place] = True
            waiting += [(begin, place), (place, end)]
    return tuple(each.view(float).reshape(-1, 2) for each in (points, points[keep]))


def _allowed(padded, tolerance):
    """The tolerance of each region's border, by number: 0 for a thin one, which could vanish."""
    sides = [padded != np.roll(padded, step, axis) for step in (1, -1) for axis in (0, 1)]
    count = padded.max() + 1
    perimeter = sum(np.bincount(padded[side], minlength=count) for side in sides)
    widths = 2 * np.bincount(padded.ravel(), minlength=count) / perimeter  # of a long region
    allowed = np.where(widths < THIN * tolerance, 0.0, tolerance)
    allowed[0] = tolerance  # outside the label map
    return allowed


def _squared_distance(points, begin, end):
    """Of points from a line segment, all x + iy of whole numbers; the same in both directions."""
    line, behind, before = end - begin, points - begin, points - end
    turned = behind * np.conj(line)  # its real part is along the line, the imaginary one across
    between = (turned.real > 0) & ((before * np.conj(line)).real < 0)
    nearest = np.minimum(*(each.real**2 + each.imag**2 for each in (behind, before)))
    return np.where(between, turned.imag**2 / max(line.real**2 + line.imag**2, 1), nearest)


def _area(points):
    x, y = points.T
    return x @ (np.roll(y, -1) - np.roll(y, 1))  # twice; clockwise as seen: positive
