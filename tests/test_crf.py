"""The dense CRF against pydensecrf used directly, and loosely against mean field by brute force."""

import dataclasses

import numpy as np
import pydensecrf.densecrf as pydensecrf
import pytest

import wsss.crf
from wsss.crf import CrfParams, DenseCRF
from wsss.errors import InputError

OTHER = CrfParams(
    gaussian_sxy=2, gaussian_compat=1.5, bilateral_sxy=5, bilateral_srgb=25, bilateral_compat=4
)


def two_regions(height=12, width=10, seed=0):
    """A noisy dark and light photo, the true regions, and weak scores that are wrong in places."""
    rng = np.random.default_rng(seed)
    region = np.zeros((height, width), int)
    region[:, width // 2 :] = 1
    image = np.where(region[..., None] == 1, [200, 180, 60], [40, 60, 90])
    image = (image + rng.integers(-10, 10, image.shape)).astype(np.uint8)
    one = np.where(region == 1, 0.6, 0.4) + rng.uniform(-0.25, 0.25, region.shape)
    return image, region, np.stack([1 - one, one]).astype(np.float32)


def random_scores(classes, size=(12, 10), seed=1):
    return np.random.default_rng(seed).uniform(0, 1, (classes, *size)).astype(np.float32)


def unary(scores):
    return -np.log(np.maximum(scores, 1e-5)).reshape(len(scores), -1).astype(np.float32)


def direct(image, scores, params, steps):
    """The same CRF through pydensecrf's own interface."""
    classes, height, width = scores.shape
    crf = pydensecrf.DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(unary(scores))
    crf.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=params.bilateral_sxy,
        srgb=params.bilateral_srgb,
        rgbim=np.array(image, order="C"),
        compat=params.bilateral_compat,
    )
    return np.array(crf.inference(steps)).reshape(scores.shape)


def mean_field(image, scores, params, steps):
    """Fully connected CRF, exact kernels (symmetrically normalised), float64."""
    height, width = image.shape[:2]
    place = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2).astype(float)
    colour = image.reshape(-1, 3).astype(float)

    def kernel(features):
        near = np.exp(-((features[:, None] - features[None]) ** 2).sum(-1) / 2)
        root = np.sqrt(near.sum(1))
        return near / root[:, None] / root

    gaussian = params.gaussian_compat * kernel(place / params.gaussian_sxy)
    both = np.concatenate([place / params.bilateral_sxy, colour / params.bilateral_srgb], 1)
    message = gaussian + params.bilateral_compat * kernel(both)
    energy = unary(scores).astype(float)

    def softmax(values):
        values = np.exp(values - values.max(0))
        return values / values.sum(0)

    q = softmax(-energy)
    for _ in range(steps):
        q = softmax(-energy + q @ message)
    return q.reshape(scores.shape)


def test_defaults_are_those_of_the_released_code():
    assert dataclasses.asdict(CrfParams()) == {
        "gaussian_sxy": 3,
        "gaussian_compat": 3,
        "bilateral_sxy": 80,
        "bilateral_srgb": 13,
        "bilateral_compat": 10,
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        CrfParams().gaussian_sxy = 1
    with pytest.raises(TypeError):
        CrfParams(3)  # they go by name


@pytest.mark.parametrize("value", [-1, -0.001, np.inf, np.nan])
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(CrfParams)])
def test_parameters_out_of_range_are_refused(name, value):
    with pytest.raises(InputError, match=f"{name}: expected a number above 0 but got {value}"):
        CrfParams(**{name: value})


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(CrfParams)])
def test_a_weight_may_be_zero_and_a_width_may_be_small(name):
    assert getattr(CrfParams(**{name: 0.5}), name) == 0.5
    if name.endswith("compat"):
        assert getattr(CrfParams(**{name: 0}), name) == 0
    else:
        with pytest.raises(InputError, match=name):
            CrfParams(**{name: 0})


