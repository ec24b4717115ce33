"""Training samples: a photo with its labels or mask, cropped and jittered together."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from wsss.io.artifacts import IGNORE

PAD = (124, 116, 104)  # ImageNet's mean colour, about zero after normalisation


class RandomLongSide(v2.Transform):
    """Resize so that the longer side is a random whole number of pixels in [low, high]."""

    def __init__(self, low: int, high: int):
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs):
        height, width = v2.functional.get_size(flat_inputs[0])
        long = int(torch.randint(self.low, self.high + 1, ()))
        scale = long / max(height, width)
        return {"size": [max(1, round(height * scale)), max(1, round(width * scale))]}

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
        long_side: (low, high) pixels of the longer side; (0, 0) does not rescale.
        jitter: of brightness, contrast and saturation, as a share of each.
        hue: jitter as a share of the colour circle; takes four times as long as the others.
    """
    fill = {tv_tensors.Image: PAD, tv_tensors.Mask: mask_fill}
    steps = [RandomLongSide(*long_side)] if any(long_side) else []
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
    """Paste a rectangle of the next crop, photo and mask, into a share of a batch's crops
    (CutMix, Yun et al., ICCV 2019).

    Args:
        images: (B, C, H, W).
        masks: (B, H, W).
        share: of the crops that get a rectangle, in [0, 1]; its sides are a quarter to three
            quarters of the crop's.

    Returns:
        new images and masks of the same shapes.
    """
    if not share:
        return images, masks
    mixed, mixed_masks = images.clone(), masks.clone()
    for index in range(len(images)):
        if torch.rand(()) >= share:
            continue
        rows, columns = (_span(side) for side in masks.shape[-2:])
        other = (index + 1) % len(images)
        mixed[index, :, rows, columns] = images[other, :, rows, columns]
        mixed_masks[index, rows, columns] = masks[other, rows, columns]
    return mixed, mixed_masks


def _span(side):
    """A random slice, a quarter to three quarters of a side long."""
    length = int(torch.randint(side // 4, 3 * side // 4 + 1, ()))
    start = int(torch.randint(0, side - length + 1, ()))
    return slice(start, start + length)


def repeat_rare(dataset, ids: Sequence[str], *, photos: int) -> list[str]:
    """Repeat the photos of rare classes, each directly after itself.

    Args:
        ids: photo ids.
        photos: the photos of a class with fewer are repeated until it has this many; a photo of
            several such classes follows the rarest. 0 repeats none.
    """
    counts = np.sum([dataset.label_vector(each) for each in ids], axis=0)
    repeated = []
    for photo_id in ids:
        times = (math.ceil(photos / counts[number - 1]) for number in dataset.labels(photo_id))
        repeated += [photo_id] * max(1, *times)
    return repeated


class Samples(torch.utils.data.Dataset):
    """Augmented samples of a list of photos; the same key gives the same sample in any process.

    A key is ``(epoch, index)``: every random choice of the sample is seeded from it and ``seed``,
    so that neither the number of workers nor an interruption changes what is trained on.

    Args:
        dataset: an open dataset.
        ids: photo ids.
        transform: as made by ``augment``.
        target: ``id -> label vector (classes,) float32`` or ``id -> mask (..., H, W) uint8``; masks
            are transformed together with the photo and returned as int64.
        reduce: ``(id, cropped mask) -> tensor``, applied to a mask after the transform.
        seed: of the random choices.

    Each sample is ``(image (3, crop, crop) float32 in [0, 1], target)``.
    """

    def __init__(
        self,
        dataset,
        ids: Iterable[str],
        *,
        transform: Callable,
        target: Callable[[str], np.ndarray],
        reduce: Callable[[str, torch.Tensor], torch.Tensor] | None = None,
        seed: int = 0,
    ):
        self.dataset, self.ids, self.transform, self.seed = dataset, list(ids), transform, seed
        self.target, self.reduce = target, reduce

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, key):
        epoch, index = key
        photo_id = self.ids[index]
        image = torch.from_numpy(self.dataset.image(photo_id)).permute(2, 0, 1)  # HWC -> CHW
        image = tv_tensors.Image(image)
        target = torch.from_numpy(np.asarray(self.target(photo_id)))
        seed = np.random.SeedSequence([self.seed, epoch, index]).generate_state(1, np.uint64)[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed >> np.uint64(1)))
            if target.ndim == 1:
                return self.transform(image), target
            image, mask = self.transform(image, tv_tensors.Mask(target))
        mask = mask.as_subclass(torch.Tensor)
        return image, (self.reduce(photo_id, mask) if self.reduce else mask).long()
