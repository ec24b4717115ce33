"""Pairs of whole trainings: seconds that a photo takes, processes being up."""

import itertools
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks.harness import Aim, Pair, Unavailable
from benchmarks.photos import SAMPLE, SCRATCH
from wsss import datasets, models
from wsss.datasets import transforms
from wsss.lab.paths import from_root
from wsss.train import losses
from wsss.train.loop import Schedule, fit


def processes(backbone, *, crop, photos, long_side=(0, 0), voc=False):
    """Training of a segmentation network on photos and their masks, read and jittered meanwhile, by
    two processes, each with a share of the batch and half of the threads, beside one with all of
    them: seconds a photo.

    Args:
        crop, long_side: pixels, as ``transforms.augment`` takes them.
        photos: how many, in batches of 8.
        voc: read photos of VOC, or else generated ones.
    """
    if (torch.cuda.device_count() or os.cpu_count()) < 2:
        raise Unavailable("needs two GPUs, or else two cores")
    root = from_root(SAMPLE) if voc else Path(SCRATCH.name, "shapes")
    if voc and not root.is_dir():
        raise Unavailable(f"no photos in {SAMPLE}")
    data = datasets.open("voc" if voc else "shapes", root)
    transform = transforms.augment(crop, long_side=long_side)
    samples = transforms.Samples(
        data, data.ids("train")[:photos], transform=transform, target=data.mask
    )
    build = partial(
        models.build_segmentation, backbone, len(data.classes) + 1, output_stride=8, channels=128
    )

    def run(count):
        schedule = Schedule(
            epochs=4, batch_size=8, learning_rate=0.001, workers=0, train_processes=count
        )
        ends = []
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            history = fit(
                build(),
                samples,
                loss=losses.segmentation_loss,
                schedule=schedule,
                folder=folder,
                on_epoch=lambda *_: ends.append(time.perf_counter()),
            )
        # from the end of the first, which takes longer, to the end of the last
        seconds = median(end - begin for begin, end in itertools.pairwise(ends))
        return seconds / photos, history[-1]["loss"]

    return Pair(
        plain=lambda: run(1),
        fast=lambda: run(2),
        aim=Aim("ratio", 1.0),
        difference=None,
        timed=False,
    )
