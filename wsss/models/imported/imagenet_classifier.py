"""What the pretrained classifier already knows about our classes, learnt from image labels alone.

Training on few photos makes a network forget: for a rare class it comes to trust the sky or the
water. The mean of its weights and of the weights it started from forgets less (WiSE-FT, Wortsman et
al., CVPR 2022). For that the start needs a classifier too, and the pretrained one has it: the
ImageNet classes that the photos of a class are taken for.
"""

import torch
import torch.nn.functional as F

from wsss.errors import InputError
from wsss.models.backbones.catalogue import BACKBONES
from wsss.models.state_dicts import pretrained_state
from wsss.runtime.devices import as_batch, autocast, pick_device
from wsss.runtime.progress import progress

LONG_SIDE = 256  # pixels; near what ImageNet classifiers are trained on


@torch.no_grad()
def init_from_imagenet(network, backbone, weights, dataset, ids):
    """Set a CAM network's classifier from the pretrained one, in place.

    Each class becomes a mixture of ImageNet's classes, weighted by how much more probable they are
    on the photos that bear its label than on the others.

    Args:
        network: a ``CamNetwork`` whose backbone has the pretrained weights.
        backbone, weights: as for ``build_cam``.
        dataset, ids: the training photos; only their image labels are read.

    Raises:
        InputError: the weights are random, or hold no classifier.
    """
    if not weights:
        raise InputError("wise_ft_alpha needs pretrained weights; set weights, or the share to 0")
    if len(network.adapt):
        raise InputError(
            "wise_ft_alpha needs a classifier on the backbone itself; set head_channels or the "
            "share to 0"
        )
    state, source = pretrained_state(BACKBONES[backbone], weights)
    layers = [
        (state[f"{name}.weight"], state[f"{name}.bias"])
        for name in ("fc", "classifier.1")
        if f"{name}.weight" in state
    ]
    if not layers:
        raise InputError(
            f"{source}: has no classifier ('fc' or 'classifier.1') to start from; set "
            "wise_ft_alpha to 0"
        )
    weight, bias = (tensor.float() for tensor in layers[0])
    device = pick_device()
    network.to(device, memory_format=torch.channels_last).eval()
    guesses = []
    for id in progress(ids, "read the ImageNet classifier", total=len(ids)):
        photo = as_batch(dataset.image(id), device)
        scale = LONG_SIDE / max(photo.shape[-2:])
        photo = F.interpolate(
            photo,
            [max(1, round(side * scale)) for side in photo.shape[-2:]],
            mode="bilinear",
            align_corners=False,
            antialias=scale < 1,
        )
        with autocast(device):
            features = network.backbone(photo.contiguous(memory_format=torch.channels_last))[-1]
        guesses.append((features.float().mean((2, 3)).cpu() @ weight.T + bias).softmax(1)[0])
    guesses = torch.stack(guesses)  # (photos, 1000)
    labels = torch.stack([torch.as_tensor(dataset.label_vector(id)) for id in ids])
    others = 1 - labels
    # (classes, 1000): how much more probable each ImageNet class is on the photos of a class
    lift = (labels.T @ guesses) / labels.sum(0).clamp(min=1)[:, None] - (
        others.T @ guesses
    ) / others.sum(0).clamp(min=1)[:, None]
    # what all of ImageNet's classes have in common says nothing about any of them
    rows = lift.clamp(min=0) @ (weight - weight.mean(0))
    network.classifier.weight.copy_(rows[:, :, None, None])


@torch.no_grad()
def interpolate(network, start, share):
    """Replace a trained network's weights by their mean with its start's, in place.

    Args:
        network: a trained ``CamNetwork``.
        start: another of the same architecture, see ``init_from_imagenet``; its classifier is
            first rescaled to the trained one's length.
        share: of the start, in [0, 1].
    """
    length = network.classifier.weight.norm() / start.classifier.weight.norm()
    begun = start.state_dict()
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            scale = length if name.startswith("classifier.") else 1.0
            tensor.lerp_(begun[name].to(tensor) * scale, share)
