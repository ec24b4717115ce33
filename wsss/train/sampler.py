"""Which photos make a batch, and which of them a process takes."""

import torch

from wsss.errors import InputError


class EpochSampler(torch.utils.data.Sampler):
    """Batches of ``(epoch, index)`` keys, shuffled by seed and epoch, from any step on.

    Args:
        length: how many photos there are.
        schedule: a ``train.Schedule``.
        start: the first step.
        rank: whose share of each batch is told: where processes train together, each takes its
            share of every part, so that together they compute the parts of one process.
    """

    def __init__(self, length, schedule, *, start=0, rank=0):
        self.length, self.schedule, self.start, self.rank = length, schedule, start, rank
        self.per_epoch = max(
            1, length // schedule.batch_size
        )  # the last, smaller batch is left out

    def __len__(self):
        return self.per_epoch * self.schedule.epochs - self.start

    def __iter__(self):
        order = None
        size = self.schedule.batch_size
        for step in range(self.start, self.per_epoch * self.schedule.epochs):
            epoch, place = divmod(step, self.per_epoch)
            if order is None or place == 0:
                generator = torch.Generator().manual_seed(self.schedule.seed * 100_003 + epoch)
                order = torch.randperm(self.length, generator=generator)
            parts = order[place * size : (place + 1) * size].chunk(self.schedule.accumulate)
            shares = [part.chunk(self.schedule.train_processes)[self.rank] for part in parts]
            yield [(epoch, index) for index in torch.cat(shares).tolist()]


def check_shares(length, schedule):
    """InputError where the processes of a schedule would get unequal shares of a batch."""
    size, processes = min(schedule.batch_size, length), schedule.train_processes
    parts = torch.arange(size).chunk(schedule.accumulate)
    if processes < 1 or any(len(part) % processes for part in parts):
        raise InputError(
            f"train_processes {processes}: expected a number that divides each part of a batch, "
            f"of {' + '.join(str(len(part)) for part in parts)} crops; change it, batch_size or "
            "accumulate"
        )
