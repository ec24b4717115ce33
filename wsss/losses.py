"""What each network is trained to do: ``(network, images, targets) -> dict of scalar tensors``, of
which ``train.fit`` minimises the one called "loss".

Where processes train together, each value's mean over the processes is that of the whole batch.
"""

import torch
import torch.nn.functional as F

from wsss.affinity import IGNORED, affinity_loss, pair_distance, pair_targets
from wsss.data_parallel import average
from wsss.datasets.voc import IGNORE
from wsss.geometry import upsample


def classification_loss(network, images, targets):
    """Multi-label logistic loss of a CAM network, targets (B, classes) in {0, 1}."""
    return {"loss": F.multilabel_soft_margin_loss(network(images).float(), targets)}


def pair_loss(
    network,
    images,
    targets,
    *,
    radius,
    reduction,
    border_pairs=True,
    released=False,
):
    """Equation 10 for an affinity network; targets (B, h, w) are the affinity labels of its cells.

    ``radius``, ``reduction`` and ``border_pairs`` as for ``affinity.pair_distance``, ``released``
    as for ``affinity_loss``.
    """
    features = network(images).float()
    distance = pair_distance(
        features, radius=radius, reduction=reduction, border_pairs=border_pairs
    )
    pairs = pair_targets(targets.to(torch.uint8), radius=radius).masked_fill(
        distance.isinf(), IGNORED
    )
    terms = affinity_loss(distance, pairs, released=released, counted=average)
    return {
        "loss": terms.total,
        "foreground": terms.foreground,
        "background": terms.background,
        "negative": terms.negative,
    }


def segmentation_loss(network, images, targets, *, prior=None):
    """Cross-entropy of a segmentation network at stride 4; targets (B, H, W), 255 ignored.

    Args:
        prior: (classes,) added to the scores: with the logarithm of each class's share the network
            learns scores as if all classes were equally frequent (logit adjustment, Menon et al.,
            ICLR 2021).
    """
    return {"loss": _pixel_loss(network(images), targets, prior)}


def decoder_loss(network, images, targets, *, prior=None, presence_weight=0.5):
    """``segmentation_loss`` of a ``DecoderNetwork``, and ``presence_weight`` times the logistic
    loss of which classes the crop shows.

    A class is present where it has a share of 0.2 % of the crop's labels, enough to be recognised.
    """
    scores, presence = network.with_presence(images)
    pixel = _pixel_loss(scores, targets, prior)
    shares = [(targets == k).flatten(1).float().mean(1) for k in range(1, scores.shape[1])]
    shown = (torch.stack(shares, 1) > 0.002).float()
    present = F.multilabel_soft_margin_loss(presence.float(), shown)
    return {"loss": pixel + presence_weight * present, "pixel": pixel, "presence": present}


def _pixel_loss(scores, targets, prior):
    targets = targets[:, ::4, ::4]
    scores = upsample(scores.float(), targets.shape[-2:])
    if prior is not None:
        scores = scores + prior.to(scores)[:, None, None]
    # on a GPU the sum, taken inside, may have other bits each time
    reduction = "none" if scores.is_cuda else "sum"
    summed = F.cross_entropy(scores, targets, ignore_index=IGNORE, reduction=reduction).sum()
    count = average((targets != IGNORE).sum().to(summed))
    return summed / count.where(count > 0, 1)
