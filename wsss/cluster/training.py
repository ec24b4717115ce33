"""A training function on workers of a Ray cluster, by Ray Train.

Where a worker or its machine is lost, all of them start again, elsewhere if need be, and the
function goes on from what it kept.
"""

import platform
from functools import partial

import fsspec
import ray
import torch
import torch.distributed as dist
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from wsss.cluster.object_store import open_store
from wsss.cluster.session import RETRIES, connect, driver, mirrored
from wsss.errors import InputError, reason
from wsss.runtime import progress
from wsss.train.parallel.messages import (
    COLLECTIVE_TIMEOUT,
    ERROR_GRACE_SECONDS,
    EXIT_TIMEOUT,
    PeerLost,
    ignore,
    picklable_error,
)

# Ray Train's newer way of working, which older releases want to be asked for, and workers left in
# the folder that they start in.
SETTINGS = {"RAY_TRAIN_V2_ENABLED": "1", "RAY_CHDIR_TO_TRIAL_DIR": "0"}


def launch(function, *arguments, processes, **callbacks):
    """What ``train.parallel.launch`` does, on workers of the cluster: a GPU each where it has any,
    else as many CPUs each as all can have.

    Raises:
        InputError: the cluster is too small, or one of its machines has another wsss or other
            folders.
        RuntimeError: workers were lost again and again.
        Exception: what the function raised in whichever worker was first.
    """
    connect()
    scaling = _scaling(processes)
    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    here = {"num_cpus": 0, "scheduling_strategy": node}
    with driver() as there, mirrored(arguments):
        queue = Queue(actor_options=here)
        sent = [ray.put((function, arguments, list(callbacks)))]
        # in a process of its own, which can be ended whatever Ray Train is waiting for
        supervise = ray.remote(max_retries=0, runtime_env={"env_vars": SETTINGS}, **here)
        run = supervise(_supervise).remote(there, sent, queue, scaling)
        try:
            return _answer(run, queue, callbacks)
        finally:
            ray.cancel(run, force=True)
            queue.shutdown(force=True)
            files, records = _records(there)
            if files.exists(records):
                files.rm(records, recursive=True)


def _scaling(processes):
    """What each worker gets, so that all fit on the cluster's machines."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpu = any(node.get("GPU") for node in nodes)
    counts = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
    room = 0
    for cpus in range(max(count for count, _ in counts), 0, -1):
        room = sum(min(c // cpus, g) if gpu else c // cpus for c, g in counts)
        if room >= processes:
            resources = {"CPU": cpus} | ({"GPU": 1} if gpu else {})
            return {"num_workers": processes, "use_gpu": gpu, "resources_per_worker": resources}
    unit = "a GPU and a CPU" if gpu else "a CPU"
    raise InputError(
        f"{processes} processes to train together: expected 1 to {room}, since each wants {unit} "
        "of the cluster; change train_processes"
    )


def _answer(run, queue, callbacks):
    """What the first worker's function returned, its calls being made meanwhile."""
    begun = False
    progress.show("waiting for workers of the cluster")
    while True:
        message = queue.actor.get.remote()
        ray.wait([message, run])
        if not ray.wait([message], timeout=ERROR_GRACE_SECONDS)[0]:
            raise _given_up(run)
        kind, value = ray.get(message)
        if kind == "error":
            raise value
        if kind == "result":
            ray.wait([run], timeout=EXIT_TIMEOUT)
            return value
        if kind == "call":
            name, given = value
            callbacks[name](*given)
        elif kind == "progress":
            progress.show(value)
        elif begun:
            print("a worker of the cluster was lost; training goes on from its last checkpoint")
        begun = True


def _given_up(run):
    """The error of a training that ended without a result."""
    try:
        ray.get(run)
        said = "it ended without a result"
    except ray.exceptions.RayError as fault:
        said = reason(fault)
    return RuntimeError(
        f"the Ray cluster lost workers of a training {RETRIES + 1} times ({said}), most often "
        "because memory ran out; the same command goes on from the last checkpoint"
    )


def _records(there):
    """Ray Train's own folder, which all machines have to see, after fsspec's file system of it."""
    if there.mirror:
        files, root = open_store()
    else:
        files, root = fsspec.filesystem("file"), there.marker.parent
    return files, f"{root}/{there.marker.name}.train"


def _supervise(there, sent, queue, scaling):
    """Ray Train's part, from the first start of workers to the last."""
    there.prepare_worker()
    files, records = _records(there)
    folder, _, name = records.rpartition("/")
    TorchTrainer(
        _work,
        train_loop_config={"there": there, "sent": sent, "queue": queue}
        | {"threads": scaling["resources_per_worker"]["CPU"]},
        torch_config=TorchConfig(timeout_s=int(COLLECTIVE_TIMEOUT.total_seconds())),
        scaling_config=ScalingConfig(**scaling),
        run_config=RunConfig(
            name=name,
            storage_path=folder,
            storage_filesystem=PyFileSystem(FSSpecHandler(files)),
            failure_config=FailureConfig(max_failures=RETRIES),
        ),
    ).fit()


def _work(config):
    """A worker's life."""
    queue, rank = config["queue"], dist.get_rank()
    try:
        config["there"].prepare_worker()
        torch.set_num_threads(config["threads"])
        function, arguments, names = ray.get(config["sent"][0])
        if rank == 0:
            queue.put(("begun", None))
            progress.forward_to(partial(_say, queue, "progress"))
        callbacks = {name: ignore if rank else partial(_call, queue, name) for name in names}
        result = function(*arguments, **callbacks)
    except PeerLost:
        raise  # the peer reports the cause, or Ray notices that it is gone
    except Exception as error:
        where = f"process {rank}, on {platform.node()}"
        queue.put(("error", picklable_error(error, where)))
        raise
    if rank == 0:
        queue.put(("result", result))


def _say(queue, kind, value):
    queue.put((kind, value))


def _call(queue, name, *given):
    queue.put(("call", (name, given)))
