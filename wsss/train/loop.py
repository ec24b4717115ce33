"""The one training loop: polynomial schedule, per-group rates, checkpoints, images per second."""

import copy
import time
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from wsss.errors import InputError
from wsss.io import atomic
from wsss.runtime.devices import autocast, pick_device, repeatable, reuse_memory
from wsss.runtime.processes import end_with_parent
from wsss.runtime.progress import progress
from wsss.train import checkpoints, divergence
from wsss.train.optimisers import build_optimiser
from wsss.train.parallel import distributed
from wsss.train.parallel.launch import launch
from wsss.train.sampler import EpochSampler, check_shares

# between the seeds of processes that train together, whose dropout must differ; the seeds of
# members count up by 1
SEEDS_APART = 1_000_003


@dataclass(frozen=True)
class Schedule:
    """How to train. Every field is a parameter of the training notebooks under the same name."""

    epochs: int = 5
    batch_size: int = 16
    accumulate: int = 1  # parts of a batch whose gradients are added up, for memory
    optimiser: str = "sgd"  # adam, sgd, or sgd_released (see build_optimiser)
    learning_rate: float = 0.01  # of the trunk, at the first step
    head_factor: float = 10.0  # the head learns this many times faster than the trunk
    bias_factor: float = 1.0  # biases learn this many times faster than weights (released: 2)
    weight_decay: float = 5e-4
    clip_norm: float = 0.0  # largest norm of the whole gradient; 0 does not clip
    power: float = 0.9  # of the polynomial decay to zero
    workers: int = 1  # processes that decode and augment photos, for each that trains
    train_processes: int = 1  # processes that train together, each with its share of a batch
    seed: int = 0
    checkpoint_minutes: float = 2.0  # between checkpoints, from which interrupted training goes on
    deterministic: bool = False  # the same bits every time on a GPU too; see ``devices.repeatable``


def unmixed(images, targets):
    """A batch as it is."""
    return images, targets


def fit(
    network,
    samples,
    loss,
    schedule,
    *,
    folder,
    on_epoch=lambda epoch, metrics: None,
    mix=unmixed,
):
    """Train a network in place, going on from the newest whole checkpoint in ``folder``.

    Args:
        network: a module with ``head_parameters()``.
        samples: a data set that takes ``(epoch, index)`` keys, as ``datasets.transforms.Samples``.
        loss: ``(network, images, targets) -> dict of scalar tensors``; the one called "loss" is
        minimised.
        schedule: a ``Schedule``.
        folder: where checkpoints are kept: ``checkpoint.pt`` and the one before it.
        on_epoch: called after each epoch with its number and the means of the losses, the images
            per second and the learning rate.
        mix: changes each batch before it is trained on, such as ``transforms.cut_mix``; what it
            draws from torch's generator goes on where it was when training resumes.

    Where ``schedule.train_processes`` is more than 1, or on a Ray cluster, ``network``,
    ``samples``, ``loss`` and ``mix`` are sent to other processes (see ``launch``), and ``mix`` gets
    each one's share of a batch; where training fails, the network given is as it was.

    Returns:
        list of each epoch's metrics.

    Raises:
        InputError: ``train_processes`` does not fit the batch, the GPUs or the checkpoint.
        FloatingPointError: see ``health.fault``; raised before the step is taken, so that weights
            and checkpoints stay as they were.
        RuntimeError: a worker was killed.
    """
    check_shares(len(samples), schedule)
    network.cpu()  # as it is sent to other processes, whose GPUs are their own
    told = []

    def once(epoch, metrics):  # a cluster's workers that start again tell of earlier epochs too
        if epoch == len(told):
            told.append(epoch)
            on_epoch(epoch, metrics)

    history, weights = launch(
        _fit,
        *(network, samples, loss, schedule, Path(folder), mix),
        processes=schedule.train_processes,
        on_epoch=once,
    )
    network.to(pick_device(), memory_format=torch.channels_last).eval()
    network.load_state_dict(weights)
    return history


def _fit(network, samples, loss, schedule, folder, mix, *, on_epoch):
    """The history and the weights of a training that this process has its part in."""
    with repeatable(gpu=schedule.deterministic):
        history = divergence.killed_workers_told(
            _train, network, samples, loss, schedule, folder, mix, on_epoch
        )
    return history, network.cpu().state_dict()  # the GPU is not the caller's, if there is one


