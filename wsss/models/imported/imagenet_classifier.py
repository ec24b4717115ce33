"""A classifier for our classes from the pretrained ImageNet classifier and image labels alone.

Training on few photos makes a network forget: for a rare class it comes to rely on the sky or the
water. The mean of its weights before and after training forgets less (WiSE-FT, Wortsman et al.,
CVPR 2022). That needs a classifier before training, which is built here.
"""

from collections.abc import Sequence
from typing import Any

import torch

from wsss.errors import InputError
from wsss.geometry import rescale
from wsss.models.backbones.catalogue import BACKBONES
from wsss.models.heads import CamNetwork
from wsss.models.state_dicts import Weights, pretrained_state
from wsss.runtime.devices import as_batch, autocast, pick_device
from wsss.runtime.progress import progress

LONG_SIDE = 256  # pixels; about as in the training of ImageNet classifiers


@torch.no_grad()
def init_from_imagenet(
    network: CamNetwork, backbone: str, *, weights: Weights, dataset: Any, ids: Sequence[str]
) -> None:
    """Set a CAM network's classifier, in place: each class becomes a mixture of ImageNet's classes,
    weighted by how much more probable they are on the photos with its label than on the others.

    ``network`` is by ``build_cam`` with this backbone and these weights. ``ids`` are the training
    photos of ``dataset``; only their image labels are read. Raises InputError if the weights are
    random, or hold no classifier.
    """
    if not weights:
        raise InputError("wise_ft_alpha needs ImageNet weights; set weights, or wise_ft_alpha to 0")
    if len(network.adapt):
        raise InputError(
            "wise_ft_alpha needs a classifier on the backbone itself; set head_channels or "
            "wise_ft_alpha to 0"
        )
    state, source = pretrained_state(BACKBONES[backbone], weights)
    layers = [name for name in ("fc", "classifier.1") if f"{name}.weight" in state]
    if not layers:
        raise InputError(
            f"{source}: has no classifier ('fc' or 'classifier.1') to start from; set "
            "wise_ft_alpha to 0"
        )
    weight, bias = (state[f"{layers[0]}.{part}"].float() for part in ("weight", "bias"))
    device = pick_device()
    network.to(device).to(memory_format=torch.channels_last).eval()
    guesses = []
    for photo_id in progress(ids, "read the ImageNet classifier", total=len(ids)):
        photo = as_batch(dataset.image(photo_id), device)
        photo = rescale(photo, LONG_SIDE / max(photo.shape[-2:]))
        with autocast(device):
            features = network.backbone(photo.contiguous(memory_format=torch.channels_last))[-1]
        guesses.append((features.float().mean((2, 3)).cpu() @ weight.T + bias).softmax(1)[0])
    guesses = torch.stack(guesses)  # (photos, 1000)
    labels = torch.stack([torch.as_tensor(dataset.label_vector(photo_id)) for photo_id in ids])
    # (classes, 1000): how much more probable each ImageNet class is on the photos of a class
    present, absent = (
        (mask.T @ guesses) / mask.sum(0).clamp(min=1)[:, None] for mask in (labels, 1 - labels)
    )
    # the mean of all ImageNet classes' weights does not tell classes apart
    rows = (present - absent).clamp(min=0) @ (weight - weight.mean(0))
    network.classifier.weight.copy_(rows[:, :, None, None])


@torch.no_grad()
def interpolate(network: CamNetwork, start: CamNetwork, *, alpha: float) -> None:
    """Replace a trained network's weights by ``(1 - alpha) * network + alpha * start``, in place.
    ``start``, of the same architecture, is from ``init_from_imagenet``; its classifier is first
    rescaled to the trained one's length.
    """
    length = network.classifier.weight.norm() / start.classifier.weight.norm()
    begun = start.state_dict()
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            scale = length if name.startswith("classifier.") else 1.0
            tensor.lerp_(begun[name].to(tensor) * scale, alpha)
