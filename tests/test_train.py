"""The loop: its optimisers, its schedule, and that an interrupted training ends where an
undisturbed one does.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.toys import Noise
from wsss.datasets.transforms import Samples, augment
from wsss.datasets.voc import Devkit
from wsss.errors import InputError
from wsss.models import build_cam
from wsss.runtime import devices
from wsss.train import loop, losses
from wsss.train.loop import Schedule, fit, fit_soup
from wsss.train.optimisers import build_optimiser


def mean(picture):
    return picture.mean()[None]


def points(seed=0):
    return Noise(4, mean, seed)


class Regressor(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Dropout2d(0.2))
        self.head = nn.Conv2d(4, 1, 1)

    def head_parameters(self):
        return list(self.head.parameters())

    def forward(self, x):
        return self.head(self.trunk(x)).mean((1, 2, 3))[:, None]


def squared(network, images, targets):
    return {"loss": F.mse_loss(network(images), targets)}


def network():
    torch.manual_seed(1)
    return Regressor()


SCHEDULE = Schedule(
    epochs=4, batch_size=4, optimiser="sgd", learning_rate=0.05, workers=0, checkpoint_minutes=0
)


def test_seconds_of_training_count_as_work(tmp_path):
    before = devices.usage()
    history = fit(network(), points(), loss=squared, schedule=SCHEDULE, folder=tmp_path)
    worked = devices.usage()["work_seconds"] - before["work_seconds"]
    assert worked >= sum(12 / epoch["images_per_second"] for epoch in history)


def test_optimisers_are_what_their_names_say():
    def made(name):
        optimiser = build_optimiser(network(), Schedule(optimiser=name, learning_rate=0.1))
        return optimiser, [
            {k: g.get(k) for k in ("lr", "momentum", "weight_decay")}
            for g in optimiser.param_groups
        ]

    sgd, groups = made("sgd")
    assert isinstance(sgd, torch.optim.SGD)
    assert groups == [
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
        {"lr": 1.0, "momentum": 0.9, "weight_decay": 5e-4},
    ]
    released, groups = made("sgd_released")
    assert isinstance(released, torch.optim.SGD)
    assert [(g["momentum"], g["weight_decay"]) for g in groups] == [(5e-4, 5e-4)] * 2
    adam, groups = made("adam")
    assert isinstance(adam, torch.optim.Adam) and [g["weight_decay"] for g in groups] == [5e-4] * 2
    with pytest.raises(InputError, match="expected one of: adam, sgd, sgd_released"):
        made("lion")


def test_every_trained_parameter_is_in_one_group():
    net = build_cam("small", 3, frozen_stages=1)
    optimiser = build_optimiser(net, Schedule())
    grouped = [id(p) for group in optimiser.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters() if p.requires_grad)


def test_biases_apart_are_the_four_groups_of_the_released_code():
    net = build_cam("small", 3, head_channels=4)
    schedule = Schedule(optimiser="sgd_released", learning_rate=0.1, bias_lr_mult=2)
    optimiser = build_optimiser(net, schedule)
    names = {id(p): name for name, p in net.named_parameters()}
    found = {
        (g["lr"], g["weight_decay"], g["momentum"]): {names[id(p)] for p in g["params"]}
        for g in optimiser.param_groups
    }
    backbone = {name for name in names.values() if name.startswith("backbone.")}
    biases = {name for name in backbone if name.endswith("bias")}
    assert found == {
        (0.1, 5e-4, 5e-4): backbone - biases,
        (0.2, 0.0, 5e-4): biases,
        (1.0, 5e-4, 5e-4): {"adapt.0.weight", "classifier.weight"},
        (2.0, 0.0, 5e-4): {"adapt.0.bias"},
    }


def test_learning_rate_decays_as_the_polynomial(tmp_path):
    rates = []
    fit(
        network(),
        points(),
        loss=squared,
        schedule=SCHEDULE,
        folder=tmp_path,
        on_epoch=lambda _, m: rates.append(m["learning_rate"]),
    )
    expected = [
        0.05 * (1 - (3 * epoch + 2) / 12) ** 0.9 for epoch in range(4)
    ]  # at each epoch's last step
    np.testing.assert_allclose(rates, expected)


def test_training_lowers_the_loss_and_repeats_exactly(tmp_path):
    runs = [network(), network()]
    histories = [
        fit(net, points(), loss=squared, schedule=SCHEDULE, folder=tmp_path / str(i))
        for i, net in enumerate(runs)
    ]
    assert histories[0][-1]["loss"] < 0.5 * histories[0][0]["loss"]
    assert [m["loss"] for m in histories[0]] == [m["loss"] for m in histories[1]]
    for a, b in zip(runs[0].parameters(), runs[1].parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("asked", [False, True])
def test_training_is_repeatable_and_the_choice_does_not_leak(tmp_path, monkeypatch, device, asked):
    """On a processor always, on a GPU where asked for."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(devices, "pick_device", lambda: torch.device(device))  # of the choice alone
    monkeypatch.setattr(loop, "pick_device", lambda: torch.device("cpu"))
    seen = []

    def asking(net, images, targets):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return squared(net, images, targets)

    schedule = replace(SCHEDULE, deterministic=asked)
    fit(network(), points(), loss=asking, schedule=schedule, folder=tmp_path)
    assert set(seen) == {device == "cpu" or asked}
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("cut", [1, 3, 8])
def test_resumed_training_equals_undisturbed_training(tmp_path, cut):
    def noisy(images, targets):
        return images + 0.1 * torch.randn_like(images), targets

    undisturbed = network()
    given = {"schedule": SCHEDULE, "mix": noisy}
    expected = fit(undisturbed, points(), loss=squared, folder=tmp_path / "a", **given)
    calls = 0

    def interrupted(net, images, targets):
        nonlocal calls
        calls += 1
        if calls > cut:
            raise KeyboardInterrupt
        return squared(net, images, targets)

    with pytest.raises(KeyboardInterrupt):
        fit(network(), points(), loss=interrupted, folder=tmp_path / "b", **given)
    resumed, logged = network(), []
    torch.manual_seed(77)  # whatever happened in between
    history = fit(
        resumed,
        points(),
        loss=squared,
        folder=tmp_path / "b",
        on_epoch=lambda e, _: logged.append(e),
        **given,
    )
    assert [m["loss"] for m in history] == [m["loss"] for m in expected]
    assert logged == [0, 1, 2, 3]  # a new record gets the epochs from before, too
    for a, b in zip(undisturbed.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_batch_in_parts_takes_the_same_steps(tmp_path, parts):
    def trained(accumulation_steps):
        net = network()
        net.trunk[1].p = 0.0  # whose draws differ with the parts
        schedule = replace(SCHEDULE, accumulation_steps=accumulation_steps)
        folder = tmp_path / str(accumulation_steps)
        history = fit(net, points(), loss=squared, schedule=schedule, folder=folder)
        return net.state_dict(), [metrics["loss"] for metrics in history]

    (whole, losses_whole), (apart, losses_apart) = trained(1), trained(parts)
    assert losses_apart == pytest.approx(losses_whole, rel=1e-5)
    for name, tensor in whole.items():
        torch.testing.assert_close(apart[name], tensor, rtol=1e-5, atol=1e-6)


def test_nothing_trained_has_no_last_metrics():
    assert loop.last([], "loss") == {}
    assert loop.last([{"loss": 2.0}, {"loss": 1.0, "rate": 3.0}], "loss") == {"loss": 1.0}


def test_a_soup_is_the_mean_of_its_trainings_and_none_is_repeated(tmp_path):
    alone = []
    for seed in range(3):
        alone.append(network())
        schedule = replace(SCHEDULE, seed=seed)
        folder = tmp_path / f"alone_{seed}"
        fit(alone[-1], points(seed), loss=squared, schedule=schedule, folder=folder)
    joint, calls = network(), 0
    given = {"schedule": SCHEDULE, "soup_size": 3, "folder": tmp_path / "joint"}

    def interrupted(net, images, targets):
        nonlocal calls
        calls += 1
        if calls > 18:  # twelve steps a member: halfway through the second
            raise KeyboardInterrupt
        return squared(net, images, targets)

    with pytest.raises(KeyboardInterrupt):
        fit_soup(joint, points(), loss=interrupted, **given)
    joint, logged = network(), []
    history = fit_soup(
        joint,
        points(),
        loss=squared,
        on_epoch=lambda epoch, _: logged.append(epoch),
        **given,
    )
    assert logged == list(range(12)) and len(history) == 12
    for mean, *each in zip(joint.parameters(), *(n.parameters() for n in alone), strict=True):
        torch.testing.assert_close(mean, sum(each) / 3)
        assert not torch.equal(each[0], each[1])


def test_gradients_are_clipped_to_the_norm(tmp_path):
    def steep(net, images, targets):
        return {"loss": 1e4 * squared(net, images, targets)["loss"]}

    net = network()
    before = [p.detach().clone() for p in net.parameters()]
    schedule = Schedule(
        epochs=1,
        batch_size=12,
        optimiser="sgd",
        learning_rate=1.0,
        head_lr_mult=1,
        weight_decay=0,
        clip_norm=0.5,
        workers=0,
    )
    fit(net, points(), loss=steep, schedule=schedule, folder=tmp_path)
    moved = [
        float(((a - b.detach()) ** 2).sum()) for a, b in zip(before, net.parameters(), strict=True)
    ]
    assert sum(moved) ** 0.5 == pytest.approx(
        0.5, rel=1e-4
    )  # one step at rate 1 moves by the clipped norm


def test_samples_do_not_depend_on_the_number_of_workers(tiny_shapes):
    data = Devkit(tiny_shapes)
    first = []
    for workers in (0, 2):
        samples = Samples(
            data,
            data.ids("train"),
            transform=augment(48, long_side=(60, 90)),
            target=data.label_vector,
        )
        torch.manual_seed(0)
        net = build_cam("small", len(data.classes))
        schedule = Schedule(
            epochs=1, batch_size=6, optimiser="adam", learning_rate=0.001, workers=workers
        )
        history = fit(
            net,
            samples,
            loss=losses.classification_loss,
            schedule=schedule,
            folder=tiny_shapes / f"w{workers}",
        )
        first.append(history[0]["loss"])
    assert first[0] == first[1]