def _train(network, samples, loss, schedule, folder, mix, on_epoch):
    reuse_memory()
    rank = distributed.rank()
    torch.manual_seed(schedule.seed + SEEDS_APART * rank)
    device = pick_device()
    network.to(device, memory_format=torch.channels_last).train()
    distributed.synchronise_norms(network, device)
    optimiser = build_optimiser(
        network,
        schedule.optimiser,
        learning_rate=schedule.learning_rate,
        head_factor=schedule.head_factor,
        bias_factor=schedule.bias_factor,
        weight_decay=schedule.weight_decay,
    )
    base_rates = [group["lr"] for group in optimiser.param_groups]
    checkpoint = folder / "checkpoint.pt"
    state = {"step": 0, "history": [], "sums": {}, "first": None}
    saved = checkpoints.newest(checkpoint, device)
    if saved:
        _check_kept(saved, checkpoint)
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        checkpoints.set_generators(saved["generators"][rank])
        state |= saved["state"]
        for epoch, metrics in enumerate(state["history"]):
            on_epoch(epoch, metrics)
    if len(set(distributed.gather(state["step"]))) > 1:
        raise RuntimeError(f"{checkpoint}: read differently by each process; try again")
    sampler = EpochSampler(len(samples), schedule, start=state["step"], rank=rank)
    total = sampler.per_epoch * schedule.epochs
    loader = DataLoader(
        samples,
        batch_sampler=sampler,
        num_workers=schedule.workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # its own: resuming must not draw from the global one
        prefetch_factor=4 if schedule.workers else None,
        multiprocessing_context="spawn" if schedule.workers else None,
        worker_init_fn=end_with_parent,
    )
    kept = state["step"] if saved else None  # the last good checkpoint's step
    saved_at = time.monotonic()
    steps = loader
    if rank == 0:
        steps = progress(loader, "train", total=total, initial=state["step"], unit="step")
    for images, targets in steps:
        began = time.monotonic()
        for group, rate in zip(optimiser.param_groups, base_rates, strict=True):
            group["lr"] = rate * (1 - state["step"] / total) ** schedule.power
        images, targets = mix(images, targets)
        optimiser.zero_grad(set_to_none=True)
        values = _backward(network, images, targets, loss, schedule.accumulate, device)
        # the first process whose clock says so has all of them keep a checkpoint
        values["due"] = time.monotonic() - saved_at > 60 * schedule.checkpoint_minutes
        values = distributed.average_step(network, values)
        due = values.pop("due") > 0
        norm = _gradient_norm(network, schedule.clip_norm)
        fault = divergence.fault(values["loss"], norm, state["first"])
        if fault:
            raise _stopped(fault, state["step"], total, checkpoint, kept)
        optimiser.step()
        state["first"] = values["loss"] if state["first"] is None else state["first"]
        state["step"] += 1
        size = distributed.world_size() * len(images)
        for name, value in (
            values.items() | {"images": size, "seconds": time.monotonic() - began}.items()
        ):
            state["sums"][name] = state["sums"].get(name, 0.0) + value
        if state["step"] % sampler.per_epoch == 0:
            metrics = _epoch_metrics(state["sums"], sampler.per_epoch, optimiser)
            state["sums"] = {}
            state["history"].append(metrics)
            on_epoch(len(state["history"]) - 1, metrics)
        try:
            if state["step"] == total:
                checkpoints.check_finite(network.state_dict())
            elif due:
                everything = {
                    "network": network.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "generators": distributed.gather(checkpoints.generators()),
                    "state": state,
                }
                if rank == 0:
                    checkpoints.save(checkpoint, everything)
                kept, saved_at = state["step"], time.monotonic()
        except FloatingPointError as error:
            raise _stopped(error, state["step"], total, checkpoint, kept) from None
    return state["history"]


def _check_kept(saved, checkpoint):
    """InputError where a checkpoint is not of as many processes as train now."""
    kept, now = len(saved["generators"]), distributed.world_size()
    if kept != now:
        raise InputError(
            f"{checkpoint}: expected a checkpoint of {now} processes that train together, got one "
            f"of {kept}; set train_processes to {kept}, or delete it to begin anew"
        )


