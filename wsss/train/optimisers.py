"""The optimisers, with their groups of parameters: backbone and head, weights and biases."""

from typing import Any

import torch

from wsss.errors import InputError

OPTIMISERS = ("adam", "sgd", "sgd_released")


def build_optimiser(network: Any, schedule) -> torch.optim.Optimizer:
    """The optimiser of a ``train.Schedule``: one group for the backbone and one for the head, at
    ``head_lr_mult`` times its rate; with ``bias_lr_mult`` other than 1, biases in groups of their
    own, at that factor and without decay, as in Caffe's recipes and the released code.

    ``sgd`` has momentum 0.9. ``sgd_released`` is the optimiser of the authors' code, which passed
    weight_decay as the momentum argument.

    Args:
        network: a module with ``head_parameters()``.

    Raises:
        InputError: ``schedule.optimiser`` is not known.
    """
    rate, decay = schedule.learning_rate, schedule.weight_decay
    head = network.head_parameters()
    in_head = set(map(id, head))
    backbone = [p for p in network.parameters() if id(p) not in in_head]
    biases = {id(p) for name, p in network.named_parameters() if name.endswith("bias")}
    if schedule.bias_lr_mult == 1:
        biases = set()
    groups = []
    for parameters, lr in ((backbone, rate), (head, rate * schedule.head_lr_mult)):
        trained = [p for p in parameters if p.requires_grad]
        bias = {"lr": lr * schedule.bias_lr_mult, "weight_decay": 0.0}
        groups.append({"params": [p for p in trained if id(p) not in biases], "lr": lr})
        groups.append({"params": [p for p in trained if id(p) in biases]} | bias)
    groups = [group for group in groups if group["params"]]
    if schedule.optimiser == "adam":
        return torch.optim.Adam(groups, weight_decay=decay)
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=decay)
    if schedule.optimiser == "sgd_released":
        return torch.optim.SGD(groups, momentum=decay, weight_decay=decay)
    raise InputError(
        f"optimiser '{schedule.optimiser}' is not known; expected one of: {', '.join(OPTIMISERS)}"
    )
