"""Training in two processes compared with training in one: the same steps, whatever the shares; the
same bits when it is interrupted; the same errors.
"""

import json
import os
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from test_interruptions import SCHEDULE, Network, assert_same, patches, pixel_loss
from test_train import network, points, squared
from torch import nn
from torch.multiprocessing import spawn

from tests.toys import Noise
from wsss.datasets.transforms import cut_mix
from wsss.errors import InputError
from wsss.models import build_affinity, build_cam, build_segmentation
from wsss.models.backbones.layers import freeze_batch_norm
from wsss.train import checkpoints, divergence, losses
from wsss.train.loop import Schedule, fit, fit_soup
from wsss.train.parallel import distributed, messages
from wsss.train.parallel.launch import launch

TWO = replace(SCHEDULE, train_processes=2)


def tags(picture):
    return (picture.mean((1, 2)) > 0).float()


def regions(picture):
    """Labels of pixels, of which each picture has another share: the rest is 255."""
    smooth = F.avg_pool2d(picture[None], 9, 1, 4)[0]
    known = smooth[2] > 4 * picture.mean()
    return torch.where(known, (smooth[:2].argmax(0) + (smooth[0] > 0)), 255)


def cells(picture):
    return regions(picture)[::8, ::8].contiguous()


KINDS = {
    "classification": (
        partial(build_cam, "small", 3, dropout=0.0, frozen_stages=1),
        losses.classification_loss,
        tags,
        0.005,
    ),
    "affinity": (
        partial(build_affinity, "small", reduced=(4, 6, 8)),
        partial(losses.pair_loss, radius=3, reduction="mean"),
        cells,
        0.0005,  # a larger one overshoots, and what is rounded otherwise grows quickly
    ),
    "segmentation": (
        partial(
            build_segmentation, "small", 3, channels=8, dilation=8, activation_checkpointing=True
        ),
        losses.segmentation_loss,
        regions,
        0.02,
    ),
}


def without_chance(build):
    """A network without dropout, whose batch norms are frozen."""
    torch.manual_seed(0)
    net = build()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # as much as torch's first weights and a ReLU take
            nn.init.constant_(module.weight, 6**0.5)
    freeze_batch_norm(net.backbone)
    for module in net.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    return net


def steps_of(kind, processes, folder):
    """The losses of each of 20 steps, and the weights they lead to."""
    build, loss, target, rate = KINDS[kind]
    schedule = Schedule(
        epochs=20,  # of one step each
        batch_size=12,
        accumulation_steps=3,
        learning_rate=rate,
        head_lr_mult=1.0,
        workers=0,
        train_processes=processes,
    )
    net = without_chance(build)
    history = fit(net, Noise(48, target), loss=loss, schedule=schedule, folder=folder)
    speed = {"images_per_second", "learning_rate"}
    return [{k: v for k, v in each.items() if k not in speed} for each in history], net.state_dict()


@pytest.mark.parametrize("kind", ["classification", "affinity", "segmentation"])
def test_two_processes_take_the_steps_of_one(tmp_path, kind):
    expected, weights = steps_of(kind, 1, tmp_path / "1")
    found, others = steps_of(kind, 2, tmp_path / "2")
    assert len(found) == 20 and expected[-1]["loss"] < 0.95 * expected[0]["loss"]
    for one, other in zip(expected, found, strict=True):
        assert other == pytest.approx(one, abs=1e-4)
    for name, tensor in weights.items():
        torch.testing.assert_close(others[name], tensor, rtol=1e-3, atol=1e-4)


class Headed(nn.Module):
    """A batch norm, a frozen layer and two heads, of which a loss calls only ``scores``."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.norm, self.frozen = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.frozen.requires_grad_(False)
        self.head = nn.Conv2d(8, 4, 3, bias=False)
        self.to(memory_format=torch.channels_last)

    def scores(self, images):
        return self.head(self.frozen(self.norm(images)))

    def forward(self, images):
        raise AssertionError("the loss calls another method")


def square_scores(net, images, _):
    return {"loss": net.scores(images).square().mean()}


def synchronised(folder):
    """What this process computes alone for two parts, and what both make of it."""
    rank = distributed.rank()
    generator = torch.Generator().manual_seed(rank)
    parts = [torch.randn(2, 8, 6, 6, generator=generator) for _ in range(2)]
    alone, net = Headed(), Headed()
    for part in parts:
        square_scores(alone, part, None)["loss"].backward()
    objective = distributed.distribute(net, square_scores)
    net.zero_grad()
    with objective.no_sync():
        objective(parts[0], None)["loss"].backward()
    objective(parts[1], None)["loss"].backward()
    numbers = distributed.sync_step(net, {"b": rank, "a": 0.1})
    assert net.head.weight.grad.is_contiguous(memory_format=torch.channels_last)
    assert list(net.state_dict()) == list(Headed().state_dict())
    found = [
        {f"{name}.grad": each.grad for name, each in network.named_parameters()}
        | network.state_dict()
        for network in (alone, net)
    ]
    torch.save(found, folder / f"{rank}.pt")
    return numbers, distributed.gather(f"of {rank}")


def test_gradients_statistics_and_values_are_means_over_the_processes(tmp_path):
    """Of gradients and running statistics, while the weights stay."""
    numbers, gathered = launch(synchronised, tmp_path, processes=2)
    assert numbers == pytest.approx({"b": 0.5, "a": 0.1}) and gathered == ["of 0", "of 1"]
    (one, both), (other, same) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert one["norm.running_mean"].ne(other["norm.running_mean"]).all()
    assert both["frozen.weight.grad"] is None and both["head.weight.grad"] is not None
    for name, tensor in both.items():
        if tensor is not None and tensor.is_floating_point():
            assert torch.equal(tensor, same[name])
            torch.testing.assert_close(tensor, (one[name] + other[name]) / 2)


def first_and_second_gradient(folder):
    """Gradients of the same batch and weights at the first two steps."""
    rank = distributed.rank()
    objective = distributed.distribute(without_chance(KINDS["segmentation"][0]), first_output)
    images = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(rank))
    found = []
    for _ in range(2):
        objective.zero_grad()
        objective(images, None)["loss"].backward()
        found.append([each.grad.clone() for each in objective.parameters()])
    torch.save(found, folder / f"{rank}.pt")


def first_output(net, images, _):
    return {"loss": net(images).square().mean()}


def test_sums_over_three_processes_are_rounded_alike_at_every_step(tmp_path):
    """As resumed training needs, whose first step is a later one of uninterrupted training."""
    launch(first_and_second_gradient, tmp_path, processes=3)
    first, second = torch.load(tmp_path / "0.pt")
    assert all(map(torch.equal, first, second)) and all(each.any() for each in first)


def lost(rank, folder):
    """What operations raise when the peer is gone."""
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    net = Headed()
    objective = distributed.distribute(net, square_scores)
    images = torch.randn(2, 8, 6, 6)
    found = []
    distributed.gather(rank)
    if rank == 0:
        for act in (
            lambda: objective(images, None)["loss"].backward(),
            lambda: distributed.sync_step(net, {"loss": 1.0}),
            lambda: distributed.gather(rank),
        ):
            with pytest.raises(messages.PeerLost) as error:
                divergence.explain_dead_workers(act)
            found.append(str(error.value))
        (folder / "found.json").write_text(json.dumps(found))
    os._exit(0)


def test_a_lost_peer_is_named_in_one_line(tmp_path):
    spawn(lost, (tmp_path,), 2)
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == 3
    for each in found:
        assert "another training process is gone (" in each and "\n" not in each


class Noted:
    """CutMix, which notes what each process's generator gives next."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, images, targets):
        with (self.folder / f"draws_{distributed.rank()}").open("a") as file:
            print(float(torch.rand(())), len(images), file=file)
        return cut_mix(images, targets, share=0.5)


