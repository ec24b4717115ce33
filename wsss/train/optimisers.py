"""The optimisers, with their groups of parameters: backbone and head, weights and biases."""

from functools import partial
from typing import Any

from torch.optim import SGD, Adam, Optimizer

from wsss.errors import InputError


def build_optimiser(network: Any, schedule) -> Optimizer:
    """The optimiser of a ``train.Schedule``: one group for the backbone and one for the network's
    ``head_parameters()``, at ``head_lr_mult`` times its rate; with ``bias_lr_mult`` other than 1,
    biases in groups of their own, at that factor and without decay, as in the released code.

    ``sgd`` has momentum 0.9. ``sgd_released`` is the optimiser of the authors' code, which passed
    weight_decay as the momentum argument. Raises InputError if another one is given.
    """
    rate, decay = schedule.learning_rate, schedule.weight_decay
    head = network.head_parameters()
    in_head = set(map(id, head))
    backbone = [p for p in network.parameters() if id(p) not in in_head]
    own_groups = schedule.bias_lr_mult != 1
    biases = {id(p) for n, p in network.named_parameters() if own_groups and n.endswith("bias")}
    groups = []
    for parameters, lr in ((backbone, rate), (head, rate * schedule.head_lr_mult)):
        trained = [p for p in parameters if p.requires_grad]
        bias = {"lr": lr * schedule.bias_lr_mult, "weight_decay": 0.0}
        groups.append({"params": [p for p in trained if id(p) not in biases], "lr": lr})
        groups.append({"params": [p for p in trained if id(p) in biases]} | bias)
    released = partial(SGD, momentum=decay)
    optimisers = {"adam": Adam, "sgd": partial(SGD, momentum=0.9), "sgd_released": released}
    if (name := schedule.optimiser) not in optimisers:
        known = ", ".join(optimisers)
        raise InputError(f"optimiser '{name}' is not known; expected one of: {known}")
    return optimisers[name]([group for group in groups if group["params"]], weight_decay=decay)
