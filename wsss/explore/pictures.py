"""Pictures of a ``Scene`` for widgets and figures: uint8 RGB (H, W, 3) of the preview's size or a
multiple of it. Sheets are arguments of ``viz.contact_sheet``: rows of pictures, and their titles.
"""

import io
from dataclasses import replace

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw

from wsss import viz
from wsss.affinity import STRIDE
from wsss.explore.one_cell import neighbourhood
from wsss.explore.scene import Scene, resized
from wsss.geometry import upsample
from wsss.synthesis import Walk

Pixel = tuple[int, int]  # (x, y)
Sheet = tuple[list[list[np.ndarray]], list[str]]

SIDE = 256  # pixels; smaller pictures are enlarged to about this by a whole number
GREY = 128  # outside the photo, beyond the radius
TIMES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # steps to choose from


def photo(scene: Scene, pixel: Pixel | None = None) -> np.ndarray:
    """The photo, with a ring around the chosen pixel."""
    return _ring(_enlarge(scene.small), scene, pixel)


def heat(scene: Scene, values: np.ndarray | torch.Tensor, pixel: Pixel | None = None) -> np.ndarray:
    """A map in [0, 1], of pixels (H, W) or of cells (h, w), as colours over the photo: black is 0,
    yellow 1.
    """
    shrunk = resized(upsample(values[None], scene.size), scene.small.shape[:2])[0]
    return _ring(_enlarge(viz.overlay_map(scene.small, shrunk)), scene, pixel)


def share(scene: Scene, scores: np.ndarray) -> np.ndarray:
    """Scores (1 + C, H, W): the best class's share of its own score plus the background's. The
    label changes at one half, at any scale of the scores.
    """
    best = scores[1:].max(0)
    return heat(scene, best / np.maximum(best + scores[0], 1e-12))


def labels(scene: Scene, found: np.ndarray | None) -> np.ndarray:
    """A label map (H, W) in classes' colours over the photo, 255 white; grey for None."""
    if found is None:
        return _enlarge(np.full_like(scene.small, GREY))
    shrunk = Image.fromarray(found).resize(scene.small.shape[1::-1], Image.Resampling.NEAREST)
    return _enlarge(viz.overlay_labels(scene.small, np.asarray(shrunk)))


def walker(scene: Scene, ends: np.ndarray, pixel: Pixel) -> np.ndarray:
    """Probabilities (h, w) of a walker's cells, as roots relative to the largest."""
    return heat(scene, np.sqrt(ends / ends.max()), pixel)


def surroundings(scene: Scene, pixel: Pixel) -> np.ndarray:
    """The photo around the chosen pixel, up to the neighbours of its cell."""
    row, column = scene.cell_at(*pixel[::-1])
    margin = STRIDE * (scene.radius - 1) + STRIDE // 2
    padded = np.pad(scene.image, ((margin, margin), (margin, margin), (0, 0)), constant_values=GREY)
    top, left = STRIDE * row, STRIDE * column  # the cell's pixel minus `margin`
    crop = Image.fromarray(padded[top : top + 2 * margin, left : left + 2 * margin])
    cells = 2 * scene.radius - 1
    side = SIDE // cells * cells
    return _frame(np.array(crop.resize((side, side), Image.Resampling.BILINEAR)), scene.radius)


def neighbours(scene: Scene, pixel: Pixel, *, beta: float) -> np.ndarray:
    """The affinities ``W^(beta)`` (equation 11) of the chosen pixel's cell to its neighbours, one
    square each: black is 0, yellow 1, grey no neighbour.
    """
    cell = scene.cell_at(*pixel[::-1])
    weights = neighbourhood(scene.affinity, cell, radius=scene.radius) ** beta
    palette = matplotlib.colormaps["inferno"].with_extremes(bad=str(GREY / 255))  # of nan
    return _frame(_enlarge(palette(weights, bytes=True)[..., :3]), scene.radius)


def labels_sheet(scene: Scene, walk: Walk, *, threshold: float, crf: bool) -> Sheet:
    """From maps to labels, the CRF at full size: a row of pictures."""
    scores = scene.scores(walk)
    row = {
        "photo": photo(scene),
        "largest map": heat(scene, scene.largest_map),
        f"maps above {threshold:g}": labels(scene, scene.cam_labels(threshold)),
        "where affinities end": heat(scene, scene.borders),
        f"after {walk.steps} steps": labels(scene, scene.plain_labels(scores)),
    }
    if crf:
        row["after dense CRF"] = labels(scene, scene.crf_labels(scores, walk))
    if scene.mask is not None:
        row["mask (for scores only)"] = labels(scene, scene.mask)
    return [list(row.values())], list(row)


def walk_sheet(scene: Scene, walk: Walk) -> Sheet:
    """The walk over t: two rows of pictures, shares above labels."""
    times = (0, 1, 4, 16, 64, 256)
    scores = scene.scores(replace(walk, steps=times))
    shares = [share(scene, each) for each in scores]
    walked = [labels(scene, scene.plain_labels(each)) for each in scores]
    return [shares, walked], [f"t = {t}" for t in times]


def pixel_sheet(scene: Scene, pixel: Pixel, *, walk: Walk) -> Sheet:
    """The chosen pixel, its cell's affinities, and where a walker from it is after t steps: a row
    of pictures.
    """
    times = (1, 8, 64, 256)
    ends = scene.walker(scene.cell_at(*pixel[::-1]), replace(walk, steps=times))
    row = {
        f"pixel {pixel[0]}, {pixel[1]}": photo(scene, pixel),
        "around it": surroundings(scene, pixel),
        "its affinities": neighbours(scene, pixel, beta=walk.beta),
        **{f"t = {t}": walker(scene, each, pixel) for t, each in zip(times, ends, strict=True)},
    }
    return [list(row.values())], list(row)


def png(picture: np.ndarray) -> bytes:
    """The bytes of a PNG, packed for speed."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def legend(scene: Scene) -> dict[str, str]:
    """Name to colour, ``#rrggbb``, of the photo's classes."""
    colours = viz.class_colours()
    return {scene.names[k - 1]: "#" + bytes(colours[k]).hex() for k in scene.classes}


def _enlarge(picture):
    times = max(1, round(SIDE / max(picture.shape[:2])))
    return picture.repeat(times, 0).repeat(times, 1)


def _ring(picture, scene, pixel):
    if pixel is None:
        return picture
    x, y = ((place + 0.5) * picture.shape[1] / scene.size[1] for place in pixel)
    return _outlined(picture, ImageDraw.ImageDraw.ellipse, (x - 7, y - 7, x + 7, y + 7))


def _frame(picture, radius):
    """The picture, square, with a frame around the cell in the middle."""
    block = len(picture) // (2 * radius - 1)
    low, high = block * (radius - 1) - 1, block * radius
    return _outlined(picture, ImageDraw.ImageDraw.rectangle, (low, low, high, high))


def _outlined(picture, draw, box):
    """A white outline with a dark edge, visible on any background."""
    drawn = Image.fromarray(picture)
    edge = (box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1)
    draw(ImageDraw.Draw(drawn), edge, outline="black", width=4)
    draw(ImageDraw.Draw(drawn), box, outline="white", width=2)
    return np.array(drawn)
