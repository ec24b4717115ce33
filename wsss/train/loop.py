"""The one training loop: polynomial schedule, per-group rates, checkpoints, images per second."""

import copy
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from wsss.datasets.transforms import Samples
from wsss.io import atomic
from wsss.runtime.devices import autocast, pick_device, repeatable, reuse_memory, timed_work
from wsss.runtime.progress import progress
from wsss.train import checkpoints, divergence
from wsss.train.optimisers import build_optimiser
from wsss.train.parallel import distributed
from wsss.train.parallel.launch import launch
from wsss.train.sampler import check_shares, load_batches, steps_per_epoch

# between the seeds of processes that train together; those of a soup's trainings count up by 1
SEEDS_APART = 1_000_003

Metrics = dict[str, float]
Mix = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
OnEpoch = Callable[[int, Metrics], None]


@dataclass(frozen=True)
class Schedule:
    """How to train. Every field is a parameter of the training notebooks under the same name."""

    epochs: int = 5
    batch_size: int = 16
    accumulation_steps: int = 1  # parts of a batch whose gradients are added up, for memory
    optimiser: str = "sgd"  # adam, sgd, or sgd_released (see build_optimiser)
    learning_rate: float = 0.01  # of the backbone, at the first step
    head_lr_mult: float = 10.0  # factor of the head's learning rate
    bias_lr_mult: float = 1.0  # factor of the biases' learning rate (released: 2)
    weight_decay: float = 5e-4
    clip_norm: float = 0.0  # largest norm of the whole gradient; 0 does not clip
    poly_power: float = 0.9  # of the polynomial decay to zero
    workers: int = 1  # processes that decode and augment photos, per training process
    train_processes: int = 1  # processes that train together, each on an equal share of a batch
    seed: int = 0
    checkpoint_minutes: float = 2.0  # between checkpoints, from which interrupted training resumes
    deterministic: bool = False  # the same bits every time on a GPU too; see ``devices.repeatable``


@timed_work()
def fit(
    network: nn.Module,
    samples: Samples,
    *,
    loss: distributed.Loss,
    schedule: Schedule,
    folder: str | Path,
    on_epoch: OnEpoch = lambda epoch, metrics: None,
    mix: Mix | None = None,
    label: str = "train",
) -> list[Metrics]:
    """Train a network in place, resuming from the newest whole checkpoint in ``folder``, and return
    the metrics of each epoch. With several ``schedule.train_processes``, or on a Ray cluster,
    ``network``, ``samples``, ``loss`` and ``mix`` are pickled (see ``launch``), and an error leaves
    ``network`` unchanged.

    Raises InputError if ``train_processes`` does not fit the batch, the GPUs or the checkpoint,
    RuntimeError if a process was killed, and FloatingPointError if training diverged
    (``divergence_reason``); neither the weights nor the checkpoint contain that step.

    Args:
        network: a module with ``head_parameters()``.
        samples: a data set with keys ``(epoch, index)``.
        loss: see ``losses``. Every parameter that requires a gradient must take part in it.
        folder: of checkpoints: ``checkpoint.pt`` and the one before it.
        on_epoch: called after each epoch with its number and the means of the losses, the images
            per second and the learning rate; on resuming, also for earlier epochs.
        mix: changes each batch, or a process's share of it, such as ``transforms.cut_mix``; may
            draw from torch's generator.
    """
    check_shares(len(samples), schedule)
    network.cpu()  # training processes may have other GPUs
    reported = set()

    def report_once(epoch, metrics):  # workers of a cluster that restart repeat earlier epochs
        if epoch not in reported:
            reported.add(epoch)
            on_epoch(epoch, metrics)

    given = (network, samples, loss, schedule, Path(folder), mix, label)
    processes = schedule.train_processes
    history, weights = launch(_fit, *given, processes=processes, on_epoch=report_once)
    _load(network, weights)
    return history


def _load(network, weights):
    network.to(pick_device()).to(memory_format=torch.channels_last).eval()
    network.load_state_dict(weights)


