"""What becomes of freed memory and of waiting threads, seen from outside, in a process of its own;
and when results repeat.
"""

import os
import platform
import subprocess
import sys

import pytest
import torch

from wsss.runtime import devices

PROGRAM = """
import numpy as np
from benchmarks.harness import release_memory
from wsss.runtime.devices import reuse_memory

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) // 1024

before = resident()
for choose in (reuse_memory, release_memory):
    choose()
    np.ones(100 << 20, np.uint8)
    print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_stays_in_the_process_or_goes_back():
    command = [sys.executable, "-c", PROGRAM]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    kept, after = map(int, answer.stdout.split())
    assert kept > 90 and after < 20  # MiB


PEAK = """
import subprocess, sys
from wsss.runtime.devices import peak_memory

before = peak_memory()["process"]
bytearray(b"x") * (100 << 20)
subprocess.run([sys.executable, "-c", "bytearray(b'x') * (900 << 20)"], check=True)
print((peak_memory()["process"] - before) >> 20, peak_memory()["worker"] >> 20)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_the_most_memory_that_a_process_and_one_of_its_own_had():
    # started by a process that has little, since it counts from what that one has
    between = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {PEAK!r}], check=True)"
    )
    answer = subprocess.run([sys.executable, "-c", between], capture_output=True, check=True)
    process, worker = map(int, answer.stdout.split())
    assert 50 < process < 150 and 900 <= worker < 1000  # MiB


def choices():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("gpu", [False, True])
def test_repeatable_on_a_processor_always_and_on_a_gpu_where_asked_for(monkeypatch, device, gpu):
    """What is chosen; that a GPU then keeps to it is torch's word."""
    monkeypatch.setattr(devices, "pick_device", lambda: torch.device(device))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is put back
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    before = choices()
    with pytest.raises(KeyError), devices.repeatable(gpu=gpu):
        asked = device == "cpu" or gpu
        assert choices() == ((True, False, True, False) if asked else before)
        cublas = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
        assert cublas == (":4096:8" if device == "cuda" and gpu else None)
        raise KeyError
    assert choices() == before


@pytest.mark.parametrize("given", [None, "17"])
def test_threads_look_for_a_moment_and_then_sleep_unless_told_otherwise(given):
    """As the library of torch's threads says itself: it reads that when it is loaded."""
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE"} | ({"GOMP_SPINCOUNT": given} if given else {})
    command = [sys.executable, "-c", "import wsss.runtime.devices"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    if "GOMP_SPINCOUNT" not in answer.stderr:
        pytest.skip("torch's threads here are not GNU OpenMP's")
    assert f"GOMP_SPINCOUNT = '{given or 2000}'" in answer.stderr
