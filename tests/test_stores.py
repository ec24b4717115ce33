"""Tracking stores that are wrong, away, damaged, new or moved: nothing of a record is lost or
written into another's run, and one line says what to do.
"""

import importlib.util
import shutil
import sqlite3
import time
from contextlib import closing

import mlflow
import numpy as np
import pytest
from mlflow.protos import databricks_pb2
from PIL import Image

from wsss.cli.project import PROJECT
from wsss.errors import InputError
from wsss.io import atomic
from wsss.lab import paths, results
from wsss.lab.plan import Planned
from wsss.lab.record import delivery, mlflow_runs, mlflow_store, stage_run
from wsss.lab.record.journal import Journal, legal

STEPS = 3
SECRET = "hunter2"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, empty_store):
    """A folder with two empty stores, ``mlflow.db``, which is used, and ``new.db``."""
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path / "outputs"))
    for name in ("mlflow.db", "new.db"):
        shutil.copy(empty_store, tmp_path / name)
    with closing(sqlite3.connect(tmp_path / "new.db")) as store:  # made a moment later
        store.execute("UPDATE experiments SET creation_time = creation_time + 1")
        store.commit()
    use(monkeypatch, tmp_path / "mlflow.db")
    return tmp_path


def use(monkeypatch, store):
    address = store if isinstance(store, str) else f"sqlite:///{store}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(path)
    return path


def stage(fingerprint="0a", *, metrics=None, parent=None):
    """The folder of a completed stage, recorded but not delivered."""
    folder = paths.stage_folder("walk", fingerprint)
    record = Journal(folder)
    record.begin("toys", "walk", tags={"wsss.stage": "walk"}, parent=parent)
    record.add("params", values={"beta": 4})
    for step in range(STEPS):
        record.metrics({"train/loss": 1 / (1 + step)}, step)
    record.file(picture(folder / "gallery" / "a.png"), kind="image", key="gallery/a")
    metrics = metrics or {"miou": 8.75}
    record.metrics(metrics)
    about = {"stage": "walk", "fingerprint": fingerprint, "data_digest": "d", "metrics": metrics}
    about |= {"parameters": {}, "inputs": {}, "ended": 1.0}
    atomic.save_json(folder / results.COMPLETE, about)
    record.file(folder / results.COMPLETE)
    record.end("FINISHED")
    return folder


def chain():
    """The folders of an experiment's run and of its one stage."""
    parent = Journal(paths.outputs_root() / "runs" / 'it\'s 100 % "toys"-1')
    parent.begin("toys", "toys", tags={})
    folder = stage(parent=parent.folder)
    parent.add("stage", name="walk", folder=str(folder))
    parent.end("FINISHED")
    return parent.folder, folder


def seen(folder):
    """What the store has of a folder's journal, where it has its run."""
    client, run_id = mlflow_store.client(), mlflow_runs.run_of(folder)
    run = client.get_run(run_id)
    steps = [(m.step, m.value) for m in client.get_metric_history(run_id, "train/loss")]
    figures = [m.value for m in client.get_metric_history(run_id, "miou")]
    files = [file.path for file in client.list_artifacts(run_id)]
    images = [file.path.split("+")[0] for file in client.list_artifacts(run_id, "images")]
    return run.info.status, run.data.params, steps, figures, sorted(files), images


WHOLE = (
    "FINISHED",
    {"beta": "4"},
    [(step, 1 / (1 + step)) for step in range(STEPS)],
    [8.75],
    ["complete.json", "images"],
    ["images/gallery~a"] * 2,  # MLflow keeps a small one beside it
)


def other_bytes(place):
    (place / "other.db").write_text("not a database\n" * 99)
    return place / "other.db"


def damaged(place):
    """A store that lost all but its first pages."""
    content = bytearray((place / "new.db").read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)
    (place / "damaged.db").write_bytes(content)
    return place / "damaged.db"


