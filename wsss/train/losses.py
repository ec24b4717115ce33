"""What each network is trained to do: ``(network, images, targets) -> dict of scalar tensors``, of
which ``train.fit`` minimises the one called "loss".

Where processes train together, each value's mean over the processes is that of the whole batch.
What a sum is divided by depends on the targets alone, so the processes tell each other before the
network is at work, and need not wait for each other after it.
"""

import torch
import torch.nn.functional as F

from wsss.affinity import affinity_loss, pair_counts, pair_distance, pair_targets
from wsss.geometry import upsample
from wsss.io.artifacts import IGNORE
from wsss.train.parallel.distributed import averaging


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
    pairs = pair_targets(targets.to(torch.uint8), radius=radius, border_pairs=border_pairs)
    counts = averaging(pair_counts(pairs))
    distance = pair_distance(
        network(images).float(), radius=radius, reduction=reduction, border_pairs=border_pairs
    )
    terms = affinity_loss(distance, pairs, released=released, counts=counts())
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
    pixel_loss = _pixel_loss(targets, prior)
    return {"loss": pixel_loss(network(images))}


def decoder_loss(network, images, targets, *, prior=None, presence_weight=0.5):
    """``segmentation_loss`` of a ``DecoderNetwork``, and ``presence_weight`` times the logistic
    loss of which classes the crop shows.

    A class is present where it has a share of 0.2 % of the crop's labels, enough to be recognised.
    """
    pixel_loss = _pixel_loss(targets, prior)
    scores, presence = network.with_presence(images)
    pixel = pixel_loss(scores)
    shares = [(targets == k).flatten(1).float().mean(1) for k in range(1, scores.shape[1])]
    shown = (torch.stack(shares, 1) > 0.002).float()
    present = F.multilabel_soft_margin_loss(presence.float(), shown)
    return {"loss": pixel + presence_weight * present, "pixel": pixel, "presence": present}


def _pixel_loss(targets, prior):
    """The cross-entropy of scores at stride 4 with targets, as a function of the scores."""
    targets = targets[:, ::4, ::4]
    count = averaging((targets != IGNORE).sum().float())

    def loss(scores):
        scores = upsample(scores.float(), targets.shape[-2:])
        if prior is not None:
            scores = scores + prior.to(scores)[:, None, None]
        # on a GPU the sum, taken inside, may have other bits each time
        reduction = "none" if scores.is_cuda else "sum"
        summed = F.cross_entropy(scores, targets, ignore_index=IGNORE, reduction=reduction).sum()
        mean = count()
        return summed / mean.where(mean > 0, 1)

    return loss
