"""A training function on workers of a Ray cluster, by Ray Train. If one is lost, all start again,
elsewhere if need be, and the function resumes from its last checkpoint.
"""

import platform
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
import torch
import torch.distributed as dist
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from wsss.cluster.object_store import open_store
from wsss.cluster.session import RETRIES, connect, driver
from wsss.errors import InputError, reason
from wsss.runtime import progress
from wsss.train.parallel import messages


def launch(function: Callable, *arguments: Any, processes: int, **callbacks: Callable) -> Any:
    """``wsss.train.parallel.launch.launch``, with its errors, on workers of the cluster: one GPU
    per worker if the cluster has any, else as many CPUs per worker as all can have. Raises
    InputError too for ``prepare_worker``'s reasons, RuntimeError if workers were lost repeatedly.
    """
    connect()
    scaling = _scaling(processes)
    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    local = {"num_cpus": 0, "scheduling_strategy": node}
    # Ray Train's workers stay in the folder in which they start
    variables = {"env_vars": {"RAY_CHDIR_TO_TRIAL_DIR": "0"}}
    with driver(arguments) as sender:
        queue = Queue(actor_options=local)
        sent = [ray.put((function, arguments, list(callbacks)))]
        # in a process of its own, which can be ended whatever Ray Train is waiting for
        supervise = ray.remote(max_retries=0, runtime_env=variables, **local)(_supervise)
        run = supervise.remote(sender, sent, queue, scaling)
        try:
            return _serve(run, queue, callbacks | {"progress": progress.show})
        finally:
            ray.cancel(run, force=True)
            queue.shutdown(force=True)
            files, folder = _records(sender)
            if files.exists(folder):
                files.rm(folder, recursive=True)


def _scaling(processes):
    """Arguments of ``ScalingConfig``, with the most CPUs per worker that the machines have."""
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
        f"train_processes {processes}: expected 1 to {room}, since each process needs {unit} of "
        "the cluster; change it, or add machines"
    )


def _serve(run, queue, callbacks):
    """Run the callbacks until process 0 returns a result, which this returns too."""
    starts = 0
    progress.show("waiting for workers of the cluster")
    while True:
        message = queue.actor.get.remote()
        ray.wait([message, run])
        if not ray.wait([message], timeout=messages.ERROR_GRACE_SECONDS)[0]:
            raise _lost(run)
        name, *given = ray.get(message)
        if name == "raise":  # a keyword, so no callback has this name
            raise given[0]
        if name == "return":
            ray.wait([run], timeout=messages.EXIT_TIMEOUT)
            return given[0]
        if name in callbacks:
            callbacks[name](*given)
        else:  # process 0 starts
            starts += 1
            if starts > 1:
                print("a worker of the cluster was lost; training resumes from its last checkpoint")


def _lost(run):
    try:
        cause = ray.get(run) or "it ended without a result"
    except ray.exceptions.RayError as error:
        cause = reason(error)
    return RuntimeError(
        f"the Ray cluster lost workers of a training {RETRIES + 1} times ({cause}), most often "
        "because memory ran out; run the same command again to resume from the last checkpoint"
    )


def _records(sender):
    """The folder of Ray Train's own records, which all machines must see, and its file system."""
    place = sender.mirror or f"file://{sender.marker.parent}"
    return open_store(place), f"{sender.marker.name}.train"


def _supervise(sender, sent, queue, scaling):
    """Run Ray Train until a result or the last restart."""
    sender.prepare_worker()
    files, folder = _records(sender)
    given = {"sender": sender, "sent": sent, "queue": queue}
    TorchTrainer(
        _work,
        train_loop_config=given | {"threads": scaling["resources_per_worker"]["CPU"]},
        torch_config=TorchConfig(timeout_s=int(messages.COLLECTIVE_TIMEOUT.total_seconds())),
        scaling_config=ScalingConfig(**scaling),
        run_config=RunConfig(
            name="run",
            storage_path=folder,
            storage_filesystem=PyFileSystem(FSSpecHandler(files)),
            failure_config=FailureConfig(max_failures=RETRIES),
        ),
    ).fit()


def _work(config):
    def send(*message):
        config["queue"].put(message)

    rank = dist.get_rank()
    try:
        config["sender"].prepare_worker()
        torch.set_num_threads(config["threads"])
        task = ray.get(config["sent"][0])
        if rank == 0:
            send("start")
            progress.forward = partial(send, "progress")
        messages.call(task, rank=rank, send=send)
    except messages.PeerLost:
        raise  # the peer reports the cause, or Ray notices that it is gone
    except Exception as error:
        send("raise", messages.picklable_error(error, f"process {rank}, on {platform.node()}"))
        raise