WRONG = {
    "no scheme": lambda place: str(place / "mlflow.db"),
    "a folder of files": lambda place: f"file://{place / 'mlruns'}",
    "an unknown scheme": lambda place: f"foo://me:{SECRET}@host/x",
    "no driver": lambda place: f"mysql://me:{SECRET}@127.0.0.1/x",
    "an unknown driver": lambda place: f"postgresql+foo://me:{SECRET}@127.0.0.1/x",
    "a port that is no number": lambda place: f"postgresql://me:{SECRET}@127.0.0.1:x/x",
    "a database that is down": lambda place: f"postgresql+psycopg://me:{SECRET}@127.0.0.1:1/x",
    "a folder": lambda place: place,
    "other bytes": other_bytes,
    "a damaged store": damaged,
    "memory": lambda place: "sqlite:///:memory:",
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_address_is_one_line_and_loses_nothing(place, monkeypatch, kind):
    if kind == "no driver" and importlib.util.find_spec("MySQLdb"):
        pytest.skip("the driver is installed")
    if kind == "a database that is down":
        pytest.importorskip("psycopg")
    folder, printed, began = stage(), [], time.monotonic()
    use(monkeypatch, WRONG[kind](place))
    with delivery.Uploader(printed.append) as uploader:
        uploader.watch(folder)
    (line,) = printed  # of several attempts
    assert "MLFLOW_TRACKING_URI" in line and "\n" not in line and SECRET not in line
    assert time.monotonic() - began < 20  # MLflow alone would take 103 seconds
    with pytest.raises(InputError, match=r"the tracking store .* set MLFLOW_TRACKING_URI"):
        mlflow_store.find_run("0" * 32)  # as people's commands do
    with pytest.raises(InputError, match="the tracking store"):
        delivery.close_stale_runs()
    assert delivery.waiting(folder)
    use(monkeypatch, place / "new.db")
    delivery.close_stale_runs()
    assert seen(folder) == WHOLE and not delivery.waiting(folder)
    assert delivery.completed(folder).metrics["miou"] == 8.75


def test_an_address_without_its_scheme_is_given_with_it(place, monkeypatch):
    use(monkeypatch, str(place / "mlflow.db"))
    with pytest.raises(InputError, match=f"such as sqlite:///{place / 'mlflow.db'} or"):
        mlflow_store.client()


class ArtifactsAway(Exception):
    """Of a library that keeps MLflow's files, such as S3's."""


AWAY = [
    mlflow.MlflowException("(sqlite3.DatabaseError) malformed", databricks_pb2.BAD_REQUEST),
    mlflow.MlflowException("out of order", databricks_pb2.INTERNAL_ERROR),
    OSError(28, "No space left on device"),
    ArtifactsAway("cannot connect"),
]


@pytest.mark.parametrize("call", ["create_run", "log_batch", "log_artifact", "set_terminated"])
def test_what_the_store_did_not_take_is_not_ticked_off(place, monkeypatch, call):
    folder = stage()
    for fault in AWAY:

        def fail(*given, fault=fault, **more):
            raise fault

        with monkeypatch.context() as patch:
            patch.setattr(mlflow_store.MlflowClient, call, fail)
            with pytest.raises(InputError, match=r"cannot be used \(.*\); make"):
                delivery.deliver(folder)
    assert delivery.deliver(folder) == [] and seen(folder) == WHOLE


def test_a_refusal_of_a_run_that_is_gone_ticks_nothing_off(place, monkeypatch):
    """As when someone deletes it in MLflow's pages while it is delivered."""
    folder, real = stage(), mlflow_store.MlflowClient.log_batch

    def delete_first(client, run_id, **more):
        client.delete_run(run_id)
        return real(client, run_id, **more)

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_store.MlflowClient, "log_batch", delete_first)
        with pytest.raises(InputError, match="must be in the 'active' state"):
            delivery.deliver(folder)
    assert delivery.deliver(folder) == [] and seen(folder) == WHOLE


