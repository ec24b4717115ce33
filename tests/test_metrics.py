"""The confusion matrix against counts by hand, sets of pixels and torchmetrics."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassJaccardIndex

from wsss.errors import InputError
from wsss.metrics import THRESHOLDS, ConfusionMatrix, ThresholdSweep, iou, mean_iou, threshold_of

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
        # as bytes these would be 0 and 255
        (np.full((2, 3), 256), np.zeros((2, 3), np.uint8)),
        (np.zeros((2, 3), np.uint8), np.full((2, 3), 256)),
        (np.zeros((2, 3), np.uint8), np.full((2, 3), 511)),
        (np.zeros((2, 3), np.uint8), np.full((2, 3), -1, np.int8)),
    ],
)
def test_bad_input_is_refused_and_nothing_counted(prediction, target):
    confusion = ConfusionMatrix(3)
    with pytest.raises(InputError, match=r"they must be equal|holds -?\d+, expected 0 to 2"):
        confusion.update(prediction, target)
    assert confusion.matrix.sum() == 0


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
def test_photos_without_pixels_or_labels_and_a_single_class_are_counted(kind):
    nothing = np.zeros((0, 4), np.int64)
    ignored = np.full((2, 3), 255, kind)
    confusion = filled(3, (nothing, nothing), (np.zeros_like(ignored), ignored))
    assert confusion.matrix.sum() == 0
    one = np.zeros((2, 3), np.uint8)
    assert filled(1, (one, one)).matrix.tolist() == [[6]]


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


# Thresholds of activation maps


def sweep_by_hand(photos, threshold, classes, ignore):
    """The confusion matrix, pixel by pixel: the first of the largest maps, or the background below
    the threshold.
    """
    counts = np.zeros((classes, classes), int)
    for maps, numbers, target in photos:
        for y, x in np.ndindex(target.shape):
            values = maps[:, y, x].tolist()
            best = max(values)
            prediction = numbers[values.index(best)] if best >= threshold else 0
            if target[y, x] != ignore:
                counts[target[y, x], prediction] += 1
    return counts


def miou_by_hand(counts):
    """The mean over the classes that are present or predicted; nan where there is none."""
    shares = []
    for k in range(len(counts)):
        union = counts[k].sum() + counts[:, k].sum() - counts[k, k]
        shares += [counts[k, k] / union] if union else []
    return np.mean(shares) if shares else np.nan


# few values, so that maps tie with each other and with thresholds, the ends of the range included
LEVELS = np.float32([0, 0.25, 0.5, 0.75, 1])


@few
@given(
    st.integers(0, 1000),
    st.lists(st.sampled_from([*LEVELS.tolist(), 0.1, 0.6]), min_size=1, unique=True).map(sorted),
    st.sampled_from([255, 0, 2]),
)
def test_a_sweep_is_thresholding_pixel_by_pixel(seed, thresholds, ignore):
    rng = np.random.default_rng(seed)
    photos = []
    for numbers in ([1], [3, 1], [4, 2, 1]):  # class 5 is neither present nor predicted
        maps = rng.choice(LEVELS, (len(numbers), 4, 6))
        photos.append((maps, numbers, rng.choice([0, 1, 2, 3, 4, ignore], (4, 6))))
    sweep = ThresholdSweep(6, thresholds, ignore=ignore)
    for maps, numbers, target in photos:
        sweep.update(maps, numbers, target=target)
    scores = sweep.miou()
    assert scores.shape == (len(thresholds),)
    for index, threshold in enumerate(thresholds):
        expected = sweep_by_hand(photos, threshold, 6, ignore)
        found = sweep.confusion(index)
        assert (found.num_classes, found.ignore) == (6, ignore)
        np.testing.assert_array_equal(found.matrix, expected)
        assert scores[index] == pytest.approx(miou_by_hand(expected))


def test_a_sweep_has_40_thresholds_and_ignores_255_by_default():
    np.testing.assert_allclose(THRESHOLDS, np.arange(2, 81, 2) / 100)
    sweep, maps = ThresholdSweep(3), np.float32([[[0.02, 0.019, 0.5, 0.8, 0.81, 1]]])
    assert np.isnan(sweep.miou()).tolist() == [True] * 40
    target = np.uint8([[2, 2, 0, 2, 2, 255]])
    sweep.update(maps, [2], target=target)
    for index, threshold in enumerate(THRESHOLDS):
        expected = sweep_by_hand([(maps, [2], target)], threshold, 3, 255)
        np.testing.assert_array_equal(sweep.confusion(index).matrix, expected)


def test_a_confusion_of_a_sweep_does_not_change_it():
    sweep = ThresholdSweep(2, [0.5])
    sweep.update(np.float32([[[0.4, 0.6]]]), [1], target=np.uint8([[0, 1]]))
    sweep.confusion(0).update(np.uint8([[1]]), np.uint8([[1]]))
    assert sweep.confusion(0).matrix.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("alpha", [0.05, 1.0, 4.0, 24.0])
def test_a_threshold_is_where_the_background_score_meets_the_map(alpha):
    threshold = threshold_of(alpha)
    assert (1 - threshold) ** alpha == pytest.approx(threshold, rel=1e-12)
