"""The random walk (equations 11 and 12) against powers of the dense transition matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss.affinity import neighbour_offsets, pair_distance
from wsss.random_walk import _coefficients, random_walk

few = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def inside(height, width, radius):
    """Bool (K, H, W): the pair's second end is in the grid."""
    out = np.zeros((len(neighbour_offsets(radius)), height, width), bool)
    for k, (dy, dx) in enumerate(neighbour_offsets(radius)):
        for y in range(height):
            for x in range(width):
                out[k, y, x] = 0 <= y + dy < height and 0 <= x + dx < width
    return out


def weights(affinity, beta, radius):
    """Symmetric float64 (N, N), ones on the diagonal."""
    _, height, width = affinity.shape
    out = np.eye(height * width)
    for k, y, x in np.argwhere(inside(height, width, radius)):
        dy, dx = neighbour_offsets(radius)[k]
        one, other = y * width + x, (y + dy) * width + x + dx
        out[one, other] = out[other, one] = float(affinity[k, y, x]) ** beta
    return out


def dense_walk(scores, affinity, beta, steps, radius):
    w = weights(affinity, beta, radius)
    transition = w / w.sum(1, keepdims=True)
    flat = scores.reshape(len(scores), -1).double().numpy()
    return (flat @ np.linalg.matrix_power(transition, steps).T).reshape(scores.shape)


def random_problem(size, radius=5, maps=3, low=0.3, high=1.0, seed=0):
    rng = np.random.default_rng(seed)
    affinity = rng.uniform(low, high, (len(neighbour_offsets(radius)), *size)) * inside(
        *size, radius
    )
    scores = rng.uniform(0, 1, (maps, *size))
    return torch.from_numpy(scores).float(), torch.from_numpy(affinity).float()


@pytest.mark.parametrize("steps", [1, 2, 16, 256])
@pytest.mark.parametrize("beta", [1.0, 2.5, 8.0])
@pytest.mark.parametrize(
    "high", [0.4, 1.0]
)  # 0.4 ** 8 is weak enough that 256 steps do not mix all
def test_walk_is_the_power_of_the_matrix(high, beta, steps):
    scores, affinity = random_problem((6, 7), low=0.3 * high, high=high)
    out = random_walk(scores, affinity, beta=beta, steps=steps)
    assert out.shape == scores.shape
    expected = dense_walk(scores, affinity, beta, steps, 5)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("radius", [2, 3, 5])
@pytest.mark.parametrize("size", [(6, 7), (2, 3), (1, 1), (1, 9), (9, 1)])
def test_walk_on_small_grids_and_other_radii(size, radius):
    scores, affinity = random_problem(size, radius, maps=2)
    out = random_walk(scores, affinity, beta=4.0, steps=5, radius=radius)
    expected = dense_walk(scores, affinity, 4.0, 5, radius)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_defaults_are_the_paper_s():
    scores, affinity = random_problem((6, 7), low=0, high=0.4)
    out = random_walk(scores, affinity)
    expected = dense_walk(scores, affinity, 8, 256, 5)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(expected[0]) > 0.01  # not yet mixed to a constant, where any beta would do
    assert torch.equal(out, random_walk(scores, affinity, beta=8, steps=256, radius=5))


@pytest.mark.parametrize("steps", [(16, 1, 256, 2), (7,), (3, 3, 1)])
def test_a_sequence_of_steps_gives_each_in_the_order_asked(steps):
    scores, affinity = random_problem((6, 7), low=0, high=0.5)
    out = random_walk(scores, affinity, beta=8.0, steps=steps)
    assert out.shape == (len(steps), *scores.shape)
    for result, count in zip(out, steps, strict=True):
        expected = dense_walk(scores, affinity, 8.0, count, 5)
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_list_of_steps_is_a_sequence_too():
    scores, affinity = random_problem((6, 7))
    assert torch.equal(
        random_walk(scores, affinity, steps=[4, 2]), random_walk(scores, affinity, steps=(4, 2))
    )


def test_constant_maps_stay_constant():
    _, affinity = random_problem((6, 7), low=0)
    scores = torch.tensor([0.25, 1.0]).view(2, 1, 1).expand(2, 6, 7)
    torch.testing.assert_close(
        random_walk(scores, affinity, steps=256), scores.contiguous(), rtol=1e-4, atol=0
    )


def test_without_affinity_nothing_moves():
    scores, affinity = random_problem((6, 7))
    torch.testing.assert_close(random_walk(scores, torch.zeros_like(affinity)), scores)


def test_full_affinity_averages_over_the_disc():
    _, affinity = random_problem((9, 9), low=1)
    scores = torch.zeros(1, 9, 9)
    scores[0, 4, 4] = 69  # the centre has 68 neighbours within radius 5, all of them on this grid
    out = random_walk(scores, affinity, beta=3.0, steps=1)
    assert float(out[0, 4, 4]) == pytest.approx(1)
    assert float(out[0, 4, 0]) == pytest.approx(
        69 / (inside(9, 9, 5)[:, 4, 0].sum() + neighbours_before(4, 0) + 1)
    )
    assert float(out[0, 0, 0]) == 0  # at distance sqrt(32)