def test_a_deleted_experiment_waits_until_it_is_restored(place):
    folder = stage()
    delivery.deliver(folder)
    client, id, before = mlflow_store.client(), mlflow_store.experiment_id("toys"), seen(folder)
    client.delete_experiment(id)
    Journal(folder).metrics({"after": 1.0})
    for _ in range(2):
        with pytest.raises(InputError, match=f"restore --experiment-id {id}$"):
            delivery.deliver(folder)
    with pytest.raises(InputError, match="'toys' was deleted"):
        delivery.completed(folder)
    client.restore_experiment(id)
    delivery.deliver(folder)
    assert seen(folder) == before == WHOLE
    assert delivery.completed(folder).metrics["after"] == 1


def test_a_record_that_was_ticked_off_without_a_run_is_delivered(place):
    folder = stage()
    size = (folder / results.JOURNAL).stat().st_size
    atomic.save_json(folder / results.DELIVERED, {"offset": size, "run_id": None})
    assert delivery.pending() == [folder]
    delivery.close_stale_runs()
    assert seen(folder) == WHOLE


def count(monkeypatch):
    """The names of the client's calls that send something, from now on."""
    calls = []
    for name in ("create_run", "log_batch", "log_artifact", "log_image", "set_terminated"):
        real = getattr(mlflow_store.MlflowClient, name)

        def call(*given, name=name, real=real, **more):
            calls.append(name)
            return real(*given, **more)

        monkeypatch.setattr(mlflow_store.MlflowClient, name, call)
    return calls


@pytest.mark.parametrize("way", ["another address", "a file of before stores had an identity"])
def test_a_store_that_is_known_gets_nothing_again(place, monkeypatch, way):
    folder = stage()
    delivery.deliver(folder)
    calls = count(monkeypatch)
    if way == "another address":
        use(monkeypatch, f"sqlite:///{place}/./mlflow.db")
    else:
        (state,) = mlflow_runs.states(folder).values()
        atomic.save_json(folder / results.DELIVERED, state)
    delivery.close_stale_runs()
    assert delivery.pending() == [] and calls == [] and seen(folder) == WHOLE


def test_a_new_store_gets_all_of_it_and_says_so(place, monkeypatch):
    parent, folder = chain()
    delivery.close_stale_runs()
    first = {each: mlflow_runs.run_of(each) for each in (parent, folder)}
    use(monkeypatch, place / "new.db")
    printed = []
    delivery.close_stale_runs(printed.append)
    (line,) = printed
    assert f"sqlite:///{place / 'new.db'} lacks 2 earlier runs" in line
    assert seen(folder) == WHOLE and delivery.pending() == []
    second = {each: mlflow_runs.run_of(each) for each in (parent, folder)}
    assert not {*first.values()} & {*second.values()}
    tags = {each: tags_of(second[each]) for each in second}
    assert tags[parent]["wsss.stage.walk"] == second[folder]
    assert tags[folder]["mlflow.parentRunId"] == second[parent]
    calls = count(monkeypatch)
    use(monkeypatch, place / "mlflow.db")  # and back
    delivery.close_stale_runs(printed.append)
    assert delivery.run_of(folder) == first[folder] and calls == [] and len(printed) == 1


def test_a_stage_that_is_reused_reaches_a_new_store_with_what_reuses_it(place, monkeypatch):
    parent, folder = chain()
    delivery.close_stale_runs()
    use(monkeypatch, place / "new.db")
    delivery.deliver(parent)
    assert tags_of(mlflow_runs.run_of(parent))["wsss.stage.walk"]
    assert seen(folder) == WHOLE


@pytest.mark.parametrize("store", ["mlflow.db", "new.db"])
def test_moved_outputs_keep_their_runs(place, monkeypatch, store):
    parent, folder = chain()
    delivery.close_stale_runs()
    runs = {each.name: mlflow_runs.run_of(each) for each in (parent, folder)}
    (place / "outputs").rename(place / "moved")
    monkeypatch.setenv("WSSS_OUTPUTS", str(place / "moved"))
    parent, folder = (place / "moved" / each.parent.name / each.name for each in (parent, folder))
    use(monkeypatch, place / store)
    Journal(folder).metrics({"after": 1.0})
    assert delivery.deliver(folder) == delivery.deliver(parent) == []
    found = {each.name: mlflow_runs.run_of(each) for each in (parent, folder)}
    assert (found == runs) == (store == "mlflow.db") and seen(folder) == WHOLE
    tags = tags_of(found[folder.name])
    assert tags["mlflow.parentRunId"] == found[parent.name]
    assert tags[mlflow_runs.HOME] == str(folder)


