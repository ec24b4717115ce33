"""The optimisers, with their groups of parameters: backbone and head, weights and biases."""

import torch

from wsss.errors import InputError

OPTIMISERS = ("adam", "sgd", "sgd_released")


def build_optimiser(
    network, name, *, learning_rate, head_lr_mult=10.0, bias_lr_mult=1.0, weight_decay=5e-4
):
    """The optimiser with its groups: the backbone, and the head at ``head_lr_mult`` times its rate;
    where ``bias_lr_mult`` is not 1, biases apart from weights, at that factor and without decay, as
    Caffe's recipes and the released code have them.

    ``sgd`` has momentum 0.9. ``sgd_released`` is what the authors' code ran: the weight decay also
    stood in the momentum's position, so momentum is 5e-4.
    """
    head = network.head_parameters()
    in_head = {id(parameter) for parameter in head}
    backbone = [p for p in network.parameters() if id(p) not in in_head and p.requires_grad]
    groups = [
        {"params": backbone, "lr": learning_rate},
        {
            "params": [p for p in head if p.requires_grad],
            "lr": learning_rate * head_lr_mult,
        },
    ]
    if bias_lr_mult != 1:
        biases = {id(p) for name, p in network.named_parameters() if name.endswith("bias")}
        groups = [
            {"params": [p for p in group["params"] if (id(p) in biases) == apart], "lr": rate} | own
            for group in groups
            for apart, rate, own in (
                (False, group["lr"], {}),
                (True, group["lr"] * bias_lr_mult, {"weight_decay": 0.0}),
            )
        ]
    groups = [group for group in groups if group["params"]]
    if name == "adam":
        return torch.optim.Adam(groups, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=weight_decay)
    if name == "sgd_released":
        return torch.optim.SGD(groups, momentum=weight_decay, weight_decay=weight_decay)
    raise InputError(f"optimiser '{name}' is not known; expected one of: {', '.join(OPTIMISERS)}")
