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


def averaging(tensor):
    """Begin to take the mean of a float tensor over the processes, in place. Returns a function
    that waits for the others' part and returns the mean, the same bits in each process.

    A sum over one's own share, divided by the mean over the processes of how much was summed, is
    a loss whose mean over the processes is that of the whole batch, however unequal the shares.
    """
    if not dist.is_initialized():
        return lambda: tensor
    with _together():
        work = dist.all_reduce(tensor, async_op=True)  # a sum: gloo has no mean

    def mean():
        with _together():
            work.wait()
        return tensor.div_(dist.get_world_size())

    return mean


def average_step(network, numbers):
    """Put the means over the processes in the place of a network's gradients, and of the running
    statistics of batch norms that see no more than their own share.

    Returns:
        the means of plain numbers, by name, rounded to float32 on their way.
    """
    if not dist.is_initialized():
        return numbers
    tensors = [p.grad for p in network.parameters() if p.grad is not None]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # which a SyncBatchNorm is not
            tensors += [module.running_mean, module.running_var]
    told = tensors[0].new_tensor(list(numbers.values()))
    # in one go, since in each the processes wait for the slowest of them
    parts = [told, *(tensor.flatten() for tensor in tensors)]
    means = averaging(torch.cat(parts))().split([part.numel() for part in parts])
    for tensor, mean in zip(tensors, means[1:], strict=True):
        tensor.copy_(mean.view_as(tensor))
    return dict(zip(numbers, means[0].tolist(), strict=True))


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