def test_a_copy_of_the_outputs_does_not_write_into_the_runs_of_the_original(place, monkeypatch):
    folders = chain()
    delivery.close_stale_runs()
    runs = [mlflow_runs.run_of(each) for each in folders]
    shutil.copytree(place / "outputs", place / "copy")
    copies = [place / "copy" / each.parent.name / each.name for each in folders]
    monkeypatch.setenv("WSSS_OUTPUTS", str(place / "copy"))
    Journal(copies[1]).metrics({"miou": 9.23})
    for _ in range(2):
        assert delivery.deliver(copies[1]) == delivery.deliver(copies[0]) == []
        assert seen(folders[1]) == WHOLE
    found = [mlflow_runs.run_of(each) for each in copies]
    assert not {*found} & {*runs}
    assert seen(copies[1]) == (*WHOLE[:3], [8.75, 9.23], *WHOLE[4:])
    tags = tags_of(found[0])
    assert tags["wsss.stage.walk"] == found[1]
    assert tags_of(found[1])["mlflow.parentRunId"] == found[0]
    Journal(folders[1]).metrics({"miou": 7.0})  # the original goes on in its own
    delivery.deliver(folders[1])
    assert mlflow_runs.run_of(folders[1]) == runs[1]
    assert seen(folders[1])[3] == [8.75, 7.0] and seen(copies[1])[3] == [8.75, 9.23]


def test_a_stage_that_is_gone_is_reported_and_the_rest_delivered(place):
    parent, folder = chain()
    shutil.rmtree(folder)
    assert delivery.deliver(parent) == [f"{folder}: gone before it could be delivered"]
    run = mlflow_store.find_run(mlflow_runs.run_of(parent))
    assert "wsss.stage.walk" not in run.data.tags and run.info.status == "FINISHED"


def test_a_stage_outlives_the_record_of_its_experiment(place, monkeypatch):
    parent, folder = chain()
    shutil.rmtree(parent)
    assert delivery.deliver(folder) == [] and seen(folder) == WHOLE


def test_figures_that_are_not_those_of_the_run_are_refused(place):
    folder = stage(metrics={"miou": 8.75, "none": float("nan")})
    assert delivery.completed(folder).metrics["miou"] == 8.75
    record = results.completed(folder)
    atomic.save_json(folder / results.COMPLETE, record | {"metrics": {"miou": 99.9}})
    with pytest.raises(InputError, match=r"has miou 99\.9, and its run .* 8\.75; delete the"):
        delivery.completed(folder)


NAMES = ["train+x", "val (new)", "a,b", "a+b", "val#1", "..", "a//b", "x" * 300, "%", "a\nb"]


def test_any_name_of_an_id_list_makes_a_metric_that_is_found_by_it(place):
    fine = ["train", "Prüfung", "a b", "2007.1", "a/b"]
    metrics = {f"miou/{name}": float(n) for n, name in enumerate([*fine, *NAMES])}
    folder = stage(metrics=metrics)
    assert delivery.deliver(folder) == []  # none refused
    kept = delivery.completed(folder).metrics
    assert {name: kept[name] for name in metrics} == metrics
    assert kept.keys() - metrics.keys() == {"train/loss"}
    inside = mlflow_store.find_run(mlflow_runs.run_of(folder)).data.metrics
    assert {f"miou/{name}" for name in fine} <= inside.keys()


def tags_of(run_id):
    run = mlflow_store.find_run(run_id)
    assert run is not None
    return run.data.tags


def images(folder):
    files = mlflow_store.client().list_artifacts(mlflow_runs.run_of(folder), "images")
    return [file.path for file in files]


