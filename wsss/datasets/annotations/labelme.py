"""The JSON of labelme, a program for drawing polygons: written from a label map, and read back."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from wsss.datasets.annotations.polygons import outlines, paint
from wsss.datasets.photos import MOST_PIXELS
from wsss.datasets.tags import normal
from wsss.errors import InputError, reason
from wsss.io.artifacts import IGNORE

BACKGROUND_NAME, IGNORE_NAME = "_background_", "__ignore__"  # as in labelme's own examples
SHAPES = ("polygon", "oriented_rectangle", "rectangle", "circle", "mask")  # those that have an area
POLYGON = {"group_id": None, "description": "", "shape_type": "polygon", "flags": {}, "mask": None}
FARTHEST = 1e6  # pixels from the photo's corner


def annotation(
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    image_path: str,
    size: tuple[int, int] | None = None,
    **simplification,
) -> dict[str, Any]:
    """A label map, uint8 (H, W), as labelme's JSON: polygons, each painted over those before it.

    The contents of a hole follow as further polygons, background as ``_background_``. Ignored
    pixels (255) are ``__ignore__``.

    Args:
        image_path: of the photo, relative to the JSON's folder.
        size: (height, width) of the photo, to which points are scaled; None: the label map's.
        simplification: options of ``polygons.outlines``.
    """
    height, width = size or labels.shape
    scale = np.array([width / labels.shape[1], height / labels.shape[0]])
    names = {0: BACKGROUND_NAME, IGNORE: IGNORE_NAME} | dict(enumerate(classes, 1))
    shapes = [
        {"label": names[value], "points": np.round(points * scale, 3).tolist()} | POLYGON
        for value, points in outlines(labels, **simplification)
    ]
    return {
        "version": "5.5.0",  # of labelme; 6.3 reads this too
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def label_map(content: Any, classes: Sequence[str]) -> np.ndarray:
    """The label map of labelme's JSON, which is untrusted: its shapes painted in order over
    background, uint8 (imageHeight, imageWidth).

    A pixel belongs to a shape if its centre does. (labelme's own export adds the pixels that the
    border touches.)

    Raises:
        InputError: another format, an unknown label, or a shape without an area.
    """
    numbers = {normal(name): number for number, name in enumerate(classes, 1)}
    numbers |= {BACKGROUND_NAME: 0, IGNORE_NAME: IGNORE}
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise InputError("expected labelme's JSON, with 'shapes'; save it from labelme")
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        fault = f"imageHeight and imageWidth but got {height!r} and {width!r}"
        raise InputError(f"expected {fault}; save it again")
    if height * width > MOST_PIXELS:
        fault = f"at most {MOST_PIXELS // 10**6} million pixels but got {width}x{height}"
        raise InputError(f"expected {fault}; make the photo smaller")
    labels = np.zeros((height, width), np.uint8)
    for place, shape in enumerate(content["shapes"], 1):
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise InputError(f"shape {place}: expected a label and points; draw it again")
        try:
            _paint(labels, shape, numbers)
        except InputError as fault:
            raise InputError(f"shape {place} '{shape['label']}': {fault}") from None
    return labels


def _paint(labels, shape, numbers):
    number = numbers.get(normal(shape["label"]))
    if number is None:
        raise InputError(f"no such class; expected one of: {', '.join(numbers)}")
    kind = shape.get("shape_type") or "polygon"  # which early versions leave out
    if kind not in SHAPES:
        raise InputError(f"cannot fill a {kind!r}; draw it as one of: {', '.join(SHAPES)}")
    points = _points(shape.get("points"), 2 if kind in ("rectangle", "circle", "mask") else None)
    if kind == "mask":
        _paint_mask(labels, points.astype(int), shape.get("mask"), number)
    elif kind == "circle":
        _paint_circle(labels, points.tolist(), number)
    elif kind == "rectangle":
        (x, y), (far_x, far_y) = points
        paint(labels, [(x, y), (far_x, y), (far_x, far_y), (x, far_y)], value=number)
    else:
        paint(labels, points, value=number)


def _points(points, count):
    """Points as float (N, 2), after a check: ``count`` of them, or 3 or more if that is None."""
    sound = isinstance(points, list) and all(
        isinstance(point, list)
        and len(point) == 2
        and all(type(value) in (int, float) and abs(value) <= FARTHEST for value in point)
        for point in points
    )
    if not sound:
        raise InputError("expected points of two numbers each; draw it again")
    if len(points) < (count or 3) or (count and len(points) > count):
        fault = f"{count or '3 or more'} points but it has {len(points)}"
        raise InputError(f"expected {fault}; draw it again")
    return np.array(points, float)


def _paint_circle(labels, points, number):
    (x, y), radius = points[0], math.dist(*points)  # the centre, and a point on the rim
    top, bottom = np.clip((int(y - radius), math.ceil(y + radius)), 0, labels.shape[0])
    left, right = np.clip((int(x - radius), math.ceil(x + radius)), 0, labels.shape[1])
    rows, columns = np.ogrid[top:bottom, left:right]
    inside = (rows + 0.5 - y) ** 2 + (columns + 0.5 - x) ** 2 <= radius**2
    labels[top:bottom, left:right][inside] = number


def _paint_mask(labels, corners, content, number):
    """Paint a PNG in base64 between two corner pixels, inclusive."""
    (left, top), (right, bottom) = corners
    height, width = labels.shape
    if not (0 <= left <= right < width and 0 <= top <= bottom < height):
        raise InputError(f"its mask leaves the photo of {width}x{height}; draw it again")
    wanted = (right + 1 - left, bottom + 1 - top)
    try:
        with Image.open(io.BytesIO(base64.b64decode(content)), formats=["PNG"]) as file:
            size = file.size
            bits = np.array(file.convert("L")) if size == wanted else None
    except Exception as error:  # decoders raise many kinds for damaged bytes
        raise InputError(f"its mask is not a readable PNG ({reason(error)}); redraw it") from None
    if bits is None:
        fault = f"{wanted[0]}x{wanted[1]} between its points but it has {size[0]}x{size[1]}"
        raise InputError(f"expected a mask of {fault}; draw it again")
    labels[top : bottom + 1, left : right + 1][bits > 0] = number
