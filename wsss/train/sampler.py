"""Choose the photos of each batch and each process's share of them, and load them."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from wsss.datasets.transforms import Samples
from wsss.errors import InputError
from wsss.runtime.processes import exit_with_parent


def steps_per_epoch(length: int, schedule) -> int:
    """The number of batches per epoch of ``length`` photos. The last, smaller batch is left out."""
    return max(1, length // schedule.batch_size)


def epoch_batches(
    length: int, schedule, *, start: int = 0, rank: int = 0
) -> Iterator[list[tuple[int, int]]]:
    """Batches of ``(epoch, index)`` keys of ``length`` photos, shuffled by seed and epoch, from
    step ``start`` on; of every part of a batch, each process takes an equal slice.
    """
    per_epoch, size = steps_per_epoch(length, schedule), schedule.batch_size
    for epoch in range(start // per_epoch, schedule.epochs):
        generator = torch.Generator().manual_seed(schedule.seed * 100_003 + epoch)
        order = torch.randperm(length, generator=generator)
        for place in range(max(0, start - epoch * per_epoch), per_epoch):
            parts = order[place * size : (place + 1) * size].chunk(schedule.accumulation_steps)
            shares = [part.chunk(schedule.train_processes)[rank] for part in parts]
            yield [(epoch, index) for index in torch.cat(shares).tolist()]


def load_batches(samples: Samples, schedule, *, start: int, rank: int) -> DataLoader:
    """Load ``epoch_batches``."""
    return DataLoader(
        samples,
        batch_sampler=epoch_batches(len(samples), schedule, start=start, rank=rank),
        num_workers=schedule.workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own: resuming must not draw from the global one
        prefetch_factor=4 if schedule.workers else None,
        multiprocessing_context="spawn" if schedule.workers else None,
        worker_init_fn=exit_with_parent,
    )


def check_shares(length: int, schedule) -> None:
    """Raise InputError unless each process gets an equal share of each part of a batch."""
    size, processes = min(schedule.batch_size, length), schedule.train_processes
    parts = torch.arange(size).chunk(schedule.accumulation_steps)
    if processes < 1 or any(len(part) % processes for part in parts):
        raise InputError(
            f"train_processes {processes}: expected a number that divides each part of a batch, "
            f"of {' + '.join(str(len(part)) for part in parts)} crops; change it, batch_size or "
            "accumulation_steps"
        )
