"""Each step of label synthesis against its definition, written out plainly."""

import inspect
from dataclasses import FrozenInstanceError, asdict, replace

import numpy as np
import pytest
import torch
from test_affinity import slow_distance
from test_random_walk import dense_walk, random_problem

import wsss
from wsss import models, synthesis
from wsss.crf import CrfParams, DenseCRF
from wsss.errors import InputError
from wsss.geometry import upsample
from wsss.synthesis import (
    Walk,
    alpha_marginals,
    cell_regions,
    combine_alphas,
    crf_scores,
    label_map,
    labels_at,
    restore_maxima,
    walk_probabilities,
    walk_scores,
)


def noise(height, width):
    """A photo."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Label maps


def argmax_by_hand(scores, classes):
    """The number of the first of the largest scores at each pixel, background first."""
    height, width = scores.shape[1:]
    found = np.zeros((height, width), int)
    for y, x in np.ndindex(height, width):
        values = scores[:, y, x].tolist()
        found[y, x] = [0, *classes][values.index(max(values))]
    return found


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_label_map_is_the_number_of_the_largest_score(kind):
    scores = np.random.default_rng(0).choice([0.0, 0.2, 0.4], (3, 6, 7))  # with ties
    found = label_map(kind(scores), iter([4, 254]))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, argmax_by_hand(scores, [4, 254]))
    assert label_map(scores[:1], []).max() == 0


def test_labels_at_their_own_size_are_the_label_map():
    """Where 8 bits of each score would tell another story."""
    scores = 0.5 + np.random.default_rng(0).random((3, 6, 7)) / 1000
    found = labels_at(scores, [9, 4], size=(6, 7))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, argmax_by_hand(scores, [9, 4]))


def test_labels_at_another_size_compare_scores_in_steps_of_255():
    """Of one cell, which has the same score everywhere; of equal steps the first."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        scores = rng.integers(0, 1021, (3, 1, 1)) / 1020  # quarters of a step
        if rng.random() < 0.5:
            scores = scores[:1] + rng.integers(-2, 3, scores.shape) / 1020
        scores = scores.clip(0, 1)
        wanted = argmax_by_hand(np.round(255 * scores), [9, 4]).item()
        assert (labels_at(scores, [9, 4], size=(2, 3)) == wanted).all()
    for faint in (0.3, 0.7, 1.2, 2):
        wanted = 0 if faint < 0.5 else 9
        scores = np.array([0, faint, 0]).reshape(3, 1, 1) / 255
        assert (labels_at(scores, [9, 4], size=(2, 3)) == wanted).all()
    assert (labels_at(np.array([[[0.2]], [[1.0]]]), [9], size=(1, 2)) == 9).all()


def triangles(length, cells):
    """Bilinear weights (length, cells): each pixel's triangle is two cells wide, or two pixels if
    these are wider, and what lies outside the map is left out.
    """
    pixel = cells / length  # in cells
    middles = (np.arange(length)[:, None] + 0.5) * pixel
    away = np.abs(np.arange(cells) + 0.5 - middles)
    weights = np.maximum(0, 1 - away / max(pixel, 1))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(13, 9), (3, 20), (5, 4), (8, 6), (6, 8), (1, 1)])
def test_labels_at_another_size_are_those_of_resampled_scores(size):
    """Against a sum over all cells for each pixel; Pillow rounds each score twice."""
    scores = np.random.default_rng(0).random((4, 6, 7))
    found = labels_at(scores, [9, 4, 200], size=size)
    assert found.shape == size and found.dtype == np.uint8
    down, across = (triangles(*pair) for pair in zip(size, (6, 7), strict=True))
    exact = np.einsum("yi,cij,xj->cyx", down, np.round(255 * scores), across)
    for number, score in zip([0, 9, 4, 200], exact, strict=True):
        assert (score >= exact.max(0) - 2)[found == number].all()


def test_labels_at_refuse_scores_without_a_class():
    with pytest.raises(ValueError):
        labels_at(np.zeros((3, 2, 2)), [4], size=(3, 3))


def test_regions_of_every_pair_of_labels():
    """Each label at the low alpha beside each at the high one."""
    eye = np.eye(3)
    low, high = eye[:, [0, 0, 0, 1, 1, 1, 2, 2, 2]], eye[:, [0, 1, 2] * 3]
    found = combine_alphas(low[:, None], high[:, None], classes=[1, 7])
    assert found.dtype == np.uint8
    assert found.tolist() == [[0, 255, 255, 255, 1, 1, 255, 7, 7]]


