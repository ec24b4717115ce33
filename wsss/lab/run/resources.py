"""The machine's cores and GPUs, divided among stages that run at the same time."""

import os
from typing import NamedTuple

import torch

from wsss.errors import InputError
from wsss.runtime import devices

GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"
THREADS_VARIABLE = "OMP_NUM_THREADS"


class Share(NamedTuple):
    """What a stage's processes may use: cores by number, GPUs by name; None for all."""

    cores: tuple[int, ...] | None = None
    gpus: tuple[str, ...] | None = None  # as in CUDA_VISIBLE_DEVICES

    @property
    def core_count(self) -> int:
        return devices.cores() if self.cores is None else len(self.cores)

    def environment(self) -> dict[str, str]:
        """The variables that limit a stage's processes to this share."""
        found = {}
        if self.cores is not None:
            found[devices.CORES_VARIABLE] = ",".join(map(str, self.cores))
            found[THREADS_VARIABLE] = os.environ.get(THREADS_VARIABLE, str(self.core_count))
        return found | ({} if self.gpus is None else {GPUS_VARIABLE: ",".join(self.gpus)})


class Shares:
    """The machine's free cores and GPUs. Callers in several threads hold a lock.

    A stage's share depends on the number of such stages, never on what else happens to run: sums
    differ in the last bits with the number of threads, and the same command must give the same
    bits. If ``jobs``, which may run at once, are more than the cores, they share cores. Each has
    ``gpus_per_job`` of its own (InputError if there are fewer); 0 takes one for several jobs on a
    machine with GPUs.
    """

    def __init__(self, jobs: int = 1, gpus_per_job: int = 0):
        self._jobs, self._load = jobs, dict.fromkeys(_cores(), 0)  # core to its number of stages
        self._gpus = _gpus()
        self._each = gpus_per_job or int(jobs > 1 and bool(self._gpus))
        if jobs * self._each > len(self._gpus):
            raise InputError(
                f"{jobs} jobs with GPUs of their own, {self._each} each: there are "
                f"{len(self._gpus)} GPUs; change --jobs or --gpus-per-job"
            )

    def take(self, among: int = 1) -> Share | None:
        """A share for one of ``among`` stages that might run at once; None if it is not free."""
        size = max(1, len(self._load) // min(self._jobs, among))
        taken = sum(self._load.values()) + size > max(self._jobs, len(self._load))
        if taken or len(self._gpus) < self._each:
            return None
        cores = sorted(self._load, key=lambda core: self._load[core])[:size]
        for core in cores:
            self._load[core] += 1
        gpus, self._gpus = self._gpus[: self._each], self._gpus[self._each :]
        whole = size == len(self._load)
        return Share(None if whole else tuple(sorted(cores)), tuple(gpus) or None)

    def give_back(self, share: Share) -> None:
        for core in self._load if share.cores is None else share.cores:
            self._load[core] -= 1
        self._gpus = sorted([*self._gpus, *(share.gpus or ())])


def _cores():
    """The numbers of the cores that this process may use."""
    bound = hasattr(os, "sched_getaffinity")
    return sorted(os.sched_getaffinity(0) if bound else range(devices.cores()))


def _gpus():
    """The GPUs that this process may use, by their names in CUDA_VISIBLE_DEVICES."""
    count = torch.cuda.device_count()
    named = os.environ.get(GPUS_VARIABLE, "").split(",")
    return (named if named[0] else [str(number) for number in range(count)])[:count]
