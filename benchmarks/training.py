"""Pairs of whole trainings: seconds that an image takes, processes being up."""

import itertools
import os
import tempfile
import time
from functools import partial
from statistics import median

import torch

from wsss import losses, models
from wsss.bench import Aim, Pair, Unavailable
from wsss.train import Schedule, fit


class Crops(torch.utils.data.Dataset):
    """A batch of grey noise with labels, as quick to load as can be.

    Args:
        side: of a crop, in pixels.
        size: of the batch.
    """

    def __init__(self, side, size):
        self.side, self.size = side, size

    def __len__(self):
        return self.size

    def __getitem__(self, key):
        generator = torch.Generator().manual_seed(key[1])
        image = torch.rand((1, self.side, self.side), generator=generator).expand(3, -1, -1)
        return image, (8 * image[0]).long()


def processes(backbone, side, size, steps):
    """Training of a segmentation network by two processes, each with a share of the batch and half
    of the threads, beside one with all of them: seconds an image.
    """
    if (torch.cuda.device_count() or os.cpu_count()) < 2:
        raise Unavailable("two GPUs, or else two cores, are not here")
    build = partial(models.build_segmentation, backbone, 21, output_stride=8, channels=128)
    batch = Crops(side, size)

    def run(count):
        schedule = Schedule(
            epochs=steps, batch_size=size, learning_rate=0.001, workers=0, train_processes=count
        )
        ends = []
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            history = fit(
                build(),
                batch,
                losses.segmentation_loss,
                schedule,
                folder=folder,
                on_epoch=lambda *_: ends.append(time.perf_counter()),
            )
        # from the end of the first, which takes longer, to the end of the last
        seconds = median(end - begin for begin, end in itertools.pairwise(ends))
        return seconds / size, history[-1]["loss"]

    return Pair(
        plain=lambda: run(1),
        fast=lambda: run(2),
        aim=Aim("ratio", 1.0),
        difference=None,
        timed=False,
    )
