"""Training in several processes: what DistributedDataParallel leaves to do. In one: nothing."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]


def rank() -> int:
    """The number of this process. Process 0 reports metrics and writes checkpoints."""
    return dist.get_rank() if dist.is_initialized() else 0


class Objective(nn.Module):
    """A network with its loss as ``forward``, which is all that DistributedDataParallel tracks."""

    no_sync = staticmethod(nullcontext)  # as DistributedDataParallel's, with nothing to suspend

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, images: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.loss(self.network, images, targets)


def distribute(network: nn.Module, loss: Loss) -> Objective | DistributedDataParallel:
    """The objective of a network, whose backward pass averages gradients over the processes.

    On GPUs, batch norms that are not frozen are replaced in place by SyncBatchNorm, which sees the
    whole batch. On CPUs each process normalises its share, and ``sync_step`` averages the running
    statistics.
    """
    if not dist.is_initialized():
        return Objective(network, loss)
    if next(network.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
    # DistributedDataParallel regroups gradients into messages after its first backward pass, and a
    # sum over 3 or more processes is rounded according to its place in a message. With this as the
    # first pass the messages of resumed training are those of uninterrupted training.
    objective = Objective(network, _sum_parameters)
    parallel = DistributedDataParallel(objective, gradient_as_bucket_view=True)
    parallel.broadcast_buffers = False  # sync_step averages them; the argument is deprecated
    parallel(None, None)["loss"].backward()
    objective.loss = loss
    return parallel


def _sum_parameters(network, *_):
    return {"loss": sum((each.sum() for each in network.parameters()), torch.zeros(()))}


def all_reduce_mean(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Start to average a float tensor over the processes, in place. The returned function waits
    for the mean, whose bits are the same in every process.
    """
    if not dist.is_initialized():
        return lambda: tensor
    work = dist.all_reduce(tensor, async_op=True)  # a sum: gloo has no mean

    def mean() -> torch.Tensor:
        work.wait()
        return tensor.div_(dist.get_world_size())

    return mean


def sync_step(network: nn.Module, values: dict[str, float]) -> dict[str, float]:
    """The means over the processes of a step's values, rounded to float32. The same message
    averages running statistics of batch norms, except those of SyncBatchNorm.
    """
    if not dist.is_initialized():
        return values
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    numbers = next(network.parameters()).new_tensor(list(values.values()))
    tensors = [numbers, *(each for norm in norms for each in (norm.running_mean, norm.running_var))]
    means = all_reduce_mean(torch.cat(tensors))().split([len(tensor) for tensor in tensors])
    for tensor, mean in zip(tensors, means, strict=True):
        tensor.copy_(mean)
    return dict(zip(values, numbers.tolist(), strict=True))


def gather(value: Any) -> list[Any]:
    """The values of all processes, by rank."""
    values = [value]
    if dist.is_initialized():
        values *= dist.get_world_size()
        dist.all_gather_object(values, value)
    return values
