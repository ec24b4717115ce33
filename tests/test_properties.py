"""What the method keeps to whatever it is given: of random small inputs, against definitions."""

import io
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco_mask

from wsss.affinity import neighbour_offsets, pair_distance
from wsss.cam import background_score, normalise
from wsss.datasets.annotations import formats, labelme
from wsss.datasets.photos import LEAST_SIDE, photo_size, read_photo
from wsss.errors import InputError
from wsss.geometry import on_grid, upsample
from wsss.io import artifacts
from wsss.metrics import ConfusionMatrix, threshold_of
from wsss.photos.evaluation import count_labels, load_confusions, save_confusions
from wsss.random_walk import random_walk
from wsss.synthesis import combine_alphas, label_map, labels_at

SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.integers(1, 7)
RADII = st.integers(2, 4)
IDS = st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=5)
FEW = settings(max_examples=40)  # where each example writes files


def field(seed, *shape):
    """Numbers from 0 to 1, float64."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(*shape):
    """Arrays of numbers from 0 to 1, float32."""
    return arrays.arrays(np.float32, shape, elements=st.floats(0, 1, width=32))


def labels(most=6):
    """Label maps of values up to ``most`` and 255."""
    values, sides = st.integers(0, most) | st.just(255), st.integers(1, 12)
    return arrays.arrays(np.uint8, st.tuples(sides, sides), elements=values)


# ---- the walk


def transition(affinity, beta, radius):
    """``T = D^-1 W^beta`` with ``W_ii = 1`` as equation 11 has it: float64 (N, N)."""
    _, height, width = affinity.shape
    matrix = np.eye(height * width)
    for weight, (dy, dx) in zip(affinity.numpy(), neighbour_offsets(radius), strict=True):
        for row, column in itertools.product(range(height), range(width)):
            if row + dy < height and 0 <= column + dx < width:
                here, there = row * width + column, (row + dy) * width + column + dx
                matrix[here, there] = matrix[there, here] = weight[row, column] ** beta
    return matrix / matrix.sum(1, keepdims=True)


@given(SEEDS, SIDES, SIDES, RADII, st.floats(0.5, 12))
def test_a_step_is_the_transition_matrix_whose_rows_sum_to_one(seed, height, width, radius, beta):
    affinity = field(seed, len(neighbour_offsets(radius)), height, width)
    cells = torch.eye(height * width, dtype=torch.float64).unflatten(1, (height, width))
    # a walk from each cell's indicator gives a column
    columns = random_walk(cells, affinity, beta=beta, steps=1, radius=radius).flatten(1)
    expected = transition(affinity, beta, radius)
    np.testing.assert_allclose(columns.T, expected, atol=1e-6)
    np.testing.assert_allclose(columns.sum(0), 1, atol=1e-6)
    assert columns.min() >= -1e-9


@given(SEEDS, SIDES, SIDES, RADII, st.integers(0, 40), st.floats(0, 1))
def test_a_walk_keeps_constants_and_the_convex_hull(seed, height, width, radius, steps, value):
    affinity = field(seed, len(neighbour_offsets(radius)), height, width)
    maps = torch.stack(
        [torch.full((height, width), value).double(), *field(seed, 2, height, width)]
    )
    found = random_walk(maps, affinity, steps=steps, radius=radius)
    torch.testing.assert_close(found[0], maps[0], atol=2e-6, rtol=0)
    assert (found.amin((1, 2)) >= maps.amin((1, 2)) - 2e-6).all()
    assert (found.amax((1, 2)) <= maps.amax((1, 2)) + 2e-6).all()


@given(SEEDS, SIDES, SIDES, RADII, st.integers(0, 30), st.integers(0, 30))
def test_two_walks_are_one_walk_of_all_their_steps(seed, height, width, radius, first, second):
    affinity = field(seed, len(neighbour_offsets(radius)), height, width)
    maps = field(seed + 1, 2, height, width)

    def walk(scores, steps):
        return random_walk(scores, affinity, beta=2.0, steps=steps, radius=radius)

    both = walk(walk(maps, first), second)
    torch.testing.assert_close(both, walk(maps, first + second), atol=1e-5, rtol=0)
    several = walk(maps, [first, first + second])
    torch.testing.assert_close(several[0], walk(maps, first), atol=1e-9, rtol=0)


# ---- affinities


@given(SEEDS, SIDES, SIDES, RADII, st.sampled_from(["mean", "sum"]))
def test_pairs_are_all_those_within_the_radius_and_symmetric(seed, height, width, radius, how):
    features = field(seed, 1, 3, height, width) * 4
    distance = pair_distance(features, radius=radius, reduction=how)[0]
    affinity = torch.exp(-distance)
    found = {}
    for index, (dy, dx) in enumerate(neighbour_offsets(radius)):
        for row, column in itertools.product(range(height), range(width)):
            there = (row + dy, column + dx)
            if there[0] < height and 0 <= there[1] < width:
                found[frozenset([(row, column), there])] = affinity[index, row, column].item()
            else:
                assert affinity[index, row, column] == 0
    cells = features[0].numpy()
    wanted = {}
    for one, other in itertools.combinations(itertools.product(range(height), range(width)), 2):
        if (one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2 < radius**2:
            apart = np.abs(cells[:, *one] - cells[:, *other])
            wanted[frozenset([one, other])] = np.exp(
                -(apart.mean() if how == "mean" else apart.sum())
            )
    assert found.keys() == wanted.keys()
    assert all(0 < value <= 1 for value in found.values())
    assert all(abs(found[pair] - wanted[pair]) < 1e-6 for pair in wanted)
    # turned by half a circle, each pair meets itself from its other end
    turned = torch.exp(-pair_distance(features.flip(2, 3), radius=radius, reduction=how)[0])
    torch.testing.assert_close(turned.flatten(1).sum(1), affinity.flatten(1).sum(1))


# ---- scores


def photos_of(seed, classes, count):
    random = np.random.default_rng(seed)
    targets = random.integers(0, classes, (count, 4, 5)).astype(np.uint8)
    targets[random.random(targets.shape) < 0.1] = 255
    return random.integers(0, classes, (count, 4, 5)).astype(np.uint8), targets


def scored(pairs, classes):
    matrix = ConfusionMatrix(classes)
    for prediction, target in pairs:
        matrix.update(prediction, target)
    return matrix


@given(SEEDS, st.integers(2, 9), st.integers(1, 5))
def test_scores_do_not_hang_on_the_order_of_photos_or_the_names_of_classes(seed, classes, count):
    predictions, targets = photos_of(seed, classes, count)
    pairs = list(zip(predictions, targets, strict=True))
    random = np.random.default_rng(seed)
    whole = scored(pairs, classes)
    shuffled = [pairs[place] for place in random.permutation(count)]
    cut = int(random.integers(count + 1))
    merged = scored(shuffled[:cut], classes).merge(scored(shuffled[cut:], classes))
    np.testing.assert_array_equal(merged.matrix, whole.matrix)
    names = random.permutation(classes).astype(np.uint8)
    renamed = np.concatenate([names, np.arange(classes, 256, dtype=np.uint8)])
    other = scored([(renamed[p], renamed[t]) for p, t in pairs], classes)
    np.testing.assert_array_equal(other.iou()[names], whole.iou())
    assert np.isclose(other.miou(), whole.miou(), equal_nan=True)
    assert np.isnan(whole.miou()) or 0 <= whole.miou() <= 1


@given(SEEDS, st.integers(2, 9), st.integers(1, 5))
def test_the_masks_themselves_score_a_hundred(seed, classes, count):
    _, targets = photos_of(seed, classes, count)
    assume((targets != 255).any())
    predictions = np.where(targets == 255, 0, targets)
    assert 100 * scored(zip(predictions, targets, strict=True), classes).miou() == 100


# ---- maps


@given(SEEDS, st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 4, 8, 16]))
def test_upsampled_cells_stay_where_they_are_and_in_range(seed, height, width, stride):
    maps = field(seed, 2, -(-height // stride), -(-width // stride))
    found = upsample(maps, (height, width), stride=stride)
    assert found.shape == (2, height, width)
    torch.testing.assert_close(found[:, ::stride, ::stride], maps)
    assert found.min() >= maps.min() - 1e-12 and found.max() <= maps.max() + 1e-12
    torch.testing.assert_close(upsample(maps + 1, (height, width), stride=stride), found + 1)


@given(SEEDS, st.integers(1, 40), st.integers(1, 40), *[st.sampled_from([4, 8, 16])] * 2)
def test_levels_on_a_grid_have_its_size(seed, height, width, stride, onto):
    level = field(seed, 1, 2, -(-height // stride), -(-width // stride))
    size = (-(-height // onto), -(-width // onto))
    found = on_grid(level, size, stride=stride, onto=onto)
    assert found.shape == (1, 2, *size)
    # the corner is a cell of any grid
    torch.testing.assert_close(found[..., 0, 0], level[..., 0, 0])


@given(unit(3, 4, 5), st.floats(0.1, 40), st.floats(0.1, 40))
def test_the_background_is_from_zero_to_one_and_weaker_with_a_larger_alpha(maps, one, other):
    low, high = (background_score(maps, alpha) for alpha in sorted((one, other)))
    assert low.shape == (4, 5) and high.min() >= 0 and low.max() <= 1
    assert (low >= high).all()
    same = background_score(torch.from_numpy(maps), one).numpy()
    np.testing.assert_allclose(same, background_score(maps, one), rtol=1e-4, atol=1e-7)


@given(arrays.arrays(np.float32, (2, 3, 4), elements=st.floats(-9, 9, width=32)))
def test_normalised_maps_reach_one_or_are_zero(maps):
    found = normalise(torch.from_numpy(maps))
    assert found.min() >= 0
    for before, after in zip(maps, found, strict=True):
        assert after.max() == (1 if before.max() > 0 else 0)
    torch.testing.assert_close(normalise(found), found)


@given(st.floats(0.05, 60))
def test_a_threshold_stands_for_its_alpha(alpha):
    threshold = threshold_of(alpha)
    assert 0 < threshold < 1 and abs((1 - threshold) ** alpha - threshold) < 1e-9


# ---- label maps


CLASSES = st.lists(st.integers(1, 254), min_size=1, max_size=4, unique=True)


@given(SEEDS, CLASSES, st.integers(1, 20), st.integers(1, 20))
def test_label_maps_hold_the_given_classes_alone(seed, classes, height, width):
    scores = field(seed, 1 + len(classes), 6, 7).numpy()
    for found in (label_map(scores, classes), labels_at(scores, classes, size=(height, width))):
        assert found.dtype == np.uint8 and set(np.unique(found)) <= {0, *classes}
    sure = combine_alphas(scores, scores[:, ::-1], classes=classes)
    assert set(np.unique(sure)) <= {0, 255, *classes}


# ---- files


def kept(write, read, name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return read(path)


@FEW
@given(CLASSES, st.data())
def test_maps_come_back_to_half_precision(classes, data):
    cams = data.draw(unit(len(classes), 3, 4))
    found, again = kept(
        lambda path: artifacts.save_cams(path, classes, cams=cams), artifacts.load_cams, "a.npz"
    )
    assert found == classes and again.dtype == np.float32
    np.testing.assert_array_equal(again, cams.astype(np.float16).astype(np.float32))


@FEW
@given(CLASSES, st.data())
def test_marginals_come_back_in_steps(classes, data):
    low, high = (data.draw(unit(1 + len(classes), 3, 4)) for _ in range(2))
    found, again = kept(
        lambda path: artifacts.save_marginals(path, classes, low=low, high=high),
        artifacts.load_marginals,
        "a.npz",
    )
    assert found == classes
    assert np.abs(again / 255 - np.stack([low, high])).max() <= 0.5 / 255 + 1e-6


@FEW
@given(st.lists(IDS, unique=True, min_size=1, max_size=4), SEEDS)
def test_confusions_come_back(ids, seed):
    photos = list(zip(*photos_of(seed, 4, len(ids)), strict=True))
    named = [(id, *photo) for id, photo in zip(ids, photos, strict=True)]
    confusions = count_labels(named, num_classes=4)
    found = kept(lambda path: save_confusions(path, confusions), load_confusions, "a.npz")
    assert found.ids == ids
    for id, photo in zip(ids, photos, strict=True):
        np.testing.assert_array_equal(found[id].matrix, scored([photo], 4).matrix)
    np.testing.assert_array_equal(found.total(ids).matrix, scored(photos, 4).matrix)


@FEW
@given(labels(most=254))
def test_label_maps_come_back_from_their_file(values):
    found = kept(
        lambda path: artifacts.save_labels(path, values),
        lambda path: np.array(Image.open(path)),
        "a",
    )
    np.testing.assert_array_equal(found, values)


def test_every_number_has_its_own_colour():
    assert len({tuple(colour) for colour in artifacts.voc_palette().tolist()}) == 256


NAMES = tuple("abcdef")


# pycocotools 2.0.11 decodes masks into arrays in a way that numpy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
@given(labels())
def test_label_maps_come_back_from_run_lengths(values):
    (content,) = [formats.coco([("a.jpg", values)], NAMES)]
    found = np.where(values == 255, 255, 0)
    for entry in content["annotations"]:
        inside = coco_mask.decode(entry["segmentation"]) > 0
        assert not found[inside].any(), "two masks share a pixel"
        found[inside] = entry["category_id"]
    np.testing.assert_array_equal(found, values)


@given(labels())
def test_label_maps_come_back_from_polygons_and_from_colours(values):
    drawn = labelme.annotation(values, NAMES, image_path="a.jpg", tolerance=0, least_area=0)
    np.testing.assert_array_equal(labelme.label_map(drawn, NAMES), values)
    coloured, lines = artifacts.voc_palette()[values], formats.cvat_lines(NAMES)
    np.testing.assert_array_equal(formats.cvat_labels(coloured, lines, classes=NAMES), values)


@FEW
@given(
    st.integers(LEAST_SIDE, 90),
    st.integers(LEAST_SIDE, 90),
    st.integers(0, 120),
    st.integers(1, 8),
    st.sampled_from(["PNG", "JPEG", "WEBP"]),
)
def test_a_photo_is_read_in_the_size_that_its_header_promises(width, height, long, turn, form):
    exif = Image.Exif()
    exif[0x0112] = turn
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, form, exif=exif)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(file.getvalue())
        photo = read_photo(path, long_side=long)
        assert photo.shape[:2] == photo_size(path, long_side=long) and photo.dtype == np.uint8
    assert max(photo.shape[:2]) == (min(long, max(width, height)) if long else max(width, height))
    if not long or long >= max(width, height):
        assert photo.shape[:2] == ((width, height) if turn > 4 else (height, width))


@given(st.text() | st.text(st.characters(categories=["Cs", "Cc", "Zl"])))
def test_a_fault_is_reported_in_one_line_that_can_be_seen(text):
    message = str(InputError(f"{text}: wrong"))
    assert message.isprintable() and message.encode()
    assert not text.isprintable() or message == f"{text}: wrong"