@pytest.mark.parametrize("size", [(11, 10), (13, 10), (12, 9), (12, 11), (10, 12)])
def test_scores_of_another_size_are_refused(size):
    image, _, _ = two_regions()
    with pytest.raises(ValueError, match=f"are {size[0]}x{size[1]} but the image is 12x10"):
        DenseCRF(image).infer(random_scores(2, size))


@pytest.mark.parametrize("params", [CrfParams(), OTHER])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("steps", [1, 10])
def test_same_as_pydensecrf(params, classes, steps):
    image, _, _ = two_regions()
    scores = random_scores(classes)
    out = DenseCRF(image, params).infer(scores, steps=steps)
    assert out.dtype == np.float32
    assert out.shape == scores.shape
    np.testing.assert_allclose(out, direct(image, scores, params, steps), rtol=0, atol=1e-6)


def test_params_and_steps_have_defaults():
    image, _, scores = two_regions()
    out = DenseCRF(image).infer(scores)
    np.testing.assert_allclose(out, direct(image, scores, CrfParams(), 10), rtol=0, atol=1e-6)


@pytest.mark.parametrize("params", [CrfParams(), OTHER])
def test_close_to_mean_field_by_brute_force(params):
    image, region, scores = two_regions()
    out = DenseCRF(image, params).infer(scores, steps=5)
    expected = mean_field(image, scores, params, 5)
    assert (scores.argmax(0) == region).mean() < 0.95  # there is something to mend
    np.testing.assert_allclose(
        out, expected, atol=0.02
    )  # pydensecrf's lattice approximates kernels


def test_mends_the_planted_regions():
    image, region, scores = two_regions()
    out = DenseCRF(image).infer(scores)
    assert (out.argmax(0) == region).all()


def test_probabilities_sum_to_one():
    image, _, _ = two_regions()
    out = DenseCRF(image).infer(random_scores(4) * 50)
    assert out.min() >= 0
    np.testing.assert_allclose(out.sum(0), 1, atol=1e-5)


def test_scores_below_the_floor_count_as_the_floor():
    image, _, scores = two_regions()
    low = {value: scores.copy() for value in (0, 1e-9, 1e-5, 1e-3)}
    for value, changed in low.items():
        changed[1, :, :4] = value
    crf = DenseCRF(image, OTHER)
    out = {value: crf.infer(changed, steps=1) for value, changed in low.items()}
    np.testing.assert_allclose(out[0], out[1e-5], atol=1e-6)
    np.testing.assert_allclose(out[1e-9], out[1e-5], atol=1e-6)
    assert np.abs(out[1e-3] - out[1e-5]).max() > 1e-4


def test_without_any_score_every_class_is_equal():
    image, _, _ = two_regions()
    out = DenseCRF(image).infer(np.zeros((3, 12, 10), np.float32))
    np.testing.assert_allclose(out, 1 / 3, atol=1e-5)


