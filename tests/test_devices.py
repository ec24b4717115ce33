"""What becomes of freed memory, seen from outside, in a process of its own."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np
from wsss.devices import release_memory, reuse_memory

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
