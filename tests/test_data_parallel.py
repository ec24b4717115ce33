"""Training by two processes beside training by one: the same steps, whatever each has its share
of; the same end when it was cut off; the same faults.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from test_interruptions import SCHEDULE, Network, assert_same, patches, pixel_loss
from test_train import network, points, squared
from torch import nn

from tests.toys import Noise
from wsss.datasets.transforms import cut_mix
from wsss.errors import InputError
from wsss.models import build_affinity, build_cam, build_segmentation
from wsss.models.layers import freeze_batch_norm
from wsss.train import checkpoints, losses
from wsss.train.loop import Schedule, fit, fit_members
from wsss.train.parallel import distributed
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
        partial(build_cam, "small", 3, dropout=0.0),
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
        partial(build_segmentation, "small", 3, channels=8, dilation=8),
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
        accumulate=3,
        learning_rate=rate,
        head_factor=1.0,
        workers=0,
        train_processes=processes,
    )
    net = without_chance(build)
    history = fit(net, Noise(48, target), loss, schedule, folder=folder)
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


def averaged(folder):
    """What this process computes alone, and what both make of it."""
    rank = distributed.rank()
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1), nn.Conv2d(1, 1, 1))
    for count, parameter in enumerate(net[:2].parameters()):
        parameter.grad = torch.full_like(parameter, 10.0 * rank + count)
    net[0].running_mean[:] = torch.tensor([rank, 3.0])
    net[0].running_var[:] = torch.tensor([1.0, 4.0 + rank])
    numbers = distributed.average_step(net, {"b": rank, "a": 0.1})
    torch.save([[p.grad for p in net.parameters()], net[0].state_dict()], folder / f"{rank}.pt")
    return numbers, distributed.gather(f"of {rank}")


def test_means_are_taken_over_the_processes(tmp_path):
    numbers, gathered = launch(averaged, tmp_path, processes=2)
    assert numbers == pytest.approx({"b": 0.5, "a": 0.1}) and gathered == ["of 0", "of 1"]
    for rank in range(2):
        gradients, norm = torch.load(tmp_path / f"{rank}.pt")
        assert [g.unique().tolist() for g in gradients[:4]] == [[5.0], [6.0], [7.0], [8.0]]
        assert gradients[4:] == [None, None]  # of what the loss does not reach
        assert norm["running_mean"].tolist() == [0.5, 3.0]
        assert norm["running_var"].tolist() == [1.0, 4.5]


class Noted:
    """CutMix, which notes what each process's generator gives next."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, images, targets):
        with (self.folder / f"draws_{distributed.rank()}").open("a") as file:
            print(float(torch.rand(())), len(images), file=file)
        return cut_mix(images, targets, 0.5)


def trained_by_two(folder, *, members=1, stop=None):
    """The weights and losses of training with dropout, CutMix and a batch norm that learns."""
    folder.mkdir(exist_ok=True)

    def stopped(epoch, _):
        if epoch == stop:
            raise KeyboardInterrupt

    net = Network()
    given = {"folder": folder, "mix": Noted(folder), "on_epoch": stopped}
    history = fit_members(net, patches(), pixel_loss, TWO, members, **given)
    return net.state_dict(), [metrics["loss"] for metrics in history]


def test_training_by_two_processes_cut_off_ends_as_undisturbed(tmp_path):
    expected = trained_by_two(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):  # and both are killed, wherever they are by then
        trained_by_two(tmp_path / "b", stop=1)
    found = trained_by_two(tmp_path / "b")
    assert_same(found, expected)
    draws = [(tmp_path / "a" / f"draws_{rank}").read_text().splitlines() for rank in range(2)]
    assert len(draws[0]) == len(draws[1]) == 12 and not set(draws[0]) & set(draws[1])
    assert {line.split()[1] for line in draws[0] + draws[1]} == {"2"}


@pytest.mark.slow  # three trainings by two processes
def test_members_are_trained_by_two_processes(tmp_path):
    weights, history = trained_by_two(tmp_path, members=2)
    found = [torch.load(tmp_path / f"member_{member}.pt") for member in range(2)]
    assert len(history) == 8 and history[:4] == [each["loss"] for each in found[0]["history"]]
    for name, tensor in weights.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, sum(each["network"][name] for each in found) / 2)


class Astray:
    """A loss that one process finds to be no number at its sixth step."""

    def __init__(self):
        self.calls = 0

    def __call__(self, net, images, targets):
        values = squared(net, images, targets)
        self.calls += 1
        if self.calls == 6 and distributed.rank() == 1:
            values["loss"] = values["loss"] * float("nan")
        return values


def test_training_that_goes_astray_in_one_process_stops_in_all(tmp_path):
    net = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    schedule = replace(TWO, accumulate=1)
    told = "at step 5 of 12: the loss is nan; the last good checkpoint is .*, of step 5; lower"
    with pytest.raises(FloatingPointError, match=told) as fault:
        fit(net, points(), Astray(), schedule, folder=tmp_path)
    assert "\n" not in str(fault.value)
    assert checkpoints.newest(tmp_path / "checkpoint.pt", "cpu")["state"]["step"] == 5
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_checkpoint_of_other_processes_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    fit(network(), points(), squared, replace(SCHEDULE, epochs=1), folder=tmp_path)
    saved = checkpoints.newest(path, "cpu")
    checkpoints.save(path, saved | {"generators": 2 * saved["generators"]})
    net = network()
    with pytest.raises(
        InputError, match=r"of 1 processes .* got one of 2; set train_processes to 2"
    ):
        fit(net, points(), squared, SCHEDULE, folder=tmp_path)
    for tensor, expected in zip(net.parameters(), network().parameters(), strict=True):
        assert torch.equal(tensor, expected)
