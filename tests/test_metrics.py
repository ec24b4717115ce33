"""The confusion matrix against counts by hand, sets of pixels and torchmetrics."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassJaccardIndex

from wsss.errors import InputError
from wsss.metrics import ConfusionMatrix, iou, mean_iou

few = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def random_pair(classes, size=(20, 30), seed=0):
    """A prediction right for about half of the pixels, and a target with some ignored ones."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, size).astype(np.uint8)
    prediction = np.where(rng.random(size) < 0.5, target, rng.integers(0, classes, size))
    target[rng.random(size) < 0.1] = 255
    prediction[target == 255] %= classes
    return prediction.astype(np.uint8), target


def filled(classes, *pairs, **options):
    out = ConfusionMatrix(classes, **options)
    for prediction, target in pairs:
        out.update(prediction, target)
    return out


def test_example_by_hand():
    target = np.uint8([[0, 0, 0, 1], [1, 1, 255, 2]])
    prediction = np.uint8([[0, 0, 1, 1], [1, 0, 2, 4]])
    confusion = filled(6, (prediction, target))
    expected = np.zeros((6, 6), int)
    expected[0, :2] = 2, 1
    expected[1, :2] = 1, 2
    expected[2, 4] = 1
    np.testing.assert_array_equal(confusion.matrix, expected)
    assert confusion.matrix.dtype == np.int64
    # Class 2 is present and missed, 4 predicted and absent: both 0. 3 and 5 are neither.
    np.testing.assert_allclose(confusion.iou(), [2 / 4, 2 / 4, 0, np.nan, 0, np.nan])
    assert confusion.miou() == pytest.approx(0.25)


def test_a_prediction_on_ignored_pixels_does_not_count():
    target = np.uint8([[0, 255], [0, 255]])
    confusion = filled(3, (np.uint8([[0, 1], [0, 2]]), target))
    assert confusion.matrix.sum() == 2
    np.testing.assert_array_equal(confusion.iou(), [1, np.nan, np.nan])
    assert confusion.miou() == 1


def test_another_value_to_ignore():
    target = np.int64([[0, 1, 7], [1, 7, 0]])
    confusion = filled(2, (np.int64([[0, 1, 0], [0, 1, 0]]), target), ignore=7)
    np.testing.assert_array_equal(confusion.matrix, [[2, 0], [1, 1]])


def test_nothing_counted_is_nan():
    assert np.isnan(ConfusionMatrix(3).iou()).all()
    assert np.isnan(ConfusionMatrix(3).miou())


@pytest.mark.parametrize("classes", [2, 21, 150])
def test_same_as_torchmetrics(classes):
    reference = MulticlassJaccardIndex(classes, ignore_index=255, average=None)
    confusion = ConfusionMatrix(classes)
    for seed in range(3):
        prediction, target = random_pair(classes, (60, 70), seed)
        confusion.update(prediction, target)
        reference.update(torch.from_numpy(prediction).long(), torch.from_numpy(target).long())
    expected = reference.compute().numpy()
    np.testing.assert_allclose(confusion.iou(), expected, rtol=1e-6)
    assert confusion.miou() == pytest.approx(expected.mean(), rel=1e-6)


@few
@given(st.integers(0, 1000), st.integers(2, 8), st.integers(1, 6), st.integers(1, 6))
def test_iou_of_sets_of_pixels(seed, classes, height, width):
    prediction, target = random_pair(classes, (height, width), seed)
    expected = np.full(classes, np.nan)
    for c in range(classes):
        predicted = {tuple(p) for p in np.argwhere((prediction == c) & (target != 255))}
        present = {tuple(p) for p in np.argwhere(target == c)}
        if predicted | present:
            expected[c] = len(predicted & present) / len(predicted | present)
    np.testing.assert_allclose(filled(classes, (prediction, target)).iou(), expected)


@few
@given(st.integers(0, 1000), st.integers(2, 21))
def test_merged_equals_updated_with_both(seed, classes):
    one, two = random_pair(classes, seed=seed), random_pair(classes, (7, 5), seed=seed + 1)
    merged, other = filled(classes, one), filled(classes, two)
    kept = other.matrix.copy()
    merged.merge(other)
    np.testing.assert_array_equal(merged.matrix, filled(classes, one, two).matrix)
    np.testing.assert_array_equal(other.matrix, kept)


def test_shards_merged_in_any_order_score_as_the_whole():
    pairs = [random_pair(21, (30, 40 + seed), seed) for seed in range(7)]
    whole, merged = filled(21, *pairs), ConfusionMatrix(21)
    for shard in (pairs[5:], pairs[:1], pairs[1:5]):
        merged.merge(filled(21, *shard))
    np.testing.assert_array_equal(merged.iou(), whole.iou())
    assert merged.miou() == whole.miou()


def test_a_merge_does_not_tie_the_two_together():
    one, two = ConfusionMatrix(3), filled(3, random_pair(3))
    one.merge(two)
    kept = two.matrix.copy()
    one.update(*random_pair(3, seed=1))
    np.testing.assert_array_equal(two.matrix, kept)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64])
def test_integers_of_any_width(kind):
    prediction, target = random_pair(21)
    expected = filled(21, (prediction, target)).matrix
    np.testing.assert_array_equal(
        filled(21, (prediction.astype(kind), target.astype(kind))).matrix, expected
    )


def test_arrays_of_any_layout():
    prediction, target = random_pair(21)
    expected = filled(21, (prediction, target)).matrix
    transposed = filled(21, (prediction.T, np.ascontiguousarray(target.T))).matrix
    np.testing.assert_array_equal(transposed, expected)


@pytest.mark.parametrize(
    ("prediction", "target"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8)),
        (np.zeros((2, 3), np.uint8), np.zeros((2, 1), np.uint8)),
        (np.zeros((2, 3), np.uint8), np.zeros(6, np.uint8)),
        (np.full((2, 3), 3, np.uint8), np.zeros((2, 3), np.uint8)),
        (np.full((2, 3), 255, np.uint8), np.zeros((2, 3), np.uint8)),
        (np.full((2, 3), -1), np.zeros((2, 3), np.uint8)),
        (np.zeros((2, 3), np.uint8), np.full((2, 3), 3, np.uint8)),
        (np.zeros((2, 3), np.uint8), np.full((2, 3), 254, np.uint8)),
        (np.zeros((2, 3), np.uint8), np.full((2, 3), -1)),
    ],
)
def test_bad_input_is_refused_and_nothing_counted(prediction, target):
    confusion = ConfusionMatrix(3)
    with pytest.raises(InputError):
        confusion.update(prediction, target)
    assert confusion.matrix.sum() == 0


def test_one_bad_pixel_among_good_ones_is_refused():
    prediction, target = random_pair(3)
    target[:] = 0
    prediction[3, 4] = 3  # as target 0, prediction 3 it would fall into the next row of the matrix
    with pytest.raises(InputError):
        ConfusionMatrix(3).update(prediction, target)


def test_stacked_counts_score_as_each_matrix_does():
    matrices = [filled(4, random_pair(4, seed=seed)) for seed in range(3)]
    matrices.append(ConfusionMatrix(4))  # nothing was counted
    matrices.append(filled(4, random_pair(2)))  # two classes are absent
    counts = np.stack([matrix.matrix for matrix in matrices])
    np.testing.assert_array_equal(iou(counts), [matrix.iou() for matrix in matrices])
    np.testing.assert_array_equal(mean_iou(counts), [matrix.miou() for matrix in matrices])
    assert np.isnan(mean_iou(counts)[3]) and np.isnan(iou(counts)[4]).tolist() == [0, 0, 1, 1]
