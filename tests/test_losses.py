"""What the networks are trained to do, against the definitions written out."""

from itertools import count

import numpy as np
import pytest
import torch

from wsss.affinity import affinity_loss, neighbour_offsets, pair_distance, pair_targets
from wsss.errors import InputError
from wsss.geometry import upsample
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


@pytest.mark.parametrize("border_pairs", [True, False])
@pytest.mark.parametrize("radius", [2, 3, 5])
def test_only_a_crop_too_small_for_any_pair_is_refused(radius, border_pairs):
    given = {"radius": radius, "border_pairs": border_pairs}
    grids = (torch.zeros(1, side, side, dtype=torch.uint8) for side in count(1))
    least = next(grid.shape[-1] for grid in grids if pair_targets(grid, **given).any())
    losses.check_pairs(least, **given)
    with pytest.raises(InputError, match=f"set crop to {8 * least} or more"):
        losses.check_pairs(least - 1, **given)
    high, broad = torch.zeros(1, 20, least - 1), torch.zeros(1, least - 1, 20)
    for targets in (high, broad):
        with pytest.raises(InputError, match="no pair of cells fits"):
            losses.pair_loss(torch.nn.Identity(), None, targets, reduction="mean", **given)


def test_the_classifier_s_loss_is_the_mean_logistic_loss():
    scores = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    targets = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    chances = 1 / (1 + np.exp(-scores.double().numpy()))
    expected = -np.log(np.where(targets > 0, chances, 1 - chances)).mean()
    terms = losses.classification_loss(lambda _: scores.bfloat16(), None, targets)
    assert terms.keys() == {"loss"} and terms["loss"].item() == pytest.approx(expected)


def cross_entropy_by_hand(scores, targets):
    """The mean over the labelled pixels, every fourth of each row and column."""
    costs = []
    for b, y, x in np.ndindex(len(targets), *scores.shape[-2:]):
        if (k := targets[b, 4 * y, 4 * x].item()) != 255:
            costs.append(-scores[b, :, y, x].double().log_softmax(0)[k].item())
    return np.mean(costs)


@pytest.mark.parametrize("size", [(9, 14), (12, 13)])
def test_pixels_cost_their_cross_entropy_at_stride_4(size):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(2, 3, 2, 2, generator=generator)  # at stride 8
    targets = torch.randint(0, 3, (2, *size), generator=generator)
    targets[:, 4], targets[1, 0] = 255, 255
    scores = upsample(coarse, (3, 4))
    terms = losses.segmentation_loss(lambda _: coarse, None, targets)
    assert terms["loss"].item() == pytest.approx(cross_entropy_by_hand(scores, targets), rel=1e-5)


def test_the_divisor_is_the_mean_over_the_processes(monkeypatch):
    """Of one labelled pixel in two processes each counts half."""
    targets = torch.full((1, 4, 8), 255)
    targets[0, 0, 4] = 1
    scores = torch.tensor([0.2, 0.9]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    alone = losses.segmentation_loss(lambda _: scores, None, targets)["loss"]
    monkeypatch.setattr(losses, "all_reduce_mean", lambda count: lambda: count / 2)
    halved = losses.segmentation_loss(lambda _: scores, None, targets)["loss"]
    torch.testing.assert_close(halved, 2 * alone)
    torch.testing.assert_close(alone, -torch.tensor([0.2, 0.9]).log_softmax(0)[1])


def test_pairs_have_the_paper_s_loss_unless_the_released_one_is_asked_for():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 4, 6, 7, generator=generator)
    labels = torch.randint(0, 3, (1, 6, 7), generator=generator)
    pairs = pair_targets(labels.to(torch.uint8), radius=3)
    for reduction in ("mean", "sum"):
        distance = pair_distance(features, radius=3, reduction=reduction)
        for released, options in ((False, {}), (True, {"released": True})):
            terms = losses.pair_loss(
                lambda _: features, None, labels, radius=3, reduction=reduction, **options
            )
            expected = affinity_loss(distance, pairs, released=released)
            assert list(terms) == ["loss", "foreground", "background", "negative"]
            torch.testing.assert_close(list(terms.values()), list(expected))


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
        def with_presence(self, images, size=(10, 10)):
            return torch.zeros(1, 4, *(images or size)), torch.tensor([[2.0, -1.0, 0.5]])

    targets = torch.zeros(1, 40, 40, dtype=torch.long)
    targets[0, :2, :2] = 1  # 0.25 %
    targets[0, 20, :3] = 2  # 0.19 %
    terms = losses.decoder_loss(Fixed(), None, targets, presence_weight=0.3)
    probability = torch.tensor([2.0, -1.0, 0.5]).sigmoid()
    expected = -(probability[0].log() + (1 - probability[1:]).log().sum()) / 3
    torch.testing.assert_close(terms["presence"], expected)
    torch.testing.assert_close(terms["pixel"], torch.tensor(4.0).log())
    torch.testing.assert_close(terms["loss"], terms["pixel"] + 0.3 * expected)
    few = torch.zeros(1, 20, 25, dtype=torch.long)
    few[0, 1, 1] = 2  # 0.2 %, and no more
    assert torch.equal(
        losses.decoder_loss(Fixed(), (5, 7), few)["presence"],
        losses.decoder_loss(Fixed(), (5, 7), torch.zeros_like(few))["presence"],
    )
    default = losses.decoder_loss(Fixed(), None, targets)
    torch.testing.assert_close(default["loss"], terms["pixel"] + 0.5 * expected)
    prior = torch.tensor([0.7, 0.1, 0.1, 0.1]).log()
    adjusted = losses.decoder_loss(Fixed(), None, targets, prior=prior)
    whole = losses.segmentation_loss(
        lambda _: torch.zeros(1, 4, 10, 10), None, targets, prior=prior
    )
    torch.testing.assert_close(adjusted["pixel"], whole["loss"])
