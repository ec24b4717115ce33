"""The machine's cores and GPUs, shared out among stages that run at the same time."""

import os
from typing import NamedTuple

import torch

from wsss.errors import InputError
from wsss.runtime import devices

GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"
THREADS_VARIABLE = "OMP_NUM_THREADS"


class Share(NamedTuple):
    """What the processes of a stage may use.

    Attributes:
        cores: their numbers; None for all that this process may use.
        gpus: what CUDA calls them; None for all.
    """

    cores: tuple | None = None
    gpus: tuple | None = None

    @property
    def count(self):
        """Of the cores."""
        return devices.cores() if self.cores is None else len(self.cores)

    def environment(self):
        """The variables that keep a stage's processes to it."""
        found = {}
        if self.cores is not None:
            found[devices.CORES_VARIABLE] = ",".join(map(str, self.cores))
            found[THREADS_VARIABLE] = os.environ.get(THREADS_VARIABLE, str(self.count))
        if self.gpus is not None:
            found[GPUS_VARIABLE] = ",".join(self.gpus)
        return found


class Shares:
    """What of the machine is free. Whoever calls from several threads holds a lock.

    A stage's share depends on how many such stages there are, never on what else happens to run:
    sums differ in the last bits with the number of threads, and the same command shall give the
    same bits.

    Args:
        jobs: how many stages may run at once; more of them than cores share cores.
        gpus_per_job: for each one's own use; 0 takes one where there are GPUs and several jobs.

    Raises:
        InputError: there are not as many GPUs.
    """

    def __init__(self, jobs=1, gpus_per_job=0):
        self._jobs, self._load = jobs, dict.fromkeys(_cores(), 0)  # core to its stages
        self._gpus = _gpus()
        self._each = gpus_per_job or int(jobs > 1 and bool(self._gpus))
        if jobs * self._each > len(self._gpus):
            raise InputError(
                f"{jobs} jobs with GPUs of their own, {self._each} each: there are "
                f"{len(self._gpus)} GPUs; change --jobs or --gpus-per-job"
            )

    def take(self, among=1):
        """A ``Share`` for one of so many stages that might run at once, or None where not as much
        is free.
        """
        size = max(1, len(self._load) // min(self._jobs, among))
        most = max(self._jobs, len(self._load))
        if sum(self._load.values()) + size > most or len(self._gpus) < self._each:
            return None
        cores = sorted(self._load, key=self._load.get)[:size]
        for core in cores:
            self._load[core] += 1
        gpus, self._gpus = self._gpus[: self._each], self._gpus[self._each :]
        whole = size == len(self._load)
        return Share(None if whole else tuple(sorted(cores)), tuple(gpus) or None)

    def give_back(self, share):
        """Have a share be free again."""
        for core in self._load if share.cores is None else share.cores:
            self._load[core] -= 1
        self._gpus = sorted([*self._gpus, *(share.gpus or ())])


def _cores():
    """The numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(devices.cores()))


def _gpus():
    """The GPUs that this process may use, as CUDA calls them."""
    count = torch.cuda.device_count()
    named = os.environ.get(GPUS_VARIABLE, "").split(",")
    return (named if named[0] else [str(number) for number in range(count)])[:count]
