"""Training samples: a photo with its labels or mask, cropped and jittered together."""

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from wsss.datasets.photos import scaled
from wsss.errors import InputError
from wsss.io.artifacts import IGNORE

PAD = (124, 116, 104)  # ImageNet's mean colour, about zero after normalisation


class RandomLongSide(v2.Transform):
    """Resize so that the longer side is a random whole number of pixels in [low, high]."""

    def __init__(self, low: int, high: int):
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs):
        long = int(torch.randint(self.low, self.high + 1, ()))
        return {"size": scaled(v2.functional.get_size(flat_inputs[0]), long)}

    def transform(self, inpt, params):
        return v2.functional.resize(inpt, params["size"], antialias=True)


def augment(
    crop: int,
    *,
    long_side: tuple[int, int] = (0, 0),
    jitter: float = 0.3,
    hue: float = 0.0,
    mask_fill: int = IGNORE,
) -> v2.Transform:
    """Random rescale, flip, colour jitter and square crop of a photo, with its mask if any.

    Args:
        crop: pixels; a smaller photo is padded with the mean colour, its mask with ``mask_fill``.
        long_side: (low, high) pixels; (0, 0) does not rescale. InputError if they are no range.
        jitter: of brightness, contrast and saturation, as a share of each.
        hue: of the colour circle, as a share; takes four times as long as the others.
    """
    low, high = long_side
    if any(long_side) and not 0 < low <= high:
        expected = "expected a range from 1 on, or both 0"
        raise InputError(f"resize_min {low}, resize_max {high}: {expected}; change one")
    fill = {tv_tensors.Image: PAD, tv_tensors.Mask: mask_fill}
    steps = [RandomLongSide(low, high)] if high else []
    steps += [
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(jitter, jitter, jitter, hue),
        v2.RandomCrop(crop, pad_if_needed=True, fill=fill),
        v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
    ]
    return v2.Compose(steps)


def cut_mix(
    images: torch.Tensor, masks: torch.Tensor, *, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """CutMix (Yun et al., ICCV 2019): new images (B, C, H, W) and masks (B, H, W), where a share of
    the crops has a rectangle of the next crop, with sides a quarter to three quarters as long.
    """
    if not share:
        return images, masks
    mixed, mixed_masks = images.clone(), masks.clone()
    for index in range(len(images)):
        if torch.rand(()) >= share:
            continue
        rows, columns = map(_span, masks.shape[-2:])
        other = (index + 1) % len(images)
        mixed[index, :, rows, columns] = images[other, :, rows, columns]
        mixed_masks[index, rows, columns] = masks[other, rows, columns]
    return mixed, mixed_masks


def _span(side):
    length = int(torch.randint(side // 4, 3 * side // 4 + 1, ()))
    start = int(torch.randint(0, side - length + 1, ()))
    return slice(start, start + length)


def repeat_rare(dataset, ids: Sequence[str], *, photos: int) -> list[str]:
    """The ids, repeated in place until the rarest class of each has ``photos``; 0 repeats none."""
    if not photos:
        return list(ids)
    counts = np.sum([dataset.label_vector(each) for each in ids], axis=0)
    repeated = []
    for photo_id in ids:
        times = (math.ceil(photos / counts[number - 1]) for number in dataset.labels(photo_id))
        repeated += [photo_id] * max(1, *times)
    return repeated


@dataclass(eq=False, repr=False)
class Samples(torch.utils.data.Dataset):
    """Augmented samples of a list of photos: ``(image (3, crop, crop) float32 in [0, 1], target)``.

    A key is ``(epoch, index)``: every random choice of the sample is seeded from it and ``seed``,
    so that neither the number of workers nor an interruption changes what is trained on.
    """

    dataset: Any  # an open dataset
    ids: Sequence[str]
    _: KW_ONLY
    transform: Callable  # as made by ``augment``
    # id to a label vector (classes,) float32; or to a mask (..., H, W) uint8, which is transformed
    # with the photo and returned as int64
    target: Callable[[str], np.ndarray]
    reduce: Callable[[str, torch.Tensor], torch.Tensor] | None = None  # of id and cropped mask
    seed: int = 0

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, key: tuple[int, int]):
        epoch, index = key
        photo_id = self.ids[index]
        image = tv_tensors.Image(torch.from_numpy(self.dataset.image(photo_id)).permute(2, 0, 1))
        target = torch.from_numpy(np.asarray(self.target(photo_id)))
        seed = np.random.SeedSequence([self.seed, epoch, index]).generate_state(1, np.uint64)[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed >> np.uint64(1)))
            if target.ndim == 1:
                return self.transform(image), target
            image, mask = self.transform(image, tv_tensors.Mask(target))
        mask = mask.as_subclass(torch.Tensor)
        return image, (self.reduce(photo_id, mask) if self.reduce else mask).long()
