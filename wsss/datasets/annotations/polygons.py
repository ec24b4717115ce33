"""Label maps as polygons, traced along the edges of pixels, and polygons painted back.

Points are (x, y) in pixels, y down: the pixel in row r and column c is the square from (c, r) to
(c + 1, r + 1). It belongs to a polygon if its centre does.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

THIN = 3  # times the tolerance: narrower regions are not simplified


def outlines(
    labels: np.ndarray, *, tolerance: float = 1.0, least_area: int = 10
) -> list[tuple[int, np.ndarray]]:
    """``(value, points)`` of the polygons that give a label map when painted in this order on 0.

    Each 4-connected region of one value gives its outer border, larger ones first; its holes are
    regions that are painted later. Neighbours share the points of their common border.

    Args:
        labels: uint8 (H, W).
        tolerance: pixels from the exact border to the simplified one at most; 0 keeps each corner,
            and so the exact label map.
        least_area: pixels; smaller regions, hard to edit by hand, take the value of the nearest
            pixels outside. 0 keeps all.

    Returns:
        points as float64 (N, 2), the first not repeated.
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
    borders = _trace(padded)
    polygons = _simplified(padded, borders, tolerance)
    canvas, found = np.zeros_like(labels), []
    for place in sorted(range(len(borders)), key=lambda place: -_area(polygons[place][0])):
        row, column = divmod(borders[place][0], padded.shape[1])  # the region's first pixel
        if canvas[row - 1, column - 1] != values[place]:  # else it shows already
            exact, simple = polygons[place]
            paint(canvas, exact, value=values[place])
            found.append((int(values[place]), simple))
    return found


def paint(
    canvas: np.ndarray, points: np.ndarray | Sequence[tuple[float, float]], *, value: int
) -> None:
    """Set the pixels of a canvas (H, W) whose centres lie inside a polygon, in place.

    The points (N, 2), N > 2, may leave the canvas. Where the polygon crosses itself, the even-odd
    rule decides.
    """
    height, width = canvas.shape
    points = np.asarray(points, float)
    x, y = points[:, 0], points[:, 1]
    ahead_x, ahead_y = np.roll(x, -1), np.roll(y, -1)
    begin = np.ceil(np.minimum(y, ahead_y) - 0.5).clip(0, height).astype(int)
    end = np.ceil(np.maximum(y, ahead_y) - 0.5).clip(0, height).astype(int)
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
    tops = np.flatnonzero(padded[1:] != padded[:-1]) + stride
    numbers, first = np.unique(padded.ravel()[tops], return_index=True)
    cells = padded.ravel().data  # faster to index than an array
    steps, around = (1, stride, -1, -stride), _around(stride)  # right, down, left, up
    borders = []
    for start in tops[first[numbers > 0]].tolist():
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


def _simplified(padded, borders, tolerance):
    """``(exact, simple)`` per border: all corners and those kept, both float64 (N, 2).

    Points where more than two regions meet are kept. Between them the two regions of a line keep
    equal points, as its simplification does not depend on its direction.
    """
    flat, stride = padded.ravel(), padded.shape[1]
    path = np.concatenate(borders)
    ends = np.cumsum([len(border) for border in borders])
    starts = np.concatenate(([0], ends[:-1]))
    ahead = np.arange(1, len(path) + 1)
    ahead[ends - 1] = starts
    step = path[ahead] - path
    turns = np.empty(len(path), bool)
    turns[ahead] = step != step[ahead]
    around = np.stack([flat[path + offset] for offset in _around(stride)])
    meets = (around != np.roll(around, 1, axis=0)).sum(0) > 2
    rings = []
    for start, end in zip(starts, ends, strict=True):
        ring = start + np.flatnonzero(turns[start:end] | meets[start:end])
        cut = np.argmax(meets[ring])  # 0 if there is none
        rings.append(np.concatenate((ring[cut:], ring[: cut + 1])))
    ring = np.concatenate(rings)
    ends = np.cumsum([len(ring) for ring in rings])
    keep = meets[ring]
    keep[ends - 1] = keep[np.concatenate(([0], ends[:-1]))] = True
    points = np.stack([path[ring] % stride, path[ring] // stride], axis=1) - 1  # (x, y)
    allowed = _allowed(padded, tolerance)[around[:, ring]].min(0)
    _simplify(points, path[ring], keep, allowed)
    parts = zip(np.split(points, ends[:-1]), np.split(keep, ends[:-1]), strict=True)
    return [(part[:-1].astype(float), part[:-1][kept[:-1]].astype(float)) for part, kept in parts]


def _allowed(padded, tolerance):
    """The tolerance of each region's border, by number: 0 for a thin one, which could vanish."""
    count = padded.max() + 1
    pairs = ((padded[1:], padded[:-1]), (padded[:, 1:], padded[:, :-1]))
    inner = [side[one != other] for one, other in pairs for side in (one, other)]
    perimeter = np.bincount(np.concatenate(inner), minlength=count)
    widths = 2 * np.bincount(padded.ravel(), minlength=count) / perimeter  # of a long region
    allowed = np.where(widths < THIN * tolerance, 0.0, tolerance)
    allowed[0] = tolerance  # outside the label map
    return allowed


def _simplify(points, names, keep, allowed):
    """Douglas-Peucker simplification of all lines at once, in place: between two kept points, int
    (N, 2), the farthest from the line is kept too while its distance exceeds ``allowed``. Ties go
    to the lowest of ``names``.
    """
    waiting = np.flatnonzero(~keep)
    while waiting.size:
        kept = np.flatnonzero(keep)
        line = np.cumsum(keep)[waiting] - 1
        distance = _squared_distance(points[waiting], points[kept[line]], points[kept[line + 1]])
        far = distance > allowed[waiting] ** 2
        order = np.lexsort((names[waiting], -distance, line))
        order = order[far[order]]
        lines, first = np.unique(line[order], return_index=True)
        keep[waiting[order[first]]] = True
        waiting = waiting[np.isin(line, lines) & ~keep[waiting]]


def _squared_distance(points, begin, end):
    """Of points from line segments, all int (N, 2); the same in both directions."""
    line, behind, before = end - begin, points - begin, end - points
    length = (line**2).sum(1)
    area = line[:, 0] * behind[:, 1] - line[:, 1] * behind[:, 0]
    nearest = np.minimum((behind**2).sum(1), (before**2).sum(1))
    between = ((line * behind).sum(1) > 0) & ((line * before).sum(1) > 0)
    return np.where(between, area**2 / np.maximum(length, 1), nearest)


def _area(points):
    x, y = points.T
    return np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))  # clockwise as seen: positive
