"""Training samples: a photo with its labels or mask, cropped and jittered together."""

import math

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from wsss.io.artifacts import IGNORE

PAD = (
    124,
    116,
    104,
)  # ImageNet's mean colour, which normalisation turns into about zero


class RandomLongSide(v2.Transform):
    """Resize so that the longer side is a random whole number of pixels in [low, high]."""

    def __init__(self, low, high):
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs):
        height, width = v2.functional.get_size(flat_inputs[0])
        long = int(torch.randint(self.low, self.high + 1, ()))
        scale = long / max(height, width)
        return {"size": [max(1, round(height * scale)), max(1, round(width * scale))]}

    def transform(self, inpt, params):
        return v2.functional.resize(inpt, params["size"], antialias=True)


def augment(crop, *, long_side=(0, 0), jitter=0.3, hue=0.0, mask_fill=IGNORE):
    """Random rescale, flip, colour jitter (``hue`` as a share of the colour circle), square crop.

    The longer side becomes ``long_side`` = (low, high) pixels; (0, 0) does not rescale.

    Where the photo is smaller than the crop it is padded with the mean colour, its mask with
    ``mask_fill``.
    """
    steps = [RandomLongSide(*long_side)] if any(long_side) else []
    steps += [
        v2.RandomHorizontalFlip(),
        # brightness, contrast, saturation, and hue, which costs four times as much
        v2.ColorJitter(jitter, jitter, jitter, hue),
        v2.RandomCrop(
            crop,
            pad_if_needed=True,
            fill={tv_tensors.Image: PAD, tv_tensors.Mask: mask_fill},
        ),
        v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
    ]
    return v2.Compose(steps)


def cut_mix(images, masks, share):
    """Paste a rectangle of the next crop, photo and mask, into a share of a batch's crops
    (CutMix, Yun et al., ICCV 2019).

    Args:
        images: (B, C, H, W).
        masks: (B, H, W).
        share: of the crops that get one, in [0, 1]; the rectangle's sides are a quarter to three
            quarters of the crop's.

    Returns:
        images and masks of the same shapes; the given ones are not written to.
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


def repeat_rare(dataset, ids, photos):
    """A list of ids in which those of rare classes stand several times.

    Args:
        ids: photo ids.
        photos: a class that fewer of them are tagged with has each of its photos as often as it
            takes to reach this number; a photo of several such classes follows the rarest. 0
            repeats none.

    Returns:
        the ids in their order, each repeated one after the other.
    """
    counts = sum(dataset.label_vector(id) for id in ids)
    return [
        id
        for id in ids
        for _ in range(max(1, *(math.ceil(photos / counts[k - 1]) for k in dataset.labels(id))))
    ]


class Samples(torch.utils.data.Dataset):
    """Augmented samples of a list of photos; the same key gives the same sample in any process.

    A key is ``(epoch, index)``: every random choice of the sample is seeded from it and ``seed``,
    so that neither the number of workers nor an interruption changes what is trained on.

    Args:
        dataset: an open dataset.
        ids: photo ids.
        transform: as made by ``augment``.
        target: ``id -> label vector (classes,) float32`` or ``id -> mask (..., H, W) uint8``; masks
            go through the transform together with the photo and come back as int64.
        reduce: ``(id, cropped mask) -> tensor``, what is made of a mask after the transform.
        seed: of the random choices.

    Each sample is ``(image (3, crop, crop) float32 in [0, 1], target)``.
    """

    def __init__(self, dataset, ids, transform, target, *, reduce=None, seed=0):
        self.dataset, self.ids, self.transform, self.seed = dataset, list(ids), transform, seed
        self.target, self.reduce = target, reduce

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, key):
        epoch, index = key
        id = self.ids[index]
        image = tv_tensors.Image(
            torch.from_numpy(self.dataset.image(id)).permute(2, 0, 1)
        )  # HWC -> CHW
        target = torch.from_numpy(np.asarray(self.target(id)))
        seed = np.random.SeedSequence([self.seed, epoch, index]).generate_state(1, np.uint64)[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed >> np.uint64(1)))
            if target.ndim == 1:
                return self.transform(image), target
            image, mask = self.transform(image, tv_tensors.Mask(target))
        mask = mask.as_subclass(torch.Tensor)
        return image, (self.reduce(id, mask) if self.reduce else mask).long()
