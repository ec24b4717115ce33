"""Label maps as polygons: exact where that is asked for, near otherwise, without gaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.path import Path as Polygon

from wsss import datasets
from wsss.datasets.annotations.polygons import outlines, paint


def painted(found, shape):
    canvas = np.zeros(shape, np.uint8)
    for value, points in found:
        paint(canvas, points, value=value)
    return canvas


def blobs(seed, shape=(120, 160), count=5):
    """Smooth regions that touch, overlap the border and have no straight sides."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.uint8)
    for value in range(1, count + 1):
        centre, radius = rng.uniform(0, shape), rng.uniform(18, 45)
        angle = np.arctan2(rows - centre[0], columns - centre[1])
        distance = np.hypot(rows - centre[0], columns - centre[1])
        rim = radius * (1 + 0.2 * np.sin(3 * angle + value) + 0.1 * np.cos(5 * angle))
        labels[distance < rim] = value
    return labels


@settings(deadline=None)
@given(
    arrays.arrays(
        np.uint8,
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.sampled_from([0, 1, 2, 255]),
    )
)
def test_with_no_tolerance_any_label_map_comes_back(labels):
    found = outlines(labels, tolerance=0, least_area=0)
    assert np.array_equal(painted(found, labels.shape), labels)


def test_rectangles_come_back_with_four_points_each():
    labels = np.zeros((60, 80), np.uint8)
    labels[5:25, 10:30] = 1  # alone
    labels[0:12, 50:80] = 2  # at two sides of the photo
    labels[30:58, 5:40] = 3
    labels[36:50, 10:30] = 0  # a hole in it
    labels[40:46, 15:25] = 4  # and an object in the hole
    labels[30:31, 45:75] = 5  # one pixel thin
    found = outlines(labels)
    assert np.array_equal(painted(found, labels.shape), labels)
    assert [value for value, _ in found].count(0) == 1
    assert {len(points) for _, points in found} == {4}


def test_touching_rectangles_come_back():
    labels = np.zeros((40, 40), np.uint8)
    labels[5:30, 5:20], labels[10:35, 20:36], labels[30:38, 8:20] = 1, 2, 3
    assert np.array_equal(painted(outlines(labels), labels.shape), labels)


@pytest.mark.parametrize("seed", range(4))
def test_smooth_regions_keep_99_percent_with_a_fraction_of_the_points(seed):
    labels = blobs(seed)
    exact, simple = outlines(labels, tolerance=0), outlines(labels)
    assert (painted(simple, labels.shape) == labels).mean() >= 0.99
    assert sum(len(points) for _, points in simple) < 0.3 * sum(len(points) for _, points in exact)


def test_masks_of_the_built_in_dataset_keep_99_percent(tiny_shapes):
    data = datasets.open("voc", tiny_shapes)
    for id in data.ids("train"):
        labels = data.mask(id)
        assert (painted(outlines(labels), labels.shape) == labels).mean() >= 0.99


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 3.0])
def test_no_corner_is_farther_than_the_tolerance_from_what_is_left(tolerance):
    labels = blobs(1)
    pairs = zip(outlines(labels, tolerance=0), outlines(labels, tolerance=tolerance), strict=True)
    farthest = 0
    for (_, exact), (_, simple) in pairs:
        begin, end = simple[None], np.roll(simple, -1, axis=0)[None]
        line = end - begin
        along = ((exact[:, None] - begin) * line).sum(2) / (line**2).sum(2)
        nearest = begin + along.clip(0, 1)[..., None] * line
        distance = np.linalg.norm(exact[:, None] - nearest, axis=2).min(1)
        farthest = max(farthest, distance.max())
    assert 0 < farthest <= tolerance + 1e-9


def test_neighbours_leave_no_gap_between_them():
    rows, columns = np.mgrid[:90, :120]
    wave = 60 + 12 * np.sin(rows / 7)
    labels = np.where(columns < wave, 1, 2).astype(np.uint8)
    labels[(rows > 45 + 8 * np.sin(columns / 5)) & (columns > wave - 15)] = 3
    found = outlines(labels, tolerance=3)
    assert len(found) >= 3
    assert painted(found, labels.shape).min() == 1


def test_thin_regions_are_not_simplified_away():
    rows, columns = np.mgrid[:60, :60]
    labels = np.zeros((60, 60), np.uint8)
    radius = np.hypot(rows - 30, columns - 30)
    labels[(radius > 20) & (radius < 22)] = 1
    assert np.array_equal(painted(outlines(labels), labels.shape), labels)


def test_specks_go_to_what_is_next_to_them_or_stay():
    labels = np.zeros((30, 40), np.uint8)
    labels[:, 20:] = 1
    whole = labels.copy()
    labels[10, 10], labels[15, 30], labels[20:22, 19:21] = 2, 0, 255
    assert np.array_equal(painted(outlines(labels), labels.shape), whole)
    assert np.array_equal(
        painted(outlines(labels, least_area=4), labels.shape) == 255, labels == 255
    )
    assert np.array_equal(painted(outlines(labels, least_area=0), labels.shape), labels)


def test_a_label_map_of_nothing_but_specks_stays_as_it_is():
    labels = (np.indices((3, 3)).sum(0) % 2).astype(np.uint8)
    assert np.array_equal(painted(outlines(labels), labels.shape), labels)


def test_background_alone_needs_no_polygon():
    assert outlines(np.zeros((5, 7), np.uint8)) == []


def test_painting_agrees_with_matplotlib_on_stars():
    rng = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(np.arange(50) + 0.5, np.arange(40) + 0.5), axis=-1)
    for _ in range(20):  # some of them leave the canvas
        angle = np.sort(rng.uniform(0, 2 * np.pi, 12))
        reach = rng.uniform(5, 30, (12, 1))
        points = rng.uniform(5, 35, 2) + reach * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        canvas = np.zeros((40, 50), np.uint8)
        paint(canvas, points, value=7)
        inside = Polygon(points).contains_points(centres.reshape(-1, 2)).reshape(40, 50)
        assert inside.any()
        assert np.array_equal(canvas == 7, inside)


def test_painting_outside_the_canvas_changes_nothing():
    canvas = np.zeros((5, 5), np.uint8)
    paint(canvas, [(-9, -9), (-9, -2), (-2, -9)], value=1)
    paint(canvas, [(7, 1), (9, 1), (9, 4)], value=1)
    assert not canvas.any()
