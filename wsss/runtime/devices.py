"""Where networks run, on how many cores, in which precision, and what becomes of their memory."""

import ctypes
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

CORES_VARIABLE = "WSSS_CORES"  # numbers of the cores that a stage and its processes may use


def cores():
    """How many cores this process may use: those that it is kept to, or all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    given = os.environ.get(CORES_VARIABLE)  # where the system keeps no process to some
    return len(given.split(",")) if given else os.cpu_count() or 1


def pick_device():
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision(device, *, training=False):
    """What networks compute in: bfloat16 where it pays, on a GPU, and for inference on a processor
    that computes in it; else float32.

    Processors without such units are ten times slower in bfloat16. With them, training was no
    faster than in float32 and learnt less: the built-in dataset's classifier ended at a loss of
    0.41 instead of 0.26.
    """
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    pays = device.type == "cuda" or (native and not training)
    return torch.bfloat16 if pays else torch.float32


def autocast(device, *, training=False):
    """torch's autocast to ``precision``."""
    wanted = precision(device, training=training)
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted == torch.bfloat16)


@contextmanager
def repeatable(*, gpu=False):
    """Compute the same bits every time, inside a ``with``: on a processor always, on a GPU only
    where it is asked for, since it is slower there.

    The processor must be of the same kind and use as many threads, and the packages be the same.
    What torch knows no repeatable way for on a GPU raises a RuntimeError.
    """
    cuda = pick_device().type == "cuda"
    if cuda and not gpu:
        yield
        return
    if cuda:  # read when the GPU's products are first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    algorithms = torch.get_deterministic_debug_mode()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    cudnn = torch.backends.cudnn
    chosen = cudnn.deterministic, cudnn.benchmark
    # use_deterministic_algorithms would load a compiler first, for 1.5 s in each process
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = (
        False  # nothing reads it, and it takes time
    )
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(algorithms)
        torch.utils.deterministic.fill_uninitialized_memory = fill
        cudnn.deterministic, cudnn.benchmark = chosen


def as_batch(image, device):
    """A photo, uint8 RGB (H, W, 3), as float (1, 3, H, W) in [0, 1] on a device."""
    pixels = torch.tensor(np.ascontiguousarray(image))  # a copy: photos may be read-only
    return pixels.to(device).permute(2, 0, 1)[None].float() / 255


def peak_memory():
    """The most memory that this process had at once, and the most that one of those that it started
    and that have ended had, in bytes: ``{"process": ..., "worker": ...}``; empty on Windows.

    Each is at least what the process that started it had at that moment.
    """
    try:
        import resource
    except ImportError:  # Windows
        return {}
    unit = 1 if sys.platform == "darwin" else 1024
    kinds = {"process": resource.RUSAGE_SELF, "worker": resource.RUSAGE_CHILDREN}
    return {name: unit * resource.getrusage(kind).ru_maxrss for name, kind in kinds.items()}


_work_seconds = 0.0  # of this process, in ``timed_work``


@contextmanager
def timed_work() -> Iterator[None]:
    """Count the seconds inside, or in the calls of a function that this decorates, as
    ``work_seconds`` of ``usage``: what more processors shorten, unlike figures and scores.
    """
    global _work_seconds
    began = time.monotonic()
    try:
        yield
    finally:
        _work_seconds += time.monotonic() - began


def gpu_used() -> bool:
    """Whether this process has used a GPU; not every stage of a machine with one does."""
    return torch.cuda.is_initialized()


def usage() -> dict[str, float]:
    """Seconds that this process has used up to now: ``seconds`` of the clock, ``work_seconds`` of
    these in ``timed_work``, and ``cpu_seconds`` of the processor, with its ended child processes.
    """
    cpu_seconds = sum(os.times()[:4])  # user and system, of this process and of its children
    seconds = {"seconds": time.monotonic(), "work_seconds": _work_seconds}
    return seconds | {"cpu_seconds": cpu_seconds}


def reuse_memory():
    """Have the C library keep freed memory, up to 2 GiB, for what comes next in this process.

    Activations take hundreds of MB that come and go with each photo or step, and the system clears
    every page that it hands out: with MobileNetV2 on 2 cores, training took 12 to 25 % longer that
    way. Where the C library is not glibc, nothing happens.
    """
    _mallopt(mappings=0, mapped_from=32 << 20, kept=2**31 - 1)


def release_memory():
    """Have the C library hand freed memory back as it does by itself once blocks of 32 MiB and
    more have come and gone.
    """
    _mallopt(mappings=1 << 16, mapped_from=32 << 20, kept=64 << 20)


def _mallopt(*, mappings, mapped_from, kept):
    """How many blocks may have mappings of their own, from how many bytes on, and how many bytes
    of freed memory are kept.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # TypeError: Windows
        return
    mallopt(-4, mappings)  # M_MMAP_MAX
    mallopt(-3, mapped_from)  # M_MMAP_THRESHOLD
    mallopt(-1, kept)  # M_TRIM_THRESHOLD