def _gradient_norm(network, largest):
    """The norm of the whole gradient, which is clipped to ``largest`` unless that is 0."""
    parameters = [p for p in network.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
    if largest:
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return float(norm)


def _stopped(fault, step, total, checkpoint, kept):
    """The error of training that went astray after ``step`` steps."""
    good = "there is no checkpoint yet"
    if kept is not None:
        good = f"the last good checkpoint is {checkpoint}, of step {kept}"
    return FloatingPointError(
        f"training stopped at step {step} of {total}: {fault}; {good}; lower learning_rate or set "
        "clip_norm"
    )


def _backward(network, images, targets, loss, parts, device):
    """Gradients of a batch in so many parts, one after the other; returns the losses' means.

    A part weighs as much as its share of the crops, also where a loss is a mean over pixels or
    pairs, of which parts hold unequal numbers.
    """
    values = {}
    for some, their in zip(images.chunk(parts), targets.chunk(parts), strict=True):
        some = some.to(device, memory_format=torch.channels_last, non_blocking=True)
        with autocast(device, training=True):
            losses = loss(network, some, their.to(device, non_blocking=True))
        share = len(some) / len(images)
        (losses["loss"] * share).backward()
        for name, value in losses.items():
            values[name] = values.get(name, 0.0) + share * float(value.detach())
    return values


def fit_members(
    network,
    samples,
    loss,
    schedule,
    members,
    *,
    folder,
    on_epoch=lambda epoch, metrics: None,
    mix=unmixed,
):
    """Train a network several times from where it stands and give it the mean of the weights found
    (a model soup, Wortsman et al., ICML 2022), in place.

    Where one training trusts the sky to tell an aeroplane and another the runway, their mean trusts
    either less. Members differ in the order of the photos, in crops and in dropout: their seeds
    count up from ``schedule.seed``. Statistics of a batch norm that is not frozen are averaged too.

    Args:
        samples: ``datasets.transforms.Samples``.
        members: how many; with 1 this is ``fit``.
        folder: where finished members are kept as ``member_<number>.pt``, so that none is trained
            twice; one that was damaged goes on from its last checkpoint.
        on_epoch: called as by ``fit``, epochs of later members counting on.
        network, loss, schedule, mix: as for ``fit``.

    Returns:
        list of each epoch's metrics, one member after the other.
    """
    start = copy.deepcopy(network.state_dict())
    means, history = {}, []
    for member in range(members):
        path = Path(folder) / f"member_{member}.pt"
        counted_on = partial(_count_on, on_epoch, member * schedule.epochs)
        if atomic.is_whole(path):
            found = torch.load(path, map_location=pick_device(), weights_only=True)
            for epoch, metrics in enumerate(found["history"]):
                counted_on(epoch, metrics)
        else:
            network.load_state_dict(start)
            varied = copy.copy(samples)
            varied.seed = samples.seed + member
            epochs = fit(
                network,
                varied,
                loss,
                replace(schedule, seed=schedule.seed + member),
                folder=path.with_suffix(""),
                on_epoch=counted_on,
                mix=mix,
            )
            found = {"network": network.state_dict(), "history": epochs}
            with atomic.write(path) as unfinished:
                torch.save(found, unfinished)
        history += found["history"]
        for name, tensor in found["network"].items():
            if tensor.is_floating_point():
                means[name] = means.get(name, 0) + tensor / members
            else:
                means[name] = tensor
    network.to(pick_device(), memory_format=torch.channels_last).eval()
    network.load_state_dict(means)
    return history


def _count_on(on_epoch, before, epoch, metrics):
    on_epoch(before + epoch, metrics)


def _epoch_metrics(sums, steps, optimiser):
    metrics = {
        name: value / steps for name, value in sums.items() if name not in ("images", "seconds")
    }
    metrics["images_per_second"] = sums["images"] / sums["seconds"]
    metrics["learning_rate"] = optimiser.param_groups[0]["lr"]
    return metrics


def last(history, *names):
    """Those of the last epoch's metrics; none where nothing was trained."""
    return {name: history[-1][name] for name in names} if history else {}


def schedule_from(parameters):
    """The ``Schedule`` among a notebook's parameters: those that bear its fields' names."""
    names = {field.name for field in fields(Schedule)}
    return Schedule(**{name: value for name, value in parameters.items() if name in names})


def seed_all(seed):
    """Seed the generators of weights, dropout and shuffling."""
    torch.manual_seed(seed)
    np.random.seed(seed)


def logger(log_metrics):
    """An ``on_epoch`` that logs under ``train/`` and prints a line."""

    def on_epoch(epoch, metrics):
        log_metrics({f"train/{name}": value for name, value in metrics.items()}, epoch)
        print(
            f"epoch {epoch + 1}: "
            + "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        )

    return on_epoch