def neighbours_before(y, x):
    """How many pairs on a 9x9 grid end in (y, x)."""
    return sum(0 <= y - dy < 9 and 0 <= x - dx < 9 for dy, dx in neighbour_offsets(5))


def test_scores_do_not_cross_a_wall():
    scores, affinity = random_problem((6, 8))
    for k, (_, dx) in enumerate(neighbour_offsets(5)):
        for x in range(8):
            if (x < 4) != (x + dx < 4):
                affinity[k, :, x] = 0
    scores[:, :, 4:] = 0
    out = random_walk(scores, affinity, beta=1.0, steps=64)
    assert out[:, :, 4:].abs().max() == 0
    assert out[:, :, :4].min() > 0


@few
@given(st.integers(0, 1000), st.floats(0.5, 12), st.integers(1, 40))
def test_walk_keeps_the_range_and_the_degree_weighted_sum(seed, beta, steps):
    scores, affinity = random_problem((4, 6), low=0, seed=seed)
    out = random_walk(scores, affinity, beta=beta, steps=steps)
    low, high = scores.amin((1, 2), keepdim=True), scores.amax((1, 2), keepdim=True)
    assert ((out >= low - 1e-5) & (out <= high + 1e-5)).all()
    degree = weights(affinity, beta, 5).sum(1)  # T' degree = degree, as W is symmetric
    before = scores.reshape(3, -1).double().numpy() @ degree
    after = out.reshape(3, -1).double().numpy() @ degree
    np.testing.assert_allclose(after, before, rtol=1e-4)


@pytest.mark.parametrize("maps", [1, 21])
def test_maps_do_not_mix_and_inputs_stay(maps):
    scores, affinity = random_problem((6, 7), maps=maps)
    kept = scores.clone(), affinity.clone()
    out = random_walk(scores, affinity, steps=(1, 9))
    assert torch.equal(scores, kept[0])
    assert torch.equal(affinity, kept[1])
    alone = random_walk(scores[-1:], affinity, steps=(1, 9))
    torch.testing.assert_close(out[:, -1:], alone, rtol=1e-5, atol=1e-6)


def test_walk_on_the_affinities_of_features():
    features = torch.randn(1, 8, 6, 7, generator=torch.Generator().manual_seed(0))
    distance = pair_distance(features, reduction="mean")[0] / 4
    scores, _ = random_problem((6, 7))
    out = random_walk(scores, torch.exp(-distance), beta=8.0, steps=16)
    values = features[0].double().numpy()
    pair = np.zeros((34, 6, 7))
    for k, y, x in np.argwhere(inside(6, 7, 5)):
        dy, dx = neighbour_offsets(5)[k]
        pair[k, y, x] = np.exp(-np.abs(values[:, y, x] - values[:, y + dy, x + dx]).mean() / 4)
    np.testing.assert_allclose(
        out.numpy(), dense_walk(scores, pair, 8.0, 16, 5), rtol=1e-4, atol=1e-5
    )


def test_many_steps_on_a_larger_grid_with_uneven_affinities():
    scores, affinity = random_problem((18, 22), low=0, high=0.6)
    affinity[:, :9] = (
        affinity[:, :9] ** 0.1
    )  # rows that are tightly bound beside rows that are hardly so
    out = random_walk(scores, affinity, steps=(256, 1000))
    for result, count in zip(out, (256, 1000), strict=True):
        expected = dense_walk(scores, affinity, 8, count, 5)
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=2e-5)


def test_no_steps_leave_the_scores():
    scores, affinity = random_problem((6, 7))
    torch.testing.assert_close(random_walk(scores, affinity, steps=0), scores)


def test_walk_in_float64():
    scores, affinity = random_problem((6, 7), low=0, high=0.4)
    out = random_walk(scores.double(), affinity.double(), steps=64)
    assert out.dtype == torch.float64
    expected = dense_walk(scores, affinity, 8, 64, 5)
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=2e-6)


def test_affinities_that_rounding_left_below_zero_count_as_zero():
    scores, affinity = random_problem((4, 5))
    affinity[:, 1:3, 2] = -1e-7
    out = random_walk(scores, affinity, beta=2.5, steps=3)
    expected = dense_walk(scores, affinity.clamp(min=0), 2.5, 3, 5)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_affinities_of_another_radius_are_refused():
    scores, affinity = random_problem((4, 5), radius=4)
    with pytest.raises(ValueError):
        random_walk(scores, affinity, radius=5)


@pytest.mark.parametrize("steps", [0, 1, 2, 7, 64])
def test_coefficients_are_chances_of_a_walk_on_a_line(steps):
    """Against every step of the walk; what is left out weighs less than a millionth."""
    chances = np.ones(1)  # of the places -t to t
    for _ in range(steps):
        chances = np.convolve(chances, [0.5, 0, 0.5])
    expected = chances[steps:] + np.where(np.arange(steps + 1) > 0, chances[steps::-1], 0)
    found = np.array(_coefficients(steps))
    np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-9, atol=1e-15)
    assert expected[len(found) :].sum() < 1e-6
    if steps == 64:
        assert len(found) < steps


def test_about_80_products_replace_256():
    assert 70 < len(_coefficients(256)) < 90