def _fit(network, samples, loss, schedule, folder, mix, label, *, on_epoch):
    given = (network, samples, loss, schedule, folder, mix, label, on_epoch)
    with repeatable(gpu=schedule.deterministic):
        history = divergence.explain_dead_workers(_train, *given)
    return history, network.cpu().state_dict()  # the caller may have no GPU


def _train(network, samples, loss, schedule, folder, mix, label, on_epoch):
    reuse_memory()
    rank = distributed.rank()
    torch.manual_seed(schedule.seed + SEEDS_APART * rank)
    device = pick_device()
    network.to(device).to(memory_format=torch.channels_last).train()
    objective = distributed.distribute(network, loss)
    optimiser = build_optimiser(network, schedule)
    base_rates = [group["lr"] for group in optimiser.param_groups]
    checkpoint = folder / "checkpoint.pt"
    state = {"step": 0, "history": [], "sums": {}, "first": None}
    if saved := checkpoints.newest(checkpoint, device):
        checkpoints.check_processes(saved, checkpoint, expected=schedule.train_processes)
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        checkpoints.set_generators(saved["generators"][rank])
        state |= saved["state"]
        for epoch, metrics in enumerate(state["history"]):
            on_epoch(epoch, metrics)
    if len(set(distributed.gather(state["step"]))) > 1:
        raise RuntimeError(f"{checkpoint}: processes read different checkpoints; try again")
    batches = load_batches(samples, schedule, start=state["step"], rank=rank)
    per_epoch = steps_per_epoch(len(samples), schedule)
    total = per_epoch * schedule.epochs
    shown = {"total": total, "initial": state["step"], "unit": "step", "disable": rank > 0}
    saved_step, saved_at = state["step"] if saved else None, time.monotonic()
    for images, targets in (bar := progress(batches, label, **shown)):
        began = time.monotonic()
        for group, rate in zip(optimiser.param_groups, base_rates, strict=True):
            group["lr"] = rate * (1 - state["step"] / total) ** schedule.poly_power
        if mix:
            images, targets = mix(images, targets)
        optimiser.zero_grad(set_to_none=True)
        values = _backward(objective, images, targets, schedule.accumulation_steps, device)
        # all processes save a checkpoint when the clock of one says so
        values["due"] = time.monotonic() - saved_at > 60 * schedule.checkpoint_minutes
        values = distributed.sync_step(network, values)
        due = values.pop("due") > 0
        most = schedule.clip_norm or math.inf
        norm = float(nn.utils.clip_grad_norm_(network.parameters(), most))
        first = state["first"]
        if reason := divergence.divergence_reason(values["loss"], norm, first_loss=first):
            raise _diverged(reason, state["step"], total, checkpoint, saved_step)
        optimiser.step()
        state["first"] = values["loss"] if first is None else first
        state["step"] += 1
        values["images"] = schedule.train_processes * len(images)
        values["seconds"] = time.monotonic() - began
        for name, value in values.items():
            state["sums"][name] = state["sums"].get(name, 0.0) + value
        epoch, place = divmod(state["step"] - 1, per_epoch)
        mean = state["sums"]["loss"] / (place + 1)
        bar.about = f"epoch {epoch + 1}/{schedule.epochs}  loss {mean:.3g}"
        if state["step"] % per_epoch == 0:
            sums, state["sums"] = state["sums"], {}
            speed, rate = sums.pop("images") / sums.pop("seconds"), optimiser.param_groups[0]["lr"]
            metrics = {name: value / per_epoch for name, value in sums.items()}
            metrics |= {"images_per_second": speed, "learning_rate": rate}
            state["history"].append(metrics)
            on_epoch(len(state["history"]) - 1, metrics)
        try:
            if state["step"] == total:
                checkpoints.check_finite(network.state_dict())
            elif due:
                content = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
                generators = distributed.gather(checkpoints.generators())
                content |= {"generators": generators, "state": state}
                if rank == 0:
                    checkpoints.save(checkpoint, content)
                saved_step, saved_at = state["step"], time.monotonic()
        except FloatingPointError as error:
            raise _diverged(error, state["step"], total, checkpoint, saved_step) from None
    return state["history"]


