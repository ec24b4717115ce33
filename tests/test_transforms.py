"""Samples: photo and mask move together, and a key always gives the same sample."""

import numpy as np
import torch

from wsss.datasets.transforms import Samples, augment, cut_mix, repeat_rare


class Blocks:
    """A stand-in dataset whose photo's red channel is its mask times ten."""

    def __init__(self, height, width):
        self._mask = (np.arange(height)[:, None] // 8 + np.arange(width)[None] // 8).astype(
            np.uint8
        ) % 20

    def image(self, id):
        return np.stack([self._mask * 10, self._mask * 0, self._mask * 0], -1)

    def mask(self, id):
        return self._mask


def samples(height, width, transform, **options):
    data = Blocks(height, width)
    return Samples(data, ["x"] * 4, transform=transform, target=data.mask, **options)


def test_crop_and_flip_keep_photo_and_mask_together():
    for index in range(4):
        image, mask = samples(90, 120, augment(64, jitter=0))[(0, index)]
        assert image.shape == (3, 64, 64) and mask.shape == (64, 64) and mask.dtype == torch.int64
        assert torch.equal((image[0] * 255).round().long(), mask * 10)


def test_rescaled_masks_hold_only_labels_of_the_original():
    low, high = 100, 180
    seen = set()
    for index in range(4):
        image, mask = samples(90, 120, augment(64, long_side=(low, high)))[(1, index)]
        assert image.min() >= 0 and image.max() <= 1
        seen |= set(mask.unique().tolist())
    assert seen <= {*range(20), 255}


def test_padding_is_ignored():
    _, mask = samples(20, 30, augment(64, jitter=0))[(0, 0)]
    assert (mask == 255).sum() == 64 * 64 - 20 * 30


def test_a_key_gives_the_same_sample_whatever_came_before():
    data = samples(90, 120, augment(64, long_side=(80, 150)), seed=3)
    first = data[(2, 1)]
    torch.manual_seed(99)
    data[(0, 0)]
    again = data[(2, 1)]
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], data[(3, 1)][0])
    assert not torch.equal(
        first[0], samples(90, 120, augment(64, long_side=(80, 150)), seed=4)[(2, 1)][0]
    )


def test_sampling_leaves_the_global_generator_alone():
    data = samples(90, 120, augment(64))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    data[(0, 0)]
    assert torch.equal(torch.rand(3), expected)


def test_cut_mix_moves_photo_and_mask_together():
    data = samples(90, 120, augment(64, jitter=0))
    images, masks = (
        torch.stack(part) for part in zip(*(data[(0, i)] for i in range(4)), strict=True)
    )
    before = images.clone(), masks.clone()
    torch.manual_seed(0)
    mixed, mixed_masks = cut_mix(images, masks, share=1.0)
    assert torch.equal((mixed[:, 0] * 255).round().long(), mixed_masks * 10)
    assert torch.equal(images, before[0]) and torch.equal(masks, before[1])
    for index in range(4):
        changed = mixed_masks[index] != masks[index]
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
        assert 0 < len(rows) <= 48 and 0 < len(columns) <= 48
        assert torch.equal(mixed_masks[index][box], masks[(index + 1) % 4][box])


def test_cut_mix_leaves_the_other_crops_and_nothing_at_all_alone():
    images, masks = torch.rand(200, 3, 8, 8), torch.arange(200)[:, None, None].expand(-1, 8, 8)
    torch.manual_seed(0)
    _, mixed = cut_mix(images, masks, share=0.3)
    assert 30 < (mixed != masks).any((1, 2)).sum() < 90
    state = torch.get_rng_state()
    assert cut_mix(images, masks, share=0.0)[0] is images
    assert torch.equal(torch.get_rng_state(), state)


def test_photos_of_rare_classes_are_repeated():
    tags = {"a": [1], "b": [1, 2], "c": [1], "d": [3, 2], "e": [1]}  # 4, 2 and 1 photos

    class Tagged:
        def labels(self, id):
            return tags[id]

        def label_vector(self, id):
            return np.isin([1, 2, 3], tags[id]).astype(np.float32)

    assert repeat_rare(Tagged(), list("abcde"), photos=3) == list("abbcddde")
    assert repeat_rare(Tagged(), list("abcde"), photos=5) == list("aabbbccdddddee")
    assert repeat_rare(Tagged(), list("abcde"), photos=0) == list("abcde")
