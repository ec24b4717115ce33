"""Photos and trainings on a Ray cluster of two nodes, emulated on this machine."""

import hashlib
import os
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from test_interruptions import SCHEDULE, Network, assert_same, patches, pixel_loss

from wsss import datasets, models
from wsss.cluster import object_store
from wsss.errors import InputError
from wsss.io import atomic
from wsss.photos import map_photos
from wsss.photos.jobs import cam_job, walk_job
from wsss.runtime import engine
from wsss.synthesis import Walk
from wsss.train.loop import fit
from wsss.train.parallel.launch import launch

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'wsss[cluster]'")
pytestmark = [
    pytest.mark.cluster,
    # Ray leaves files and sockets for the collector to close
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

ENGINE = (engine.PHOTOS, engine.TRAINING, engine.ADDRESS)


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
    for variable in ENGINE:
        monkeypatch.setenv(variable, "")  # restored after the test
    engine.choose(
        photos="wsss.cluster.photos", training="wsss.cluster.training", address=nodes.address
    )
    return nodes


@dataclass
class Noted:
    """A job that logs each photo, slowly."""

    folder: Path

    def done(self, id):
        return (self.folder / id).exists()

    def predict(self, id):
        with (self.folder / "log").open("a") as log:
            log.write(f"{id}\n")
        time.sleep(0.2)
        if id == "bad":
            raise InputError("bad.jpg: no photo")
        return id.upper()

    def postprocess(self, id, payload):
        with atomic.write(self.folder / id) as partial:
            partial.write_text(payload)


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".npz", ".png"))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def synthesised(data, folder, **options):
    """Digests of the maps and labels of a dataset's photos, made by untrained networks."""
    torch.manual_seed(0)
    cam = models.build_cam("small", len(data.classes))
    affinity = models.build_affinity("small")
    ids = data.ids("train")
    job = cam_job(data, cam, folder=folder / "cams", scales=(0.5, 1.0), flip=True)
    assert map_photos.infer(ids, job, label="maps", **options) == len(ids)
    job = walk_job(data, folder / "cams", network=affinity, folder=folder, walk=Walk(steps=16))
    assert map_photos.infer(ids, job, label="walk", **options) == len(ids)
    found = digests(folder)
    assert len(found) == 3 * len(ids)
    return found


def test_label_synthesis_is_the_same_file_for_file(on_ray, tiny_shapes, tmp_path, monkeypatch):
    data = datasets.open("shapes", tiny_shapes)
    by_ray = synthesised(data, tmp_path / "ray")
    monkeypatch.setenv(object_store.ADDRESS, "")
    object_store.choose(f"file://{tmp_path / 'mirror'}")
    assert synthesised(data, tmp_path / "mirrored") == by_ray
    uploaded = tmp_path / "mirror" / str(tmp_path / "mirrored").lstrip("/")
    assert digests(uploaded) == by_ray
    object_store.choose(None)
    engine.choose()
    assert by_ray == synthesised(data, tmp_path / "one", processes=1)
    assert by_ray == synthesised(data, tmp_path / "two", processes=2)


def test_faults_of_photos_are_reported_and_the_others_done(on_ray, tmp_path):
    with pytest.raises(map_photos.PhotosFailed, match=r"bad\.jpg") as failure:
        map_photos.infer(["a", "bad", "b"], Noted(tmp_path), label="x")
    assert list(failure.value.faults) == ["bad"]
    assert (tmp_path / "a").exists() and (tmp_path / "b").exists()


def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch):
    ray.shutdown()  # other tests may have left it connected
    for variable in ENGINE:
        monkeypatch.setenv(variable, "")
    from wsss.cluster import session  # needs Ray

    with pytest.raises(InputError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        session.start("127.0.0.1:1")


def test_a_lost_node_costs_the_photos_under_way_and_nothing_else(on_ray, tmp_path):
    ids = [f"photo{number}" for number in range(40)]
    (tmp_path / "log").touch()
    from wsss.cluster import photos  # needs Ray

    with photos.submitting(Noted(tmp_path)) as (submit, _):
        waiting = [submit(id) for id in ids]
        while sum(future.done() for future in waiting) < 10:
            time.sleep(0.05)
        (node,) = on_ray.worker_nodes
        on_ray.remove_node(node, allow_graceful=False)
        assert [future.result() for future in waiting] == [None] * len(ids)
    on_ray.add_node(num_cpus=1)  # for the next test
    assert all((tmp_path / id).read_text() == id.upper() for id in ids)
    times = Counter((tmp_path / "log").read_text().split())
    assert set(times) == set(ids)
    assert sum(times.values()) - len(ids) <= 2  # one a CPU is under way


TWO = replace(SCHEDULE, train_processes=2)


def slow_loss(network, images, targets):
    time.sleep(0.1)
    return pixel_loss(network, images, targets)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The weights and losses of a training by two processes of this machine."""
    return trained(tmp_path_factory.mktemp("local"))


def trained(folder, loss=pixel_loss, on_epoch=lambda epoch, metrics: None):
    network = Network()
    history = fit(network, patches(), loss=loss, schedule=TWO, folder=folder, on_epoch=on_epoch)
    return network.state_dict(), [metrics["loss"] for metrics in history]


def test_training_ends_as_it_does_in_processes_of_one_machine(undisturbed, on_ray, tmp_path):
    calls = []
    found = trained(tmp_path, on_epoch=lambda epoch, all_: calls.append((epoch, all_["loss"])))
    assert_same(found, undisturbed)
    assert calls == list(enumerate(found[1]))
    assert list(Path(os.environ["WSSS_OUTPUTS"]).glob(".driver-*")) == []


def test_training_keeps_its_checkpoints_in_a_mirror(undisturbed, on_ray, tmp_path, monkeypatch):
    monkeypatch.setenv(object_store.ADDRESS, "")
    object_store.choose(f"file://{tmp_path / 'mirror'}")
    assert_same(trained(tmp_path / "training"), undisturbed)
    (kept,) = (tmp_path / "mirror").rglob("checkpoint.pt")
    assert (tmp_path / "training" / "checkpoint.pt").read_bytes() == kept.read_bytes()
    assert list((tmp_path / "mirror").glob(".driver-*")) == []  # of Ray Train's records


def test_training_goes_on_elsewhere_when_a_machine_is_lost(undisturbed, on_ray, tmp_path, capfd):
    reported = []

    def lose(epoch, metrics):
        reported.append(epoch)
        if epoch == 1:
            (node,) = on_ray.worker_nodes
            on_ray.remove_node(node, allow_graceful=False)
            on_ray.add_node(num_cpus=1)

    assert_same(trained(tmp_path, slow_loss, lose), undisturbed)
    assert reported == list(range(SCHEDULE.epochs))
    assert "a worker of the cluster was lost; training resumes" in capfd.readouterr().out


def straying(network, images, targets):
    raise FloatingPointError("the loss is nan")


def test_an_error_of_a_training_is_raised_at_once(on_ray, tmp_path):
    with pytest.raises(FloatingPointError, match="the loss is nan") as fault:
        trained(tmp_path, straying)
    assert any("in process" in note and "straying" in note for note in fault.value.__notes__)


def test_a_cluster_that_is_too_small_for_a_training_is_one_line(on_ray):
    with pytest.raises(InputError, match=r"train_processes 3: expected 1 to 2, .* CPU"):
        launch(trained, processes=3)