def test_pictures_of_long_names_are_in_the_gallery(place, monkeypatch):
    folder = paths.stage_folder("walk", "0a")
    run = stage_run.StageRun("walk", {}, inputs={}, folder=folder, data_digest="d")
    pixels = np.zeros((2, 2, 3), np.uint8)
    run.log_gallery({"n" * 250: pixels, "n" * 251: pixels, "short": pixels})
    assert delivery.deliver(folder) == []
    assert len(images(folder)) == 2 * 3


@pytest.mark.parametrize("kind", ["a long name", "a damaged picture", "a file that is gone"])
def test_an_entry_that_can_never_be_delivered_is_reported_and_does_not_block(place, kind):
    folder = paths.stage_folder("walk", "0a")
    record = Journal(folder)
    record.begin("toys", "walk", tags={})
    path = picture(folder / "gallery" / "a.png")
    key = f"gallery/{'n' * 200}" if kind == "a long name" else "gallery/a"
    record.file(path, kind="image", key=key)
    if kind == "a damaged picture":
        path.write_bytes(path.read_bytes()[:-20])
    elif kind == "a file that is gone":
        path.unlink()
    record.metrics({"after": 1.0})
    (line,) = delivery.deliver(folder)
    part = {"a long name": "File name too long", "a damaged picture": "is damaged"}
    assert part.get(kind, "gone before") in line and "does not answer" not in line
    run = mlflow_store.find_run(mlflow_runs.run_of(folder))
    assert run.data.metrics["after"] == 1


def test_a_file_that_cannot_be_read_waits_for_it(place):
    folder = stage()
    path = folder / "gallery" / "a.png"
    path.rename(folder / "kept.png")
    path.mkdir()
    with pytest.raises(InputError, match=rf"^{path}: cannot be read \(Is a"):
        delivery.deliver(folder)
    path.rmdir()
    (folder / "kept.png").rename(path)
    assert delivery.deliver(folder) == [] and seen(folder) == WHOLE


def test_a_picture_that_is_delivered_again_is_there_once(place):
    folder = stage()
    delivery.deliver(folder)
    (folder / results.DELIVERED).unlink()
    delivery.deliver(folder)
    assert seen(folder) == WHOLE


def test_a_checkout_of_any_name_holds_its_store(place, monkeypatch):
    project = place / "feature%2Fx, why? 50 %20 # done"
    (project / "notebooks").mkdir(parents=True)
    monkeypatch.setenv("WSSS_PROJECT", str(project))
    monkeypatch.setenv("WSSS_OUTPUTS", str(project / "outputs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    folder, beside = stage(), {*place.iterdir()}
    delivery.deliver(folder)
    assert seen(folder) == WHOLE and {*place.iterdir()} == beside
    found = {each.name for each in project.iterdir() if not each.name.startswith(".")}
    assert found == {"notebooks", "outputs", "mlflow.db", "mlartifacts"}


@pytest.mark.parametrize("name", ["a/b:c", "a:b", " ", "..", ".", "..x", "x" * 257])
def test_a_models_name_is_refused_before_anything_runs(name):
    given = {"model_name": name}
    item = Planned(None, given, "0a", paths.stage_folder("evaluate", "0a"), False)
    with pytest.raises(InputError, match="model_name: expected a name without"):
        PROJECT.check_values([item])
    if len(name) <= 256:  # of which SQLite knows nothing
        with pytest.raises(mlflow.MlflowException):
            mlflow_store.client().create_registered_model(name)


@pytest.mark.parametrize("name", ["shapes-segmentation", "a b", "a%b", ".x", "x" * 256])
def test_a_models_name_that_mlflow_takes_is_taken(name):
    mlflow_store.check_model_name(name)
    assert mlflow_store.client().create_registered_model(name).name == name


def test_names_that_become_alike_stay_apart():
    found = {legal(name, "[a-z]", 20) for name in ("a+b", "a,b", "a_b", "x" * 20, "x" * 21)}
    assert len(found) == 5 and all(len(name) <= 20 for name in found)
    assert legal("x" * 20, "[a-z]", 20) == "x" * 20