@pytest.mark.parametrize("scale", [0.01, 1, 255])
@pytest.mark.parametrize("size", [(13, 16), (8, 9), (5, 20)])
def test_regions_of_cells_are_those_of_their_pixels_means(size, scale):
    """Cell by cell, ragged ones included; a cell without a photo is neutral."""
    rng = np.random.default_rng(3)
    low, high = scale * rng.random((2, 3, *size))
    low[:, :, 8:16], high[:, :, 8:16] = 0, 0
    cells = cell_regions(low, torch.tensor(high), classes=[3, 7], stride=8)
    assert cells.shape == (-(-size[0] // 8), -(-size[1] // 8)) and cells.dtype == np.uint8
    for y, x in np.ndindex(*cells.shape):
        block = np.s_[:, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
        means = [each[block].mean((1, 2))[:, None, None] for each in (low, high)]
        one, other = (argmax_by_hand(mean, [3, 7]).item() for mean in means)
        wanted = one if (one > 0) == (other > 0) and means[0].any() else 255
        assert cells[y, x] == wanted


def test_marginals_are_the_crf_s_of_each_alpha_and_have_its_defaults():
    image, cams = noise(9, 13), np.random.default_rng(0).random((2, 3, 4), dtype=np.float32)
    found = alpha_marginals(image, cams, alphas=(2, 9))
    again = alpha_marginals(image, cams, alphas=(2, 9), crf=CrfParams(), crf_steps=10)
    np.testing.assert_array_equal(found, again)
    maps = upsample(cams, (9, 13)).numpy()
    for alpha, marginals in zip((2, 9), found, strict=True):
        scores = np.stack([(1 - maps.max(0)) ** alpha, *maps])
        np.testing.assert_allclose(marginals, DenseCRF(image).infer(scores, 10), atol=1e-5)


# The walk's constants


def test_constants_of_the_walk_are_the_paper_s():
    assert asdict(Walk()) == {
        "background_alpha": 16,
        "beta": 8,
        "steps": 256,
        "reduction": "mean",
        "radius": 5,
        "border_pairs": True,
        "flip": False,
        "restore": 0,
        "crf": asdict(CrfParams()),
        "crf_steps": 10,
        "crf_sharpness": 1,
    }
    with pytest.raises(TypeError):
        Walk(16.0)  # they go by name


BOUNDS = {
    "background_alpha": (0, None, "of 0 or more"),
    "beta": (0, None, "of 0 or more"),
    "crf_sharpness": (0, None, "of 0 or more"),
    "steps": (0, 10**6, "from 0 to 1,000,000"),
    "restore": (0, 1, "from 0 to 1"),
    "crf_steps": (0, 10**4, "from 0 to 10,000"),
    "radius": (2, 30, "from 2 to 30"),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_constants_of_the_walk_have_bounds(name):
    least, most, span = BOUNDS[name]
    refused = [least - 1, least - 0.001, np.nan, np.inf]
    if most is not None:
        refused += [most + 1, most + 0.001]
    for value in (least, 1e9 if most is None else most):
        assert getattr(Walk(**{name: value}), name) == value
    for value in refused:
        with pytest.raises(InputError, match=f"{name}: expected a number {span} but got {value}"):
            Walk(**{name: value})


def test_constants_of_a_walk_stay():
    with pytest.raises(FrozenInstanceError):
        Walk().beta = 4


def test_each_of_several_steps_has_bounds_and_reductions_have_names():
    assert Walk(steps=(0, 10**6)).steps == (0, 10**6)
    for steps in ((3, -1), (10**6 + 1, 3)):
        with pytest.raises(InputError, match="steps: expected a number from 0 to"):
            Walk(steps=steps)
    assert Walk(reduction="sum").reduction == "sum"
    with pytest.raises(InputError, match="reduction: expected mean or sum but got 'max'"):
        Walk(reduction="max")


class Sampled(torch.nn.Module):
    """Features at stride 8 that are the photo's own pixels, brighter to the right: those of the
    mirrored photo are not the mirrored ones.
    """

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, pixels):
        cells = pixels[:, :, ::8, ::8]
        return self.gain * cells * torch.linspace(0.5, 2, cells.shape[-1])


@pytest.mark.parametrize("width", [33, 38])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_affinities_are_those_of_the_network_s_features(width, flip, reduction):
    image = noise(18, width)
    walk = Walk(radius=3, flip=flip, reduction=reduction)
    found = walk.affinities(Sampled(), image)
    assert found.dtype == torch.float32 and not found.requires_grad
    cells = 2 * (image[::8, ::8].transpose(2, 0, 1) / 255)
    ramp = np.linspace(0.5, 2, 5)  # either width has five columns of cells, the last on pixel 32
    features = cells * ((ramp + ramp[::-1]) / 2 if flip else ramp)
    distance = slow_distance(features[None], 3, reduction)[0]
    np.testing.assert_allclose(found.numpy(), np.exp(-distance), rtol=1e-5, atol=1e-7)
    kept = replace(walk, border_pairs=False).affinities(Sampled(), image)
    np.testing.assert_array_equal(kept[:, 0, 2:3], found[:, 0, 2:3])
    assert kept.count_nonzero() == len(found)  # one cell is two from the left, right and bottom


@pytest.mark.parametrize("steps", [6, (1, 6)])
def test_walked_scores_are_the_dense_walk_s(steps):
    _, affinity = random_problem((3, 5), radius=3)
    cams = torch.rand(2, 6, 9, generator=torch.Generator().manual_seed(0))
    walk = Walk(background_alpha=3, beta=2, steps=steps, radius=3)
    maps = cams[:, ::2, ::2]
    scores = torch.cat([(1 - maps.amax(0, keepdim=True)) ** 3, maps])
    expected = [dense_walk(scores, affinity, 2, t, 3) for t in np.atleast_1d(steps)]
    for given in (cams, cams.numpy()):
        found = walk_scores(given, affinity, walk=walk)
        assert found.shape == (*np.shape(steps), 3, 3, 5)
        np.testing.assert_allclose(found, np.reshape(expected, found.shape), rtol=1e-5)


def test_walked_probabilities_come_back_to_the_photo_s_size():
    _, affinity = random_problem((3, 5), radius=3)
    probabilities = torch.rand(4, 18, 34, generator=torch.Generator().manual_seed(0))
    walk = Walk(beta=2, steps=6, radius=3, restore=1)  # which is not used
    cells = dense_walk(probabilities[:, ::8, ::8], affinity, 2, 6, 3)
    expected = upsample(torch.from_numpy(cells).float(), (18, 34))
    found = walk_probabilities(probabilities, affinity, walk=walk)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backgrounds", [1, 2])
def test_maxima_are_restored_of_classes_alone(backgrounds):
    scores = torch.rand(3, 4, 5, 6, generator=torch.Generator().manual_seed(0)) / 2
    scores[:, -1] = 0  # a map that holds nothing
    options = {"backgrounds": 2} if backgrounds == 2 else {}
    for share in (0, 0.5, 1.0):
        found = restore_maxima(scores, share, **options)
        assert torch.equal(restore_maxima(scores[1], share, **options), found[1])
        for index in np.ndindex(3, 4):
            peak = scores[index].max()
            scale = 1 if index[1] < backgrounds or not peak else peak**share
            torch.testing.assert_close(found[index], scores[index] / scale)


def test_sharpened_scores_are_refined_by_the_crf_of_the_walk():
    image, scores = noise(9, 13), np.random.default_rng(0).random((3, 9, 13), dtype=np.float32)
    walk = Walk(crf=CrfParams(bilateral_sxy=5), crf_steps=3, crf_sharpness=2)
    expected = DenseCRF(image, walk.crf).infer(scores**2, 3)
    np.testing.assert_allclose(crf_scores(image, scores, walk=walk), expected, atol=1e-6)
    assert crf_scores(image, scores, walk=replace(walk, crf_steps=0)) is scores
    once = crf_scores(image, scores, walk=replace(walk, crf_steps=1))
    assert np.abs(once - scores).max() > 0.01


def test_a_photo_is_synthesized_with_the_paper_s_constants(monkeypatch):
    networks = models.build_cam("small", 5).eval(), models.build_affinity("small").eval()
    asked = {}

    def record(name):
        own = getattr(synthesis, name)

        def recorded(*arguments, **options):
            bound = inspect.signature(own).bind(*arguments, **options)
            bound.apply_defaults()
            asked[name] = bound.kwargs
            return own(*arguments, **options)

        monkeypatch.setattr(synthesis, name, recorded)

    for name in ("multi_scale_cam", "walk_scores", "crf_scores"):
        record(name)
    wsss.synthesize(noise(9, 13), [2], *networks)
    cams = {"scales": (1.0, 0.5, 1.5, 2.0), "flip": True, "cam_power": 1.0}
    walk = {"walk": Walk()}
    assert asked == {"multi_scale_cam": cams, "walk_scores": walk, "crf_scores": walk}
