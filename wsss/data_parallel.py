"""What processes that train together do with each other's shares of a batch, so that all of them
take the step of the whole batch. In one process there is nothing to do, and nothing is done.
"""

from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from wsss.errors import reason


class Parted(RuntimeError):
    """Another of the processes that train together is gone, or does not answer."""


@contextmanager
def _together():
    """Tell what goes wrong between processes from what goes wrong in one.

    Raises:
        Parted: in place of torch's own, a RuntimeError as others.
    """
    try:
        yield
    except RuntimeError as error:
        raise Parted(
            f"another of the processes that train together is gone ({reason(error)})"
        ) from error


def world_size():
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank():
    """The number of this one, from 0, which is the one that saves and is heard."""
    return dist.get_rank() if dist.is_initialized() else 0


def average(tensor):
    """The mean of a float tensor over the processes, taken in place; the same bits in each.

    A sum over one's own share, divided by the mean over the processes of how much was summed, is
    a loss whose mean over the processes is that of the whole batch, however unequal the shares.
    """
    if dist.is_initialized():
        with _together():
            dist.all_reduce(tensor)  # a sum: gloo has no mean
        tensor /= dist.get_world_size()
    return tensor


def average_numbers(numbers, device):
    """The means over the processes of plain numbers, by name; ``device`` is the one trained on."""
    if not dist.is_initialized():
        return numbers
    means = average(torch.tensor(list(numbers.values()), dtype=torch.float64, device=device))
    return dict(zip(numbers, means.tolist(), strict=True))


def average_step(network):
    """Put the means over the processes in the place of a network's gradients, and of the running
    statistics of batch norms that see no more than their own share.
    """
    if not dist.is_initialized():
        return
    tensors = [p.grad for p in network.parameters() if p.grad is not None]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # which a SyncBatchNorm is not
            tensors += [module.running_mean, module.running_var]
    # one message: each costs some 0.1 ms whatever its length
    means = average(torch.cat([tensor.flatten() for tensor in tensors]))
    for tensor, mean in zip(tensors, means.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def synchronise_norms(network, device):
    """Have batch norms that are not frozen take their statistics from the whole batch, in place:
    on GPUs, the only ones that torch has this for.
    """
    if dist.is_initialized() and device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)


def gather(value):
    """The values of all processes, by rank."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    with _together():
        dist.all_gather_object(values, value)
    return values
