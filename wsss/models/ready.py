"""Trained networks prepared for inference."""

import copy
from typing import TypeVar

import torch
from torch import nn

from wsss.models.backbones.layers import fold_norms, fuse_activations
from wsss.runtime.devices import pick_device, precision, reuse_memory

Job = TypeVar("Job")


def ready(network: nn.Module) -> nn.Module:
    """Copy a network for inference, onto the GPU where there is one.

    Work on the weights that each photo would repeat is done once: frozen norms are folded into
    their convolutions, and convolutions keep their weights in the precision and memory layout that
    they compute in. On a processor they also apply the activations that follow.
    """
    reuse_memory()
    device = pick_device()
    network = copy.deepcopy(network).to(device).eval().requires_grad_(False)
    fold_norms(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(precision(device)).to(memory_format=torch.channels_last)
    if device.type == "cpu":
        fuse_activations(network)
    return network


def with_ready_networks(job: Job) -> Job:
    """Copy a job, with ``ready`` copies of the networks among its attributes."""
    copied = copy.copy(job)
    for name, value in vars(job).items():
        if isinstance(value, nn.Module):
            setattr(copied, name, ready(value))
    return copied
