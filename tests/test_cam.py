"""Class activation maps (equations 1 and 2) of networks whose maps are known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_geometry import resized

from wsss.cam import background_score, multi_scale, multi_scale_cam, normalise


class Fake(torch.nn.Module):
    """A CAM network that answers with ``answer(pixels)`` and remembers what it was asked."""

    def __init__(self, answer):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.answer = answer
        self.asked = []

    def maps(self, pixels):
        self.asked.append(pixels.clone())
        return self.answer(pixels)


def fixed(maps):
    """The same maps (C, h, w) for whatever photos."""
    return Fake(lambda pixels: maps.expand(len(pixels), *maps.shape))


def lopsided(pixels):
    """Maps of stride 8 that depend on the place: mirroring the photo does not mirror them."""
    cells = F.avg_pool2d(pixels, 8, ceil_mode=True)
    ramp = torch.linspace(0.2, 1.7, cells.shape[-1])
    return torch.cat([cells, 1 - 2 * cells], 1) * ramp


def at_stride_4(maps):
    """Copies of a value per class, (C,), at stride 4 of whatever photo."""

    def answer(pixels):
        height, width = (-(-side // 4) for side in pixels.shape[-2:])
        return maps[None, :, None, None].expand(len(pixels), len(maps), height, width)

    return Fake(answer)


def random_maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def slow_normalise(maps):
    positive = np.maximum(maps, 0)
    return np.stack([m / m.max() if m.max() > 0 else m for m in positive])


# Equations


def test_normalise_divides_the_positive_part_by_its_maximum():
    maps = torch.tensor([[[-1.0, 2.0], [4.0, 1.0]], [[0.5, 0.0], [-3.0, 0.25]]])
    expected = torch.tensor([[[0.0, 0.5], [1.0, 0.25]], [[1.0, 0.0], [0.0, 0.5]]])
    torch.testing.assert_close(normalise(maps), expected)


def test_normalise_leaves_nothing_positive_as_zeros():
    maps = torch.tensor([[[-1.0, -2.0]], [[0.0, 0.0]], [[3.0, 1.5]]])
    assert normalise(maps).tolist() == [[[0, 0]], [[0, 0]], [[1, 0.5]]]
    assert maps[0, 0, 0] == -1  # the argument is not changed


def test_normalise_of_very_small_maps():
    assert normalise(torch.full((1, 2, 2), 1e-30)).tolist() == [[[1, 1], [1, 1]]]


@pytest.mark.parametrize("alpha", [1, 4, 16, 24.5])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_background_is_a_power_of_what_the_objects_leave(kind, alpha):
    cams = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    out = background_score(cams.numpy() if kind == "numpy" else cams, alpha)
    assert isinstance(out, np.ndarray if kind == "numpy" else torch.Tensor)
    assert out.shape == (4, 5)
    for y in range(4):
        for x in range(5):
            highest = max(float(cams[c, y, x]) for c in range(3))
            assert float(out[y, x]) == pytest.approx((1 - highest) ** alpha, rel=1e-3, abs=1e-12)


def test_background_falls_as_alpha_grows():
    cams = np.float32([[[0.0, 0.3, 1.0]]])
    low, high = background_score(cams, 4), background_score(cams, 24)
    assert low[0, 0] == high[0, 0] == 1
    assert low[0, 1] > high[0, 1] > 0
    assert low[0, 2] == high[0, 2] == 0


# Maps of a photo


def test_one_scale_without_mirroring():
    maps = random_maps(5, 4, 5)
    out = multi_scale_cam(fixed(maps), photo(14, 18), [1, 3], scales=(1.0,), flip=False)
    assert out.dtype == torch.float32
    assert out.shape == (2, 4, 5)  # stride 4, rounded up
    np.testing.assert_allclose(out.numpy(), slow_normalise(maps.numpy()[[0, 2]]), rtol=1e-6)


def test_coarser_maps_are_interpolated_between_the_pixels_that_their_cells_stand_on():
    network = Fake(lopsided)
    image = photo(23, 34)
    out = multi_scale_cam(network, image, [2, 4], scales=(1.0,), flip=False)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    maps = lopsided(pixels)[0, [1, 3]].clamp(min=0).numpy()
    rows = np.stack([[np.interp(range(0, 34, 4), range(0, 40, 8), r) for r in m] for m in maps])
    expected = np.stack(
        [[np.interp(range(0, 23, 4), range(0, 24, 8), c) for c in m.T] for m in rows]
    ).swapaxes(1, 2)
    np.testing.assert_allclose(out.numpy(), slow_normalise(expected), rtol=1e-4, atol=1e-6)


def test_the_network_sees_rgb_from_0_to_1_at_every_scale_and_its_mirror_image():
    network = at_stride_4(torch.tensor([1.0, 2.0]))
    image = photo(14, 18)
    image[0, 0], image[0, 1] = [0, 51, 255], [255, 0, 0]
    multi_scale_cam(network, image, [1], scales=(1.0, 0.5, 1.5, 2.0))
    sizes = [tuple(pixels.shape) for pixels in network.asked]
    assert sizes == [(2, 3, 14, 18), (2, 3, 7, 9), (2, 3, 21, 27), (2, 3, 28, 36)]
    torch.testing.assert_close(network.asked[0][0, :, 0, 0], torch.tensor([0, 0.2, 1]))
    for pixels in network.asked:
        assert 0 <= pixels.min() <= pixels.max() <= 1 + 1e-6
        torch.testing.assert_close(pixels[1], pixels[0].flip(-1))
    first, *resized = (F.adaptive_avg_pool2d(pixels, (2, 3)) for pixels in network.asked)
    for means in resized:  # the same photo, only larger or smaller
        torch.testing.assert_close(means, first, rtol=0, atol=0.1)


@pytest.mark.parametrize("flip", [False, True])
def test_each_scale_s_prediction_comes_back_to_the_photo_s_size(flip):
    """Resampled by Pillow; the predictions depend on the place, and have the size of the input."""
    pixels = torch.rand(1, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    scales = (1.0, 0.5, 1.5, 2.0)

    def predict(images):
        ramp = torch.linspace(0.2, 1.7, images.shape[-1])
        return torch.cat([images * ramp, images[:, :1] * ramp**2], 1)

    found = list(multi_scale(predict, pixels, scales=scales, flip=flip))
    assert len(found) == len(scales)
    for scale, maps in zip(scales, found, strict=True):
        scaled = resized(pixels[0], (int(12 * scale), int(20 * scale)))[None]
        expected = predict(scaled)
        if flip:
            expected = expected + predict(scaled.flip(-1)).flip(-1)
        expected = resized(expected[0], (12, 20))
        torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)


def test_maps_carry_no_gradient_of_the_network():
    network = fixed(random_maps(2, 3, 5).requires_grad_())
    assert not multi_scale_cam(network, photo(12, 20), [1], scales=(1.0,)).requires_grad


def test_positive_parts_are_summed_over_scales():
    halves = {80: (1.0, -3.0), 40: (-1.0, 2.0), 160: (4.0, 0.5)}  # left and right, by width

    def answer(pixels):
        left, right = halves[pixels.shape[-1]]
        across = -(-pixels.shape[-1] // 4)
        row = torch.cat([torch.full((across // 2,), left), torch.full((across // 2,), right)])
        return row.expand(1, 1, -(-pixels.shape[-2] // 4), across)

    out = multi_scale_cam(Fake(answer), photo(12, 80), [1], scales=(1.0, 0.5, 2.0), flip=False)
    left, right = out[0, :, :6], out[0, :, -6:]  # far from the step
    torch.testing.assert_close(left, left[:1, :1].expand(3, 6))
    torch.testing.assert_close(left, right * (1 + 0 + 4) / (0 + 2 + 0.5))


def test_a_power_is_taken_of_each_scale_before_the_sum():
    """Maps of 4 at scale 1 and 36 at scale 2 weigh 2 and 6 as roots, not the root of their sum."""
    ramp = torch.linspace(0.1, 1.0, 7)
    loudness = {28: 4.0, 56: 36.0}

    def answer(pixels):
        size = [-(-side // 4) for side in pixels.shape[-2:]]
        maps = F.interpolate(ramp.view(1, 1, 1, 7), size, mode="nearest-exact")
        return (maps if size[1] == 7 else maps.flip(-1)) * loudness[pixels.shape[-1]]

    def maps(scales, cam_power):
        image = np.zeros((24, 28, 3), np.uint8)
        return multi_scale_cam(
            Fake(answer), image, [1], scales=scales, flip=False, cam_power=cam_power
        )

    small, large = maps((1.0,), 0.5), maps((2.0,), 0.5)
    torch.testing.assert_close(small, maps((1.0,), 1.0).sqrt())
    expected = 2 * small + 6 * large  # each of maximum 1
    torch.testing.assert_close(
        maps((1.0, 2.0), 0.5), expected / expected.amax(), rtol=0.02, atol=0.02
    )


def test_the_mirror_image_s_maps_are_mirrored_back():
    straight, mirrored = random_maps(2, 3, 5), random_maps(2, 3, 5, seed=1)
    network = Fake(lambda pixels: torch.stack([straight, mirrored]))
    out = multi_scale_cam(network, photo(9, 17), [1, 2], scales=(1.0,))
    total = np.maximum(straight.numpy(), 0) + np.maximum(mirrored.numpy(), 0)[:, :, ::-1]
    np.testing.assert_allclose(out.numpy(), slow_normalise(total), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(25, 33), (21, 45)])  # cells on the first pixel and the last
def test_the_mirrored_photo_has_the_mirrored_maps(size):
    image = photo(*size)
    mirror = np.ascontiguousarray(image[:, ::-1])

    def maps(pixels, flip):
        return multi_scale_cam(Fake(lopsided), pixels, [1, 2, 5], scales=(1.0, 0.5, 1.5), flip=flip)

    torch.testing.assert_close(maps(mirror, True), maps(image, True).flip(-1), rtol=1e-4, atol=1e-5)
    assert (maps(mirror, False) - maps(image, False).flip(-1)).abs().max() > 0.1


def test_only_the_present_classes_in_the_order_asked():
    maps = random_maps(6, 3, 5)
    out = multi_scale_cam(fixed(maps), photo(12, 20), [6, 2], scales=(1.0,), flip=False)
    np.testing.assert_allclose(out.numpy(), slow_normalise(maps.numpy()[[5, 1]]), rtol=1e-6)
    changed = maps.clone()
    changed[[0, 2, 3, 4]] *= 100
    again = multi_scale_cam(fixed(changed), photo(12, 20), [6, 2], scales=(1.0,), flip=False)
    assert torch.equal(out, again)


def test_a_map_with_nothing_positive_is_zero():
    out = multi_scale_cam(at_stride_4(torch.tensor([-0.1, 2.0])), photo(12, 20), [1, 2])
    assert torch.isfinite(out).all()
    assert out[0].abs().max() == 0
    assert out[1].max() == 1


def test_every_map_has_maximum_1_at_the_default_scales():
    out = multi_scale_cam(Fake(lopsided), photo(23, 34), [1, 2, 3])
    assert out.shape == (3, 6, 9)
    assert out.min() >= 0
    torch.testing.assert_close(out.amax((1, 2)), torch.ones(3))


def test_the_default_scales_are_those_of_the_released_code():
    image = photo(24, 32)
    expected = multi_scale_cam(
        Fake(lopsided), image, [1, 4], scales=(0.5, 1.0, 1.5, 2.0), flip=True
    )
    torch.testing.assert_close(multi_scale_cam(Fake(lopsided), image, [1, 4]), expected)


def test_photos_as_tensors_and_of_one_pixel():
    image = photo(24, 32)
    expected = multi_scale_cam(Fake(lopsided), image, [1])
    assert torch.equal(multi_scale_cam(Fake(lopsided), torch.from_numpy(image), [1]), expected)
    assert multi_scale_cam(fixed(random_maps(1, 1, 1).abs()), photo(1, 1), [1]).tolist() == [[[1]]]
