"""What the networks are trained to do, against the definitions written out."""

import numpy as np
import pytest
import torch

from wsss.affinity import neighbour_offsets
from wsss.models import build_affinity, build_segmentation
from wsss.train import losses


def test_losses_of_the_real_networks_reach_every_parameter():
    images = torch.rand(2, 3, 48, 48)
    masks = torch.zeros(2, 48, 48, dtype=torch.long)
    masks[:, :24] = 1
    masks[0, :, :8] = 255
    affinity = build_affinity("small", reduced=(4, 6, 8))
    terms = losses.pair_loss(affinity, images, masks[:, ::8, ::8], radius=5, reduction="mean")
    assert terms["loss"].item() == pytest.approx(
        (terms["foreground"] + terms["background"] + 2 * terms["negative"]).item(), rel=1e-6
    )
    terms["loss"].backward()
    segmentation = build_segmentation("small", 5, channels=16)
    loss = losses.segmentation_loss(segmentation, images, masks)["loss"]
    loss.backward()
    decoder = build_segmentation("small", 5, channels=16, low_level_channels=[4, 6])
    losses.decoder_loss(decoder, images, masks)["loss"].backward()
    for net in (affinity, segmentation, decoder):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    everything_ignored = losses.segmentation_loss(
        segmentation, images, torch.full_like(masks, 255)
    )["loss"]
    assert everything_ignored.item() == 0


def test_border_pairs_left_out_change_the_means_and_nothing_else():
    torch.manual_seed(0)
    features = torch.randn(2, 6, 12, 14)
    labels = torch.randint(0, 3, (2, 12, 14))
    terms = losses.pair_loss(
        lambda _: features, None, labels, radius=5, reduction="mean", border_pairs=False
    )
    found = {1: [], 2: [], 3: []}
    for b, y, x in np.ndindex(2, 12, 14):
        if y >= 8 or not 4 <= x < 10:
            continue
        for dy, dx in neighbour_offsets(5):
            gap = (features[b, :, y, x] - features[b, :, y + dy, x + dx]).abs().mean()
            here, there = labels[b, y, x], labels[b, y + dy, x + dx]
            found[3 if here != there else 1 if here == 0 else 2].append(gap)
    means = {kind: torch.stack(gaps) for kind, gaps in found.items()}
    torch.testing.assert_close(terms["background"], means[1].mean())
    torch.testing.assert_close(terms["foreground"], means[2].mean())
    torch.testing.assert_close(terms["negative"], -(1 - (-means[3]).exp()).log().mean())


def test_a_prior_is_what_the_network_need_not_learn():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 2, 3, generator=generator)  # at stride 4
    targets = torch.randint(0, 3, (2, 8, 12), generator=generator)
    targets[0, 4] = 255
    shares = torch.tensor([0.7, 0.2, 0.1])
    loss = losses.segmentation_loss(lambda _: scores, None, targets, prior=shares.log())["loss"]
    expected = []
    for b, y, x in np.ndindex(2, 2, 3):
        k = targets[b, 4 * y, 4 * x]
        if k != 255:
            weighed = shares * scores[b, :, y, x].exp()
            expected.append(-(weighed[k] / weighed.sum()).log())
    assert len(expected) == 9
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_presence_is_what_the_labels_show_enough_of():
    class Fixed:
        def with_presence(self, images):
            return torch.zeros(1, 4, 10, 10), torch.tensor([[2.0, -1.0, 0.5]])

    targets = torch.zeros(1, 40, 40, dtype=torch.long)
    targets[0, :2, :2] = 1  # 0.25 %
    targets[0, 20, :3] = 2  # 0.19 %
    terms = losses.decoder_loss(Fixed(), None, targets, presence_weight=0.3)
    probability = torch.tensor([2.0, -1.0, 0.5]).sigmoid()
    expected = -(probability[0].log() + (1 - probability[1:]).log().sum()) / 3
    torch.testing.assert_close(terms["presence"], expected)
    torch.testing.assert_close(terms["pixel"], torch.tensor(4.0).log())
    torch.testing.assert_close(terms["loss"], terms["pixel"] + 0.3 * expected)
