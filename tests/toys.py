"""The smallest samples that training can be tried on."""

import torch


class Noise(torch.utils.data.Dataset):
    """Twelve pictures of noise and what follows from each, drawn by key as ``Samples`` are.

    Args:
        side: of a picture (3, side, side), in pixels.
        target: a picture to what follows from it.
        seed: of the draw.
    """

    def __init__(self, side, target, seed=0):
        self.side, self.target, self.seed = side, target, seed

    def __len__(self):
        return 12

    def __getitem__(self, key):
        generator = torch.Generator().manual_seed(10_000 * self.seed + 100 * key[0] + key[1])
        picture = torch.randn(3, self.side, self.side, generator=generator)
        return picture, self.target(picture)