class Deadly:
    """A loss that kills process 1 at its fifth call."""

    calls = 0

    def __call__(self, *given):
        self.calls += 1
        if self.calls == 5 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return pixel_loss(*given)


def trained_by_two(folder, *, members=1, stop=None, loss=pixel_loss):
    """The weights and losses of training with dropout, CutMix and a batch norm that learns."""
    folder.mkdir(exist_ok=True)

    def stopped(epoch, _):
        if epoch == stop:
            raise KeyboardInterrupt

    net = Network()
    given = {"folder": folder, "mix": Noted(folder), "on_epoch": stopped}
    history = fit_soup(net, patches(), loss=loss, schedule=TWO, soup_size=members, **given)
    return net.state_dict(), [metrics["loss"] for metrics in history]


def test_interrupted_training_in_two_processes_ends_with_the_same_bits(tmp_path):
    expected = trained_by_two(tmp_path / "a")
    message = r"training process 1 was killed \(signal 9\).*same command again to resume"
    with pytest.raises(RuntimeError, match=message) as error:
        trained_by_two(tmp_path / "b", loss=Deadly())
    assert "\n" not in str(error.value)
    with pytest.raises(KeyboardInterrupt):  # both are killed, wherever they are
        trained_by_two(tmp_path / "b", stop=1)
    found = trained_by_two(tmp_path / "b")
    assert_same(found, expected)
    draws = [(tmp_path / "a" / f"draws_{rank}").read_text().splitlines() for rank in range(2)]
    assert len(draws[0]) == len(draws[1]) == 12 and not set(draws[0]) & set(draws[1])
    assert {line.split()[1] for line in draws[0] + draws[1]} == {"2"}


@pytest.mark.slow  # two trainings in two processes
def test_a_soup_is_trained_in_two_processes(tmp_path):
    weights, history = trained_by_two(tmp_path, members=2)
    found = [torch.load(tmp_path / f"member_{member}.pt") for member in range(2)]
    assert len(history) == 8 and history[:4] == [each["loss"] for each in found[0]["history"]]
    for name, tensor in weights.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, sum(each["network"][name] for each in found) / 2)


class Diverging:
    """A loss that is NaN at the sixth step in one process."""

    def __init__(self):
        self.calls = 0

    def __call__(self, net, images, targets):
        values = squared(net, images, targets)
        self.calls += 1
        if self.calls == 6 and distributed.rank() == 1:
            values["loss"] = values["loss"] * float("nan")
        return values


def test_training_that_diverges_in_one_process_stops_in_all(tmp_path):
    net = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    schedule = replace(TWO, accumulation_steps=1)
    message = "at step 5 of 12: the loss is nan; the last good checkpoint is .*, of step 5; lower"
    with pytest.raises(FloatingPointError, match=message) as fault:
        fit(net, points(), loss=Diverging(), schedule=schedule, folder=tmp_path)
    assert "\n" not in str(fault.value)
    assert checkpoints.newest(tmp_path / "checkpoint.pt", "cpu")["state"]["step"] == 5
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_checkpoint_of_other_processes_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    fit(network(), points(), loss=squared, schedule=replace(SCHEDULE, epochs=1), folder=tmp_path)
    saved = checkpoints.newest(path, "cpu")
    checkpoints.save(path, saved | {"generators": 2 * saved["generators"]})
    net = network()
    with pytest.raises(
        InputError, match=r"of 1 training processes, got one of 2; set train_processes to 2"
    ):
        fit(net, points(), loss=squared, schedule=SCHEDULE, folder=tmp_path)
    for tensor, expected in zip(net.parameters(), network().parameters(), strict=True):
        assert torch.equal(tensor, expected)
