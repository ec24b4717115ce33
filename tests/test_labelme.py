"""labelme's JSON: what it loads, and what people save with it."""

import base64
import io
import json

import numpy as np
from PIL import Image

from wsss.datasets.annotations import labelme

CLASSES = ("cat", "dog")


def saved(*shapes, height=20, width=30):
    """The JSON that labelme saves, of shapes ``(label, type, points)`` and what else they hold."""
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": [
            {"label": label, "points": points, "group_id": None, "flags": {}, "shape_type": kind}
            | (rest[0] if rest else {})
            for label, kind, points, *rest in shapes
        ],
        "imagePath": "photo.jpg",
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def bitmap(bits):
    file = io.BytesIO()
    Image.fromarray(np.asarray(bits, np.uint8)).save(file, format="PNG")
    return {"mask": base64.b64encode(file.getvalue()).decode()}


def layered():
    """Rectangles: a hole with an object in it, touching objects, a border of ignored pixels."""
    labels = np.zeros((40, 60), np.uint8)
    labels[5:35, 5:40] = 1
    labels[10:30, 10:35] = 0
    labels[15:25, 15:30] = 2
    labels[0:40, 40:50] = 2
    labels[36:40, 0:40] = 255
    return labels


def test_the_form_is_labelmes():
    content = labelme.annotation(layered(), CLASSES, image_path="../photos/a.jpg")
    assert json.loads(json.dumps(content)) == content
    assert set(content) == {
        *("version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth")
    }
    assert (content["imageHeight"], content["imageWidth"]) == (40, 60)
    assert content["imagePath"] == "../photos/a.jpg" and content["imageData"] is None
    for shape in content["shapes"]:
        assert shape["shape_type"] == "polygon" and shape["flags"] == {}
        assert shape["group_id"] is None and shape["mask"] is None
        assert len(shape["points"]) >= 3
        assert all(type(value) is float for point in shape["points"] for value in point)
    names = [shape["label"] for shape in content["shapes"]]
    assert sorted(names) == ["__ignore__", "_background_", "cat", "dog", "dog"]
    assert names.index("cat") < names.index("_background_")  # which is painted over it


def test_a_label_map_comes_back():
    labels = layered()
    content = json.loads(json.dumps(labelme.annotation(labels, CLASSES, image_path="a.jpg")))
    assert np.array_equal(labelme.label_map(content, CLASSES), labels)


def test_points_are_scaled_to_the_photo():
    labels = layered()
    content = labelme.annotation(labels, CLASSES, image_path="a.jpg", size=(120, 180))
    larger = labels.repeat(3, axis=0).repeat(3, axis=1)
    assert np.array_equal(labelme.label_map(content, CLASSES), larger)


def test_specks_are_left_out_unless_asked_for():
    labels = layered()
    labels[3, 55] = 1
    for least, value in ((10, 0), (0, 1)):
        content = labelme.annotation(labels, CLASSES, image_path="a.jpg", least_area=least)
        assert labelme.label_map(content, CLASSES)[3, 55] == value


def test_a_polygon_has_the_pixels_whose_centres_it_holds():
    triangle = labelme.label_map(saved(("dog", "polygon", [[0, 0], [8, 0], [0, 8]])), CLASSES)
    rows, columns = np.indices((20, 30)) + 0.5
    assert np.array_equal(triangle, np.where(rows + columns < 8, 2, 0))


def test_a_rectangle_is_given_by_any_two_opposite_corners():
    for points in ([[3.2, 4.6], [9, 8]], [[9, 4.6], [3.2, 8]]):
        found = labelme.label_map(saved(("cat", "rectangle", points)), CLASSES)
        expected = np.zeros((20, 30), np.uint8)
        expected[5:8, 3:9] = 1  # the centres between 3.2 and 9, and between 4.6 and 8
        assert np.array_equal(found, expected)


def test_a_circle_is_given_by_its_centre_and_a_point_on_it():
    found = labelme.label_map(saved(("cat", "circle", [[28, 10], [31, 14]])), CLASSES)
    rows, columns = np.indices((20, 30)) + 0.5
    assert np.array_equal(found == 1, np.hypot(rows - 10, columns - 28) <= 5)


def test_a_mask_lies_between_its_corner_pixels():
    bits = np.eye(4, 6)
    found = labelme.label_map(
        saved(("dog", "mask", [[2.0, 3.0], [7.0, 6.0]], bitmap(bits))), CLASSES
    )
    expected = np.zeros((20, 30), np.uint8)
    expected[3:7, 2:8] = 2 * bits
    assert np.array_equal(found, expected)


def test_later_shapes_are_painted_over_earlier_ones():
    content = saved(
        ("cat", "rectangle", [[0, 0], [20, 20]]),
        ("_background_", "rectangle", [[5, 5], [15, 15]]),
        ("__ignore__", "oriented_rectangle", [[8, 8], [12, 8], [12, 12], [8, 12]]),
    )
    found = labelme.label_map(content, CLASSES)
    assert (found[2, 2], found[6, 6], found[10, 10], found[10, 25]) == (1, 0, 255, 0)


def test_a_shape_without_a_type_is_a_polygon():
    content = saved(("cat", None, [[0, 0], [4, 0], [4, 4], [0, 4]]))
    assert labelme.label_map(content, CLASSES).sum() == 16


def test_labels_are_compared_as_people_see_them():
    square = [[0, 0], [4, 0], [4, 4], [0, 4]]
    content = saved(("cafe\u0301", "polygon", square))  # e and an accent, as some systems write é
    assert labelme.label_map(content, ("café",)).sum() == 16