def _diverged(reason, step, total, checkpoint, saved_step):
    good = "there is no checkpoint yet"
    if saved_step is not None:
        good = f"the last good checkpoint is {checkpoint}, of step {saved_step}"
    return FloatingPointError(
        f"training stopped at step {step} of {total}: {reason}; {good}; lower learning_rate or set "
        "clip_norm"
    )


def _backward(objective, images, targets, parts, device):
    """Accumulate the gradients of a batch in parts, each weighted by its share of the crops,
    whatever its loss is a mean of; returns the means of the losses.
    """
    values = {}
    chunks = list(zip(images.chunk(parts), targets.chunk(parts), strict=True))
    for number, (images_part, targets_part) in enumerate(chunks, 1):
        images_part = images_part.to(device, memory_format=torch.channels_last, non_blocking=True)
        share = len(images_part) / len(images)
        # processes exchange gradients once, during the last part
        with nullcontext() if number == len(chunks) else objective.no_sync():
            with autocast(device, training=True):
                losses = objective(images_part, targets_part.to(device, non_blocking=True))
            (losses["loss"] * share).backward()
        for name, value in losses.items():
            values[name] = values.get(name, 0.0) + share * float(value.detach())
    return values


def fit_soup(
    network: nn.Module,
    samples: Samples,
    *,
    loss: distributed.Loss,
    schedule: Schedule,
    soup_size: int,
    folder: str | Path,
    on_epoch: OnEpoch = lambda epoch, metrics: None,
    mix: Mix | None = None,
) -> list[Metrics]:
    """Train a network several times from its present weights, with seeds from ``schedule.seed`` on,
    and give it the mean of the results in place, running statistics of batch norms too (a model
    soup, Wortsman et al., ICML 2022), which relies less on accidental cues than each of them.

    All is as in ``fit``, which ``soup_size`` 1 is, except that epochs are counted through all
    trainings, and finished ones are kept in ``folder`` as ``member_<number>.pt`` and not repeated;
    a damaged one resumes from its last checkpoint.
    """
    start = copy.deepcopy(network.state_dict())
    means, history = {}, []
    for member in range(soup_size):
        path = Path(folder) / f"member_{member}.pt"

        def report(epoch, metrics, before=member * schedule.epochs):
            on_epoch(before + epoch, metrics)

        if atomic.is_whole(path):
            found = torch.load(path, map_location=pick_device(), weights_only=True)
            for epoch, metrics in enumerate(found["history"]):
                report(epoch, metrics)
        else:
            network.load_state_dict(start)
            varied = copy.copy(samples)
            varied.seed = samples.seed + member
            own = replace(schedule, seed=schedule.seed + member)
            label = f"training {member + 1} of {soup_size}" if soup_size > 1 else "train"
            options: Any = {"folder": path.with_suffix(""), "on_epoch": report, "mix": mix}
            options["label"] = label
            epochs = fit(network, varied, loss=loss, schedule=own, **options)
            found = {"network": network.state_dict(), "history": epochs}
            with atomic.write(path) as unfinished:
                torch.save(found, unfinished)
        history += found["history"]
        for name, tensor in found["network"].items():
            floating = tensor.is_floating_point()
            means[name] = means.get(name, 0) + tensor / soup_size if floating else tensor
    _load(network, means)
    return history


def last(history: list[Metrics], *names: str) -> Metrics:
    """The named metrics of the last epoch; none if nothing was trained."""
    return {name: history[-1][name] for name in names} if history else {}


def schedule_from(parameters: dict[str, Any]) -> Schedule:
    """The ``Schedule`` made of a notebook's parameters of the same names."""
    names = parameters.keys() & Schedule.__dataclass_fields__
    return Schedule(**{name: parameters[name] for name in names})


def seed_all(seed: int) -> None:
    """Seed the generators of weights, dropout and shuffling."""
    torch.manual_seed(seed)
    np.random.seed(seed)


def logger(log_metrics: Callable[[Metrics, int], None]) -> OnEpoch:
    """An ``on_epoch`` that logs under ``train/`` and prints a line."""

    def on_epoch(epoch, metrics):
        log_metrics({f"train/{name}": value for name, value in metrics.items()}, epoch)
        values = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        print(f"epoch {epoch + 1}: {values}")

    return on_epoch
