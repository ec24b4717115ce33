"""Pairs, distances, targets and the loss (equations 3 to 10) against loops over all pairs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsss.affinity import (
    STRIDE,
    affinity_loss,
    boundaries,
    cell_labels,
    neighbour_offsets,
    pair_distance,
    pair_targets,
)
from wsss.models import build_affinity

few = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def inner_pairs(height, width, radius):
    """Every (k, y, x, y2, x2) whose two ends are inside the grid."""
    for k, (dy, dx) in enumerate(neighbour_offsets(radius)):
        for y in range(height):
            for x in range(width):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    yield k, y, x, y + dy, x + dx


def slow_distance(features, radius, reduction):
    batch, _, height, width = features.shape
    out = np.full((batch, len(neighbour_offsets(radius)), height, width), np.inf)
    for k, y, x, y2, x2 in inner_pairs(height, width, radius):
        gap = np.abs(features[:, :, y, x] - features[:, :, y2, x2])
        out[:, k, y, x] = gap.mean(1) if reduction == "mean" else gap.sum(1)
    return out


def slow_targets(labels, radius):
    batch, height, width = labels.shape
    out = np.zeros((batch, len(neighbour_offsets(radius)), height, width), np.uint8)
    for k, y, x, y2, x2 in inner_pairs(height, width, radius):
        for b in range(batch):
            one, other = int(labels[b, y, x]), int(labels[b, y2, x2])
            if 255 in (one, other):
                continue
            out[b, k, y, x] = 3 if one != other else 1 if one == 0 else 2
    return out


def slow_loss(distance, targets):
    """(total, foreground, background, negative) in float64."""

    def mean(values):
        return values.mean() if values.size else 0.0

    foreground, background = mean(distance[targets == 2]), mean(distance[targets == 1])
    negative = mean(-np.log(-np.expm1(-distance[targets == 3])))
    return foreground + background + 2 * negative, foreground, background, negative


def numbers(loss):
    return [x.item() for x in loss]


def random_features(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def random_labels(*shape, seed=0):
    return np.random.default_rng(seed).choice(np.uint8([0, 0, 1, 2, 20, 255]), shape)


# Pairs


@pytest.mark.parametrize("radius", range(1, 9))
def test_offsets_are_one_half_of_the_open_disc(radius):
    offsets = [tuple(o) for o in neighbour_offsets(radius)]
    reach = range(-radius, radius + 1)
    disc = {(dy, dx) for dy in reach for dx in reach if 0 < dy * dy + dx * dx < radius**2}
    assert all(dy > 0 or (dy == 0 and dx > 0) for dy, dx in offsets)
    assert len(offsets) == len(set(offsets)) == len(disc) / 2
    assert set(offsets) | {(-dy, -dx) for dy, dx in offsets} == disc


def test_the_paper_s_radius_has_34_offsets():
    assert len(neighbour_offsets(5)) == 34


# Distance


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("radius", [2, 3, 5, 6])
@pytest.mark.parametrize("size", [(6, 7), (2, 3), (1, 1), (1, 9), (9, 1)])
def test_distance_is_that_of_the_loops(size, radius, reduction):
    features = random_features(2, 3, *size)
    out = pair_distance(features, radius=radius, reduction=reduction)
    expected = slow_distance(features.double().numpy(), radius, reduction)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(11, 13), (4, 9), (9, 8), (5, 40), (2, 12), (12, 3)])
def test_without_border_pairs_none_starts_near_the_left_right_or_bottom_edge(size):
    """The released code takes as sources the rows up to the last 4 and the columns between 4 at
    either side.
    """
    features = random_features(1, 3, *size)
    whole = pair_distance(features)[0]
    kept = pair_distance(features, border_pairs=False)[0]
    height, width = size
    sources = {(y, x) for y in range(height - 4) for x in range(4, width - 4)}
    for y in range(height):
        for x in range(width):
            if (y, x) in sources:
                assert torch.equal(kept[:, y, x], whole[:, y, x])
                assert whole[:, y, x].isfinite().all()  # every partner of theirs exists
            else:
                assert kept[:, y, x].isinf().all()
    labels = torch.zeros(1, *size, dtype=torch.uint8)
    targets = pair_targets(labels, border_pairs=False)
    assert torch.equal(targets[0], kept.isfinite().to(torch.uint8))  # all others are background


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="unknown reduction 'max'; expected mean or sum"):
        pair_distance(torch.zeros(1, 1, 2, 2), reduction="max")


def test_cells_are_as_far_apart_as_the_network_s():
    features = build_affinity("small", reduced=(4, 6, 8)).eval()(torch.zeros(1, 3, 64, 48))
    assert features.shape[-2:] == (64 // STRIDE, 48 // STRIDE)


def test_distance_defaults_are_the_mean_within_radius_5():
    features = random_features(1, 4, 6, 7)
    expected = slow_distance(features.double().numpy(), 5, "mean")
    np.testing.assert_allclose(pair_distance(features).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_distance_of_other_memory_layouts():
    features = random_features(2, 5, 6, 7)
    expected = pair_distance(features)
    channels_last = features.contiguous(memory_format=torch.channels_last)
    sliced = random_features(2, 5, 12, 14)
    sliced[:, :, ::2, ::2] = features
    torch.testing.assert_close(pair_distance(channels_last), expected)
    torch.testing.assert_close(pair_distance(sliced[:, :, ::2, ::2]), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_distance_of_bfloat16_features(reduction):
    features = random_features(2, 448, 6, 7).bfloat16()  # as many channels as the network has
    out = pair_distance(features, reduction=reduction)
    expected = slow_distance(features.double().numpy(force=True), 5, reduction)
    # closer than bfloat16 can hold (0.4 %): summed and kept in float32
    np.testing.assert_allclose(out.double().numpy(), expected, rtol=0.001)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_distance_passes_gradcheck(reduction):
    features = random_features(2, 2, 3, 4, dtype=torch.float64).requires_grad_()
    inside = torch.isfinite(pair_distance(features.detach(), radius=3))

    def finite_distance(values):
        return pair_distance(values, radius=3, reduction=reduction)[inside]

    assert torch.autograd.gradcheck(finite_distance, features)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("size", [(6, 7), (2, 3), (1, 9)])
def test_gradient_is_that_of_gathered_pairs(size, reduction):
    features = random_features(2, 3, *size).requires_grad_()
    out = pair_distance(features, reduction=reduction)
    weights = random_features(
        *out.shape, seed=1
    )  # also where the partner is outside: no gradient from there
    out.backward(weights)

    copy = features.detach().double().requires_grad_()
    total = 0
    for k, y, x, y2, x2 in inner_pairs(*size, 5):
        gap = (copy[:, :, y, x] - copy[:, :, y2, x2]).abs()
        total = total + (weights[:, k, y, x] * getattr(gap, reduction)(1)).sum()
    total.backward()
    torch.testing.assert_close(features.grad, copy.grad.float(), rtol=1e-4, atol=1e-5)


def test_gradient_of_affinity_is_finite_for_equal_features():
    features = torch.ones(1, 3, 4, 5, requires_grad=True)
    distance = pair_distance(features)
    assert distance[torch.isfinite(distance)].abs().max() == 0
    torch.exp(-distance).sum().backward()
    assert torch.isfinite(features.grad).all()


def test_gradient_of_bfloat16_features():
    features = random_features(1, 448, 4, 5).bfloat16().requires_grad_()
    torch.exp(-pair_distance(features)).sum().backward()
    copy = features.detach().double().requires_grad_()
    torch.exp(-pair_distance(copy)).sum().backward()
    assert features.grad.dtype == torch.bfloat16
    torch.testing.assert_close(features.grad.double(), copy.grad, rtol=0.05, atol=1e-3)


# Targets


def test_targets_of_a_small_example():
    labels = torch.tensor([[[0, 0, 255], [1, 2, 2]]], dtype=torch.uint8)
    targets = pair_targets(labels, radius=2)[0]
    across, down = (neighbour_offsets(2).index(offset) for offset in [(0, 1), (1, 0)])
    diagonal, back = (neighbour_offsets(2).index(offset) for offset in [(1, 1), (1, -1)])
    assert targets.dtype == torch.uint8
    assert targets[across].tolist() == [[1, 0, 0], [3, 2, 0]]
    assert targets[down].tolist() == [[3, 3, 0], [0, 0, 0]]
    assert targets[diagonal].tolist() == [[3, 3, 0], [0, 0, 0]]
    assert targets[back].tolist() == [[0, 3, 0], [0, 0, 0]]


@few
@given(
    hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
        elements=st.sampled_from([0, 1, 2, 20, 127, 128, 254, 255]),
    ),
    st.integers(2, 6),
)
def test_targets_are_those_of_the_loops(labels, radius):
    targets = pair_targets(torch.from_numpy(labels), radius=radius)
    assert targets.dtype == torch.uint8
    np.testing.assert_array_equal(targets.numpy(), slow_targets(labels, radius))


def test_targets_default_to_radius_5():
    labels = random_labels(2, 6, 7)
    targets = pair_targets(torch.from_numpy(labels))
    np.testing.assert_array_equal(targets.numpy(), slow_targets(labels, 5))


# Loss


@few
@given(
    st.integers(0, 1000), st.sampled_from([(6, 7), (2, 3), (1, 1)]), st.sampled_from([0.01, 1, 10])
)
def test_loss_is_equations_7_to_10(seed, size, scale):
    features = random_features(2, 4, *size, seed=seed) * scale
    labels = random_labels(2, *size, seed=seed)
    distance = slow_distance(features.double().numpy(), 5, "mean")
    expected = slow_loss(distance, slow_targets(labels, 5))
    loss = affinity_loss(pair_distance(features), pair_targets(torch.from_numpy(labels)))
    assert loss._fields == ("total", "foreground", "background", "negative")
    np.testing.assert_allclose(numbers(loss), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [0.01, 1, 10])
def test_the_released_loss_is_the_released_code_s(scale):
    """``-log(W + 1e-5)`` and ``-log(1 + 1e-5 - W)``, their means weighted 1/4, 1/4 and 1/2."""
    features = random_features(2, 4, 6, 7) * scale
    labels = torch.from_numpy(random_labels(2, 6, 7))
    distance, targets = pair_distance(features), pair_targets(labels)
    loss = affinity_loss(distance, targets, released=True)
    affinity = torch.exp(-distance.double())
    same = -torch.log(affinity + 1e-5)
    different = -torch.log(1 + 1e-5 - affinity)
    expected = [same[targets == 2].mean(), same[targets == 1].mean()]
    expected.append(different[targets == 3].mean())
    total = expected[0] / 4 + expected[1] / 4 + expected[2] / 2
    assert numbers(loss) == pytest.approx([t.item() for t in (total, *expected)], rel=1e-4)
    far = affinity_loss(
        torch.full((1, 34, 1, 1), 99.0), torch.full((1, 34, 1, 1), 2), released=True
    )
    assert far.foreground.item() == pytest.approx(11.513, abs=1e-3)


def test_the_gradient_of_the_released_loss_is_autograd_s():
    distance = torch.linspace(0.01, 9, 12, dtype=torch.float64).view(1, 2, 2, 3)
    targets = torch.tensor([0, 1, 2, 3] * 3, dtype=torch.uint8).view(1, 2, 2, 3)
    weights = (0.3, 0.5, 0.7)  # of the terms, so that none can stand in for another
    found, wanted = distance.clone().requires_grad_(), distance.clone().requires_grad_()
    terms = affinity_loss(found, targets, released=True)[1:]
    sum(weight * term for weight, term in zip(weights, terms, strict=True)).backward()
    affinity = torch.exp(-wanted)
    costs = [-torch.log(affinity + 1e-5)[targets == kind].mean() for kind in (2, 1)]
    costs.append(-torch.log(1 + 1e-5 - affinity)[targets == 3].mean())
    sum(weight * cost for weight, cost in zip(weights, costs, strict=True)).backward()
    torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-9, atol=0)


def test_divisors_may_be_those_of_several_processes():
    """Means over processes, so a fraction where few have pairs of the kind."""
    distance = torch.tensor([1.0, 3.0, 2.0]).view(1, 3, 1, 1).requires_grad_()
    targets = torch.tensor([2, 2, 1], dtype=torch.uint8).view(1, 3, 1, 1)
    loss = affinity_loss(distance, targets, counts=torch.tensor([4.0, 0.5, 0.0]))
    assert numbers(loss) == [5, 1, 4, 0]
    loss.total.backward()
    assert distance.grad.flatten().tolist() == [0.25, 0.25, 2]


@pytest.mark.parametrize("size", [(16, 24), (13, 21)])
def test_cells_take_one_pixel_s_label_or_the_most_frequent_one(size):
    labels = torch.from_numpy(random_labels(1, *size)[0]).long()
    assert torch.equal(cell_labels(labels, 8), labels[::8, ::8])
    voted = cell_labels(labels, 8, majority=True)
    assert voted.dtype == labels.dtype and voted.shape == labels[::8, ::8].shape
    # of a cell that reaches over the edge, the last row and column count once more for each pixel
    wide = np.pad(labels.numpy(), [(0, -size[0] % 8), (0, -size[1] % 8)], mode="edge")
    for y, x in np.ndindex(*voted.shape):
        block = wide[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].flatten().tolist()
        assert block.count(int(voted[y, x])) == max(map(block.count, block))
    assert cell_labels(torch.full((9, 9), 7), 8, majority=True).tolist() == [[7, 7], [7, 7]]


def test_loss_of_a_small_example():
    distance = torch.tensor([1.0, 3.0, 5.0, np.log(2), 7.0]).view(1, 5, 1, 1)
    targets = torch.tensor([2, 2, 1, 3, 0], dtype=torch.uint8).view(1, 5, 1, 1)
    loss = affinity_loss(distance, targets)
    assert float(loss.foreground) == pytest.approx(2)
    assert float(loss.background) == pytest.approx(5)
    assert float(loss.negative) == pytest.approx(np.log(2))
    assert float(loss.total) == pytest.approx(2 + 5 + 2 * np.log(2))


def test_means_are_over_the_pairs_of_the_whole_batch():
    distance = torch.tensor([[1.0, 2.0, 3.0], [10.0, 0.0, 0.0]]).view(2, 3, 1, 1)
    targets = torch.tensor([[1, 1, 1], [1, 0, 0]], dtype=torch.uint8).view(2, 3, 1, 1)
    assert float(affinity_loss(distance, targets).background) == pytest.approx(4)


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_types_without_pairs_contribute_nothing(kind):
    distance = torch.full((1, 2, 3, 4), 0.5, requires_grad=True)
    loss = affinity_loss(distance, torch.full((1, 2, 3, 4), kind, dtype=torch.uint8))
    negative = -np.log(1 - np.exp(-0.5))
    expected = {
        0: (0, 0, 0, 0),
        1: (0.5, 0, 0.5, 0),
        2: (0.5, 0.5, 0, 0),
        3: (2 * negative, 0, 0, negative),
    }
    np.testing.assert_allclose(numbers(loss), expected[kind], rtol=1e-6)
    loss.total.backward()
    slope = {0: 0, 1: 1, 2: 1, 3: -2 / np.expm1(0.5)}[kind] / distance.numel()
    np.testing.assert_allclose(distance.grad.numpy(), slope, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-30, 1e-8, 1e4, 1e30])
@pytest.mark.parametrize("kind", [1, 2, 3])
def test_loss_and_gradient_are_finite_at_extreme_distances(kind, value):
    distance = torch.full((1, 2, 3, 4), value, requires_grad=True)
    loss = affinity_loss(distance, torch.full((1, 2, 3, 4), kind, dtype=torch.uint8))
    loss.total.backward()
    assert all(torch.isfinite(x) for x in loss)
    assert torch.isfinite(distance.grad).all()
    assert loss.total.item() >= 0


@pytest.mark.parametrize("value", [1e-5, 1e-3, 0.1, 30.0])
def test_negative_term_is_exact_where_one_minus_the_affinity_rounds(value):
    distance = torch.full((1, 1, 1, 1), value)
    loss = affinity_loss(distance, torch.full((1, 1, 1, 1), 3, dtype=torch.uint8))
    expected = -np.log(-np.expm1(-np.float64(np.float32(value))))
    assert float(loss.negative) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_an_extreme_pair_of_one_type_does_not_disturb_another():
    distance = torch.tensor([0.0, 1e4, np.inf, 0.5]).view(1, 4, 1, 1).requires_grad_()
    targets = torch.tensor([1, 2, 0, 3], dtype=torch.uint8).view(1, 4, 1, 1)
    loss = affinity_loss(distance, targets)
    loss.total.backward()
    expected = slow_loss(distance.detach().double().numpy(), targets.numpy())
    np.testing.assert_allclose(numbers(loss), expected, rtol=1e-5, atol=1e-30)
    slopes = [1, 1, 0, -2 / np.expm1(0.5)]
    np.testing.assert_allclose(distance.grad.flatten().numpy(), slopes, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradient_of_the_loss_with_respect_to_the_features(reduction):
    features = random_features(2, 3, 6, 7).requires_grad_()
    targets = slow_targets(random_labels(2, 6, 7), 5)
    affinity_loss(
        pair_distance(features, reduction=reduction), torch.from_numpy(targets)
    ).total.backward()

    copy = features.detach().double().requires_grad_()
    terms = {1: [], 2: [], 3: []}
    for k, y, x, y2, x2 in inner_pairs(6, 7, 5):
        for b in range(2):
            if kind := targets[b, k, y, x]:
                gap = getattr((copy[b, :, y, x] - copy[b, :, y2, x2]).abs(), reduction)()
                terms[kind].append(-torch.log(1 - torch.exp(-gap)) if kind == 3 else gap)
    (
        sum(torch.stack(terms[kind]).mean() for kind in (1, 2)) + 2 * torch.stack(terms[3]).mean()
    ).backward()
    torch.testing.assert_close(features.grad, copy.grad.float(), rtol=1e-3, atol=1e-5)


def test_loss_trains_bfloat16_features():
    features = random_features(2, 448, 6, 7).bfloat16().requires_grad_()
    labels = random_labels(2, 6, 7)
    loss = affinity_loss(pair_distance(features), pair_targets(torch.from_numpy(labels)))
    loss.total.backward()
    distance = slow_distance(features.detach().double().numpy(), 5, "mean")
    expected = slow_loss(distance, slow_targets(labels, 5))
    np.testing.assert_allclose(numbers(loss), expected, rtol=0.01)
    assert torch.isfinite(features.grad).all()
    assert features.grad.abs().max() > 0


@pytest.mark.parametrize("radius", [3, 5])
@pytest.mark.parametrize("size", [(5, 7), (1, 2), (1, 1)])
def test_boundaries_average_over_all_neighbours(size, radius):
    """Against every cell's own list of neighbours; a column is cut off from the next, and a cell
    without neighbours from everything.
    """
    height, width = size
    weights = torch.zeros(len(neighbour_offsets(radius)), height, width)
    inside = {}
    for k, (dy, dx) in enumerate(neighbour_offsets(radius)):
        for y in range(height):
            for x in range(width):
                if y + dy < height and 0 <= x + dx < width:
                    weights[k, y, x] = value = float((x < 3) == (x + dx < 3))
                    inside.setdefault((y, x), []).append(value)
                    inside.setdefault((y + dy, x + dx), []).append(value)
    expected = [[1 - np.mean(inside.get((y, x), [0])) for x in range(width)] for y in range(height)]
    found = boundaries(weights, radius=radius)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    if radius == 5:
        np.testing.assert_array_equal(boundaries(weights), found)
    with pytest.raises(ValueError):
        boundaries(weights, radius=radius + 1)  # has more offsets
