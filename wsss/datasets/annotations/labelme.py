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
# shapes that have an area, by their number of points; polygons may have more
SHAPES = {"polygon": 3, "oriented_rectangle": 3, "rectangle": 2, "circle": 2, "mask": 2}
POLYGON = {"group_id": None, "description": "", "shape_type": "polygon", "flags": {}, "mask": None}
FARTHEST = 1e6  # pixels from the photo's corner


def label_names(classes: Sequence[str], background: str = BACKGROUND_NAME) -> dict[int, str]:
    """The names of a label map's values: classes from 1, ``background``, and ``__ignore__``."""
    return dict(enumerate(classes, 1)) | {0: background, IGNORE: IGNORE_NAME}


def annotation(
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    image_path: str,
    size: tuple[int, int] | None = None,
    **simplification,
) -> dict[str, Any]:
    """A label map, uint8 (H, W), as labelme's JSON: polygons, each painted over those before it, so
    that the contents of a hole follow it; names are those of ``label_names``.

    Args:
        image_path: of the photo, relative to the JSON's folder.
        size: (height, width) of the photo, to which points are scaled; None: the label map's.
        simplification: options of ``polygons.outlines``.
    """
    height, width = size or labels.shape
    scale = np.array([width / labels.shape[1], height / labels.shape[0]])
    names = label_names(classes)
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
    background, uint8 (imageHeight, imageWidth). InputError for another format, an unknown label, or
    a shape without an area.

    A pixel belongs to a shape if its centre does. (labelme's own export adds the pixels that the
    border touches.)
    """
    numbers = {normal(name): number for number, name in label_names(classes).items()}
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise InputError("expected labelme's JSON, with 'shapes'; save it from labelme")
    size: list[Any] = [content.get("imageHeight"), content.get("imageWidth")]
    if not all(type(side) is int and side > 0 for side in size) or math.prod(size) > MOST_PIXELS:
        wanted = f"imageHeight and imageWidth of at most {MOST_PIXELS // 10**6} million pixels"
        fix = "save it again, or make the photo smaller"
        raise InputError(f"expected {wanted} but got {size[0]!r} and {size[1]!r}; {fix}")
    labels = np.zeros(size, np.uint8)
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
    points = _points(shape.get("points"), SHAPES[kind])
    if kind == "mask":
        _paint_mask(labels, points.astype(int), shape.get("mask"), number)
    elif kind == "circle":
        _paint_circle(labels, points, number)
    elif kind == "rectangle":
        (x, y), (far_x, far_y) = points
        paint(labels, [(x, y), (far_x, y), (far_x, far_y), (x, far_y)], value=number)
    else:
        paint(labels, points, value=number)


def _points(points, count):
    """Points as float (N, 2), after a check: ``count`` of them, or more if that is 3."""
    sound = isinstance(points, list) and all(
        isinstance(point, list)
        and len(point) == 2
        and all(type(value) in (int, float) and abs(value) <= FARTHEST for value in point)
        for point in points
    )
    if not sound:
        raise InputError("expected points of two numbers each; draw it again")
    if len(points) < count or len(points) > count == 2:
        wanted = "2" if count == 2 else "3 or more"
        raise InputError(f"expected {wanted} points but it has {len(points)}; draw it again")
    return np.array(points, float)


def _paint_circle(labels, points, number):
    (x, y), radius = points[0], math.dist(*points)  # the second point is on the rim
    top, bottom = np.clip((y - radius, y + radius + 1), 0, labels.shape[0]).astype(int)
    left, right = np.clip((x - radius, x + radius + 1), 0, labels.shape[1]).astype(int)
    rows, columns = np.ogrid[top:bottom, left:right]
    inside = (rows + 0.5 - y) ** 2 + (columns + 0.5 - x) ** 2 <= radius**2
    labels[top:bottom, left:right][inside] = number


def _paint_mask(labels, corners, content, number):
    """Paint a PNG in base64 between two corner pixels, inclusive."""
    (left, top), (right, bottom) = corners
    height, width = labels.shape
    if not (0 <= left <= right < width and 0 <= top <= bottom < height):
        raise InputError(f"its mask leaves the photo of {width}x{height}; draw it again")
    place = labels[top : bottom + 1, left : right + 1]
    try:
        with Image.open(io.BytesIO(base64.b64decode(content)), formats=["PNG"]) as file:
            if file.size != place.shape[::-1]:
                raise ValueError(f"it has {file.width}x{file.height}")
            place[np.array(file.convert("L")) > 0] = number
    except Exception as error:  # decoders raise many kinds for damaged bytes
        wanted = f"a mask of {place.shape[1]}x{place.shape[0]} between its points"
        fault = f"it is not a readable PNG of that size ({reason(error)})"
        raise InputError(f"expected {wanted} but {fault}; draw it again") from None
