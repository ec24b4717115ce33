"""Pictures that people look at: what covers what, and whether it can be read."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from wsss import viz
from wsss.metrics import ConfusionMatrix

VOC = 20


@pytest.fixture
def scene():
    """A grey photo, and a label map with a square of class 3 on background."""
    labels = np.zeros((40, 60), np.uint8)
    labels[10:30, 20:40] = 3
    return np.full((40, 60, 3), 100, np.uint8), labels


def test_a_region_is_a_light_colour_in_a_contour_of_two_pixels(scene):
    photo, labels = scene
    picture, colour = viz.overlay_labels(photo, labels), viz.class_colours()[3]
    inside, around = np.zeros((2, 40, 60), bool)
    inside[11:29, 21:39] = True
    around[9:31, 20:40] = around[10:30, 19:41] = True  # no corners
    np.testing.assert_allclose(picture[inside], np.tile(60 + 0.4 * colour, (324, 1)), atol=0.51)
    np.testing.assert_array_equal(picture[around & ~inside], np.tile(colour, (156, 1)))
    assert (picture[~around] == 100).all()


def test_classes_side_by_side_have_a_contour_each(scene):
    photo, labels = scene
    labels[10:30, 40:50] = 5
    picture, colours = viz.overlay_labels(photo, labels), viz.class_colours()
    np.testing.assert_array_equal(picture[20, 39:41], colours[[3, 5]])


def test_names_are_written_into_their_regions_and_nowhere_else(scene):
    photo, labels = scene
    plain = viz.overlay_labels(photo, labels)
    named = viz.overlay_labels(photo, labels, names={1: "cow", 3: "i"})
    rows, columns = np.nonzero((plain != named).any(-1))
    assert len(rows) and rows.min() >= 10 and rows.max() < 30 and abs(columns.mean() - 29.5) < 2


def test_colours_of_voc_s_classes_differ_clearly():
    colours = viz.class_colours()[1 : VOC + 1].astype(int)
    apart = np.abs(colours[:, None] - colours).sum(-1) + 1000 * np.eye(VOC, dtype=int)
    assert apart.min() > 40
    assert (viz.class_colours()[255] == 255).all()


def test_a_sheet_leaves_out_a_column_without_pictures_and_explains_colours(scene):
    photo, _ = scene
    rows = [[photo, None, photo], [photo, None, None]]
    figure = viz.contact_sheet(rows, ["photo", "mask", "labels"], legend={3: "owl"})
    assert [axis.get_title() for axis in figure.axes[:2]] == ["photo", "labels"]
    assert [len(axis.images) for axis in figure.axes] == [1, 1, 1, 0]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["owl"]
    colour = (255 * np.array(legend.get_patches()[0].get_facecolor()[:3])).round()
    np.testing.assert_array_equal(colour, viz.class_colours()[3])
    plt.close(figure)


def overlaps(texts, figure):
    boxes = [text.get_window_extent(figure.canvas.get_renderer()) for text in texts]
    return [
        (one, other)
        for place, one in enumerate(boxes)
        for other in boxes[:place]
        if one.overlaps(other)
    ]


@pytest.mark.parametrize("count", [5, VOC])
def test_a_confusion_matrix_can_be_read(count):
    matrix = ConfusionMatrix(count + 1)
    target = np.arange(count + 1, dtype=np.uint8).repeat(100)
    guess = target.copy()
    guess[3::100], guess[5:11] = 0, 1
    matrix.update(guess, target)
    names = [f"a long name {number}" for number in range(1, count + 1)]
    figure = viz.confusion(matrix, names, title="t")
    figure.canvas.draw()
    axis = figure.axes[0]
    for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
        assert len(labels) == count + 1 and not overlaps(labels, figure)
    written = [text.get_text() for text in axis.texts]
    assert sorted(filter(None, written)) == sorted(["94", "6", *["99"] * count])
    plt.close(figure)


def test_bars_tell_their_values():
    table = pd.DataFrame({"class": ["cow", "mean"], "walk": [41.4, 50.6], "labels": [12, 99.7]})
    figure = viz.iou_bars(table, title="t")
    assert [text.get_text() for text in figure.axes[0].texts] == ["41", "51", "12", "100"]
    plt.close(figure)