def test_one_object_may_be_asked_again():
    image, _, two = two_regions()
    asked = [(two, 10), (random_scores(5), 10), (random_scores(2, seed=2), 3), (two, 1), (two, 10)]
    crf = DenseCRF(image)
    first = crf.infer(two)
    kept = first.copy()
    for scores, steps in asked:
        fresh = DenseCRF(image).infer(scores, steps=steps)
        np.testing.assert_allclose(crf.infer(scores, steps=steps), fresh, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(first, kept)  # a result is not overwritten by a later question


def test_two_photos_at_once_do_not_disturb_each_other():
    image, _, scores = two_regions()
    crf = DenseCRF(image)
    other = DenseCRF(255 - image.swapaxes(0, 1))
    other.infer(scores.swapaxes(1, 2))
    np.testing.assert_allclose(crf.infer(scores), direct(image, scores, CrfParams(), 10), atol=1e-6)


def test_arrays_of_any_layout_are_accepted_and_left_alone():
    image, _, scores = two_regions()
    expected = DenseCRF(image, OTHER).infer(scores)
    wide = np.repeat(np.repeat(image, 2, 0), 2, 1)
    mirrored = np.ascontiguousarray(image[:, ::-1])[:, ::-1]
    frozen, frozen_scores = image.copy(), scores.copy()
    frozen.flags.writeable = frozen_scores.flags.writeable = False
    for given in (wide[::2, ::2], mirrored, np.asfortranarray(image), frozen):
        np.testing.assert_allclose(DenseCRF(given, OTHER).infer(scores), expected, atol=1e-6)
        np.testing.assert_array_equal(given, image)
    last = np.ascontiguousarray(scores.transpose(1, 2, 0)).transpose(2, 0, 1)
    for given in (last, np.asfortranarray(scores), frozen_scores, scores.astype(np.float64)):
        np.testing.assert_allclose(DenseCRF(image, OTHER).infer(given), expected, atol=1e-5)
        np.testing.assert_array_equal(given, scores)


def test_the_photo_may_change_after_construction():
    image, _, scores = two_regions()
    expected = DenseCRF(image, OTHER).infer(scores)
    given = image.copy()
    crf = DenseCRF(given, OTHER)
    given[:] = 0
    np.testing.assert_allclose(crf.infer(scores), expected, atol=1e-6)


@pytest.mark.parametrize("sets", [1, 2, 3])
@pytest.mark.parametrize("classes", [1, 2, 3, 5])
@pytest.mark.parametrize("steps", [0, 1, 10])
def test_several_sets_at_once_are_those_one_by_one(sets, classes, steps):
    image, _, _ = two_regions()
    scores = np.stack([random_scores(classes, seed=seed) for seed in range(sets)])
    scores[0] **= 24  # energies of another size beside the others'
    found = DenseCRF(image).infer(scores, steps)
    assert found.shape == scores.shape and found.dtype == np.float32
    for one, expected in zip(scores, found, strict=True):
        direct_one = direct(image, one, CrfParams(), steps)
        np.testing.assert_allclose(expected, direct_one, rtol=1e-4, atol=1e-5)


def test_ten_steps_are_taken_unless_told_otherwise():
    image, _, _ = two_regions()
    weak = CrfParams(gaussian_compat=0.3, bilateral_compat=0.5)  # later steps still change bits
    crf, scores = DenseCRF(image, weak), random_scores(3)
    found = crf.infer(scores)
    assert np.array_equal(found, crf.infer(scores, 10))
    assert not np.array_equal(found, crf.infer(scores, 11))


def test_sets_whose_weights_are_too_large_for_it_are_inferred_one_by_one():
    image, _, _ = two_regions()
    params = CrfParams(gaussian_compat=100, bilateral_compat=200)
    scores = np.stack([random_scores(2, seed=seed) ** (1 + 9 * seed) for seed in range(2)])
    found = DenseCRF(image, params).infer(scores)
    expected = [direct(image, one, params, 10) for one in scores]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_sets_share_one_model_where_weights_allow_it_and_models_are_kept(monkeypatch):
    built = []

    def model(width, height, labels, own=wsss.crf.densecrf.DenseCRF2D):
        built.append(labels)
        return own(width, height, labels)

    monkeypatch.setattr(wsss.crf.densecrf, "DenseCRF2D", model)
    image, _, _ = two_regions()
    scores = np.stack([random_scores(3, seed=seed) for seed in range(2)])
    for compat, labels in ((10, 6), (57, 6), (58, 3)):  # beside 3 of the other kernel
        crf = DenseCRF(image, CrfParams(bilateral_compat=compat))
        built.clear()
        for _ in range(2):
            crf.infer(scores, 1)
        assert built == [labels]
    crf.infer(scores[0], 1)
    crf.infer(scores[0, :2], 1)
    assert built == [3, 2]
