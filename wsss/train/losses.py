"""The losses of the networks: ``(network, images, targets) -> dict of scalar tensors``, of which
``train.fit`` minimises the one called "loss".

If several processes train together, each divides the sum over its share of a batch by the mean over
the processes of how many terms were summed, so that the mean of the losses is that of the batch.
They exchange these divisors, which depend on the targets alone, while the network computes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.affinity import STRIDE, affinity_loss, pair_counts, pair_distance, pair_targets
from wsss.errors import InputError
from wsss.geometry import upsample
from wsss.io.artifacts import IGNORE
from wsss.models import DecoderNetwork
from wsss.train.parallel.distributed import all_reduce_mean

Losses = dict[str, Tensor]


def classification_loss(network: nn.Module, images: Tensor, targets: Tensor) -> Losses:
    """Multi-label logistic loss of a CAM network, targets (B, classes) in {0, 1}."""
    return {"loss": F.multilabel_soft_margin_loss(network(images).float(), targets)}


def check_pairs(cells: int, *, radius: int, border_pairs: bool) -> None:
    """Raise InputError if a crop of this many cells a side has no pair for ``pair_loss``."""
    if cells < (least := 2 if border_pairs else 2 * radius - 1):
        given = f"radius {radius}, border_pairs {border_pairs}, crop of {cells} cells"
        raise InputError(f"{given}: no pair of cells fits; set crop to {STRIDE * least} or more")


def pair_loss(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    radius: int,
    reduction: str,
    border_pairs: bool = True,
    released: bool = False,
) -> Losses:
    """Equation 10 (``affinity.affinity_loss`` of ``affinity.pair_distance``) for an affinity
    network; targets (B, h, w) are the affinity labels of its cells.
    """
    check_pairs(min(targets.shape[-2:]), radius=radius, border_pairs=border_pairs)
    pairs = pair_targets(targets.to(torch.uint8), radius=radius, border_pairs=border_pairs)
    counts = all_reduce_mean(pair_counts(pairs))
    distance = pair_distance(
        network(images).float(), radius=radius, reduction=reduction, border_pairs=border_pairs
    )
    terms = affinity_loss(distance, pairs, released=released, counts=counts())._asdict()
    return {"loss": terms.pop("total")} | terms


def segmentation_loss(
    network: nn.Module, images: Tensor, targets: Tensor, *, prior: Tensor | None = None
) -> Losses:
    """Cross-entropy of a segmentation network at stride 4; targets (B, H, W), 255 ignored.
    ``prior`` (classes,) is added to the scores: with the logarithm of each class's share of pixels
    all classes count as equally frequent (logit adjustment, Menon et al., ICLR 2021).
    """
    return {"loss": _pixel_loss(targets, prior)(network(images))}


def decoder_loss(
    network: DecoderNetwork,
    images: Tensor,
    targets: Tensor,
    *,
    prior: Tensor | None = None,
    presence_weight: float = 0.5,
) -> Losses:
    """``segmentation_loss`` plus ``presence_weight`` times the logistic loss of the presence of
    each class in the crop: a share of its labels above 0.2 %, enough to be recognised.
    """
    pixel_loss = _pixel_loss(targets, prior)
    scores, presence = network.with_presence(images)
    pixel = pixel_loss(scores)
    shares = [(targets == k).flatten(1).float().mean(1) for k in range(1, scores.shape[1])]
    shown = (torch.stack(shares, 1) > 0.002).float()
    present = F.multilabel_soft_margin_loss(presence.float(), shown)
    return {"loss": pixel + presence_weight * present, "pixel": pixel, "presence": present}


def _pixel_loss(targets, prior):
    targets = targets[:, ::4, ::4]
    count = all_reduce_mean((targets != IGNORE).sum().float())

    def loss(scores):
        scores = upsample(scores.float(), targets.shape[-2:])
        if prior is not None:
            scores = scores + prior.to(scores)[:, None, None]
        # on a GPU, cross_entropy's own sum may have different bits each time
        reduction = "none" if scores.is_cuda else "sum"
        summed = F.cross_entropy(scores, targets, ignore_index=IGNORE, reduction=reduction).sum()
        mean = count()
        return summed / mean.where(mean > 0, 1)

    return loss
