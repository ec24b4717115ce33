"""Photos on a Ray cluster of two nodes, emulated on this machine."""

import hashlib
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from wsss import datasets, engines, infer, models, storage
from wsss.errors import InputError
from wsss.jobs import CamJob, WalkJob
from wsss.synthesis import Walk

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'wsss[cluster]'")
pytestmark = [
    pytest.mark.cluster,
    # Ray leaves files and sockets for the collector to close
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """A cluster of two nodes with a CPU each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # of which nodes, and workers in turn, have what this process has when they start
        patch.setenv("WSSS_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.getcwd()]))
        emulated = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        emulated.add_node(num_cpus=1)
        yield emulated
        ray.shutdown()
        emulated.shutdown()


@pytest.fixture
def on_ray(nodes, monkeypatch):
    """The cluster, with this process working on it."""
    monkeypatch.setenv(engines.VARIABLE, nodes.address)
    return nodes


@dataclass
class Noted:
    """A job that tells what it did to which photo, and takes its time."""

    folder: Path

    def done(self, id):
        return (self.folder / id).exists()

    def forward(self, id):
        with (self.folder / "log").open("a") as log:
            log.write(f"{id}\n")
        time.sleep(0.2)
        if id == "bad":
            raise InputError("bad.jpg: no photo")
        return id.upper()

    def finish(self, id, payload):
        with storage.atomic(self.folder / id) as partial:
            partial.write_text(payload)


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".npz", ".png"))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_label_synthesis_is_the_same_file_for_file(on_ray, tiny_shapes, tmp_path, monkeypatch):
    torch.manual_seed(0)
    data = datasets.open("shapes", tiny_shapes)
    cam = models.build_cam("small", len(data.classes))
    affinity = models.build_affinity("small")
    ids = data.ids("train")

    def synthesise(name, **options):
        folder = tmp_path / name
        job = CamJob(data, cam, folder / "cams", (0.5, 1.0), True)
        assert infer.infer(ids, job, label="maps", **options) == len(ids)
        job = WalkJob(data, folder / "cams", affinity, folder, Walk(steps=16))
        assert infer.infer(ids, job, label="walk", **options) == len(ids)
        return digests(folder)

    by_ray = synthesise("ray")
    assert len(by_ray) == 3 * len(ids)
    monkeypatch.delenv(engines.VARIABLE)
    assert by_ray == synthesise("one", processes=1) == synthesise("two", processes=2)


def test_faults_of_photos_are_told_and_the_others_done(on_ray, tmp_path):
    with pytest.raises(infer.PhotosFailed, match=r"bad\.jpg") as told:
        infer.infer(["a", "bad", "b"], Noted(tmp_path), label="x")
    assert list(told.value.faults) == ["bad"]
    assert (tmp_path / "a").exists() and (tmp_path / "b").exists()


def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch):
    ray.shutdown()  # other tests may have left it connected
    monkeypatch.setenv(engines.VARIABLE, "")
    with pytest.raises(InputError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        engines.choose("ray", "127.0.0.1:1")


def test_a_lost_node_costs_the_photos_under_way_and_nothing_else(on_ray, tmp_path):
    ids = [f"photo{number}" for number in range(40)]
    (tmp_path / "log").touch()
    from wsss import cluster  # needs Ray

    with cluster.submitting(Noted(tmp_path)) as (submit, _):
        waiting = [submit(id) for id in ids]
        while sum(future.done() for future in waiting) < 10:
            time.sleep(0.05)
        (node,) = on_ray.worker_nodes
        on_ray.remove_node(node, allow_graceful=False)
        assert [future.result() for future in waiting] == [None] * len(ids)
    assert all((tmp_path / id).read_text() == id.upper() for id in ids)
    times = Counter((tmp_path / "log").read_text().split())
    assert set(times) == set(ids)
    assert sum(times.values()) - len(ids) <= 2  # one a CPU is under way
