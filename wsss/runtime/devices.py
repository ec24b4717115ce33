"""The device and precision of networks, the cores, seconds and memory of processes."""

import ctypes
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

CORES_VARIABLE = "WSSS_CORES"  # numbers of the cores that a stage and its processes may use


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    given = os.environ.get(CORES_VARIABLE)  # on systems that do not bind processes to cores
    return len(given.split(",")) if given else os.cpu_count() or 1


def pick_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision(device: torch.device, *, training: bool = False) -> torch.dtype:
    """The precision that networks compute in: bfloat16 on a GPU, and for inference on a processor
    with bfloat16 units; else float32.
    """
    # Other processors are ten times slower in bfloat16. With such units training was no faster than
    # in float32 and learnt less: the built-in dataset's classifier lost 0.41 instead of 0.26.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    faster = device.type == "cuda" or (native and not training)
    return torch.bfloat16 if faster else torch.float32


def autocast(device: torch.device, *, training: bool = False) -> torch.autocast:
    """torch's autocast to ``precision``."""
    wanted = precision(device, training=training)
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted == torch.bfloat16)


@contextmanager
def repeatable(*, gpu: bool = False) -> Iterator[None]:
    """Compute the same bits every time within the block, with the same kind of processor, number of
    threads and packages: on a processor always, on a GPU only with ``gpu``, since it is slower and
    raises RuntimeError for operations of which torch has no deterministic version.
    """
    cuda = pick_device().type == "cuda"
    if cuda and not gpu:
        yield
        return
    if cuda:  # cuBLAS reads it at the first product
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    algorithms = torch.get_deterministic_debug_mode()
    deterministic: Any = torch.utils.deterministic
    fill = deterministic.fill_uninitialized_memory
    cudnn = torch.backends.cudnn
    chosen = cudnn.deterministic, cudnn.benchmark
    # use_deterministic_algorithms would load a compiler first, for 1.5 s in each process
    torch.set_deterministic_debug_mode("error")
    deterministic.fill_uninitialized_memory = False  # nothing reads it, and it takes time
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(algorithms)
        deterministic.fill_uninitialized_memory = fill
        cudnn.deterministic, cudnn.benchmark = chosen


def as_batch(image: np.ndarray, device: torch.device) -> torch.Tensor:
    """A photo, uint8 RGB (H, W, 3), as float32 (1, 3, H, W) in [0, 1] on a device."""
    pixels = torch.tensor(np.ascontiguousarray(image))  # a copy: photos may be read-only
    return pixels.to(device).permute(2, 0, 1)[None].float() / 255


def peak_memory() -> dict[str, int]:
    """The peak memory in bytes of this process, and the largest of its ended child processes, with
    that of its parent then: ``{"process": ..., "worker": ...}``; empty on Windows.
    """
    try:
        import resource
    except ImportError:  # Windows
        return {}
    unit = 1 if sys.platform == "darwin" else 1024
    kinds = {"process": resource.RUSAGE_SELF, "worker": resource.RUSAGE_CHILDREN}
    return {name: unit * resource.getrusage(kind).ru_maxrss for name, kind in kinds.items()}


_work_seconds = 0.0  # of this process, which runs one stage


@contextmanager
def timed_work() -> Iterator[None]:
    """Add the seconds within the block, or in calls of the decorated function, to the
    ``work_seconds`` of ``usage``. Blocks must neither nest nor run in several threads.
    """
    global _work_seconds
    began = time.monotonic()
    try:
        yield
    finally:
        _work_seconds += time.monotonic() - began


def usage() -> dict[str, float]:
    """Counters of this process; differences of two calls are meaningful: ``seconds`` of the clock,
    ``work_seconds`` in ``timed_work``, which more processors shorten, unlike figures and scores,
    and ``cpu_seconds``, with those of ended child processes.
    """
    cpu = sum(os.times()[:4])  # user and system, of this process and its children
    return {"seconds": time.monotonic(), "work_seconds": _work_seconds, "cpu_seconds": cpu}


def reuse_memory() -> None:
    """Keep freed memory, up to 2 GiB, in this process; without glibc, do nothing. The system clears
    every page that it hands out: with MobileNetV2 on 2 cores, training took 12 to 25 % longer.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # TypeError: Windows
        return
    mallopt(-4, 0)  # M_MMAP_MAX: no block has a mapping of its own
    mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
