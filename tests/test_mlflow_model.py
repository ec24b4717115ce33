"""The registered segmentation model: loaded, asked, refused; its card; behind MLflow's server."""

import base64
import io
import json
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.metadata import packages_distributions

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from servers import free_port, served
from test_environment import canonical

from tests.house import PACKAGE, House
from wsss import models
from wsss.apply import model_registry
from wsss.crf import CrfParams, DenseCRF
from wsss.datasets import Devkit
from wsss.io import artifacts, atomic
from wsss.lab import paths
from wsss.lab.record import delivery, mlflow_store, stage_run
from wsss.lab.record.journal import Journal
from wsss.metrics import ConfusionMatrix
from wsss.models.ready import ready
from wsss.photos import evaluation
from wsss.photos.segmentation import segment

# mlflow.pyfunc warns of a type hint of its own when it is first imported, and of a comparison that
# pandas deprecates when it keeps an example.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]

PARAMETERS = {
    "dataset": "shapes",
    "val_split": "val",
    "output_stride": 0,
    "scales": [1.0, 0.5],
    "flip": True,
    "crf_steps": 0,
    "walk_steps": 0,
}


def stage(name, fingerprint, parameters, inputs):
    """A completed stage as far as a card reads it; its folder."""
    folder = paths.stage_folder(name, fingerprint)
    record = {"stage": name, "fingerprint": fingerprint, "metrics": {}, "ended": 0.0}
    record |= {"parameters": parameters, "inputs": inputs, "data_digest": "d1g357"}
    atomic.save_json(folder / "complete.json", record)
    return folder


@pytest.fixture(scope="module")
def data(tiny_shapes):
    return Devkit(tiny_shapes)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    """An evaluate stage at work on a network of random weights, which it has registered, as another
    one has after it; the first one's id is its ``run_id``.
    """
    root = tmp_path_factory.mktemp("place")
    patch = pytest.MonkeyPatch()
    patch.setenv("WSSS_OUTPUTS", str(root / "outputs"))
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    patch.setenv(stage_run.DRIVEN_VARIABLE, "1")
    stage("train_cam", "0a", {"weights": "some/where/imagenet.pth"}, {})
    stage("random_walk", "0b", {"tuning_photos": 7}, {})
    trained = stage(
        "train_segmentation",
        "0c",
        {"backbone": "small", "dataset": "shapes", "train_split": "train_aug"},
        {"train_cam": "0a", "random_walk": "0b"},
    )
    torch.manual_seed(0)
    arguments = {
        "backbone": "small",
        "output_stride": 8,
        "channels": 8,
        "low_level_channels": [2, 4],
    }
    network = models.build_segmentation(num_classes=6, **arguments)
    torch.nn.init.normal_(network.classifier.weight, std=5.0)  # so that pixels differ in class
    models.save_network(
        trained / "weights.pt", network, kind="segmentation", classes=data.classes, **arguments
    )
    matrix = ConfusionMatrix(6)
    matrix.update(np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1]))
    runs = []
    for fingerprint, table in (
        ("0d", evaluation.iou_table(data, {"network": matrix})),
        ("0e", None),
    ):
        folder = root / "outputs" / "evaluate" / fingerprint
        Journal(folder).begin("toys", "evaluate", tags={"wsss.stage": "evaluate"})
        inputs = {"train_segmentation": trained}
        run = stage_run.StageRun(
            "evaluate", PARAMETERS, inputs=inputs, folder=folder, data_digest="d1g357"
        )
        run.log_metrics({"segmentation_miou/val": 50.0})
        model_registry.prepare("toy", run, data=data, table=table)
        lines = delivery.deliver(folder, register_model=model_registry.register)
        assert lines == [f"registered as models:/toy/{len(runs) + 1}"]
        run.run_id = delivery.run_of(folder)
        runs.append(run)
    # what an interruption has delivered again is registered once
    again = model_registry.register(
        "toy", runs[0].folder / "model" / "model.json", run_id=runs[0].run_id
    )
    assert again == "toy/1"
    yield runs[0]
    patch.undo()


@pytest.fixture(scope="module")
def network(run):
    weights = run.inputs["train_segmentation"] / "weights.pt"
    return ready(models.open_network(weights, "segmentation").network)


@pytest.fixture(scope="module")
def model(run):
    return mlflow.pyfunc.load_model("models:/toy/1")


def jpeg(data, id):
    return data.image_path(id).read_bytes()


def read(png):
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == "P" and bytes(image.getpalette()) == artifacts.voc_palette().tobytes()
        return np.array(image)


def test_answers_are_those_of_the_evaluation(model, network, data):
    ids = data.ids("val")[:3]
    photos = [jpeg(data, id) for id in ids]
    given = [photos, pd.DataFrame({"photo": photos}), [{"photo": photo} for photo in photos]]
    for form in given:
        answer = model.predict(form)
        assert list(answer.columns) == ["labels", "classes"] and len(answer) == 3
        for id, png, classes in zip(ids, answer["labels"], answer["classes"], strict=True):
            scores = segment(network, data.image(id), scales=(1.0, 0.5), flip=True)
            assert len(classes) > 1
            assert (read(png) == scores.argmax(0).numpy()).all()
            names = ["background", *data.classes]
            assert classes == [names[number] for number in sorted({*read(png).ravel().tolist()})]


def test_params_change_the_protocol(model, network, data):
    id = data.ids("val")[0]
    given = {"scales": [1.0], "flip": False, "crf_steps": 2}
    (png,) = model.predict([jpeg(data, id)], params=given)["labels"]
    scores = segment(network, data.image(id)).numpy()
    expected = DenseCRF(data.image(id), CrfParams()).infer(scores, 2).argmax(0)
    assert (read(png) == expected).all() and (expected != scores.argmax(0)).any()


def test_long_photos_are_worked_on_small_and_answered_at_their_size(model, network, data):
    small = data.image(data.ids("val")[0])
    photo = Image.fromarray(small).resize((1100, 660))
    file = io.BytesIO()
    photo.save(file, "PNG")
    (png,) = model.predict([file.getvalue()], params={"scales": [1.0], "flip": False})["labels"]
    worked = np.array(photo.resize((1024, 614), Image.Resampling.BICUBIC, reducing_gap=2.0))
    scores = segment(network, worked)[None]
    expected = F.interpolate(scores, (660, 1100), mode="bilinear", align_corners=False)[0].argmax(0)
    assert (read(png) != expected.numpy()).mean() < 0.01  # probabilities in steps of 1/255
    whole = {"scales": [1.0], "flip": False, "long_side": 0}
    (png,) = model.predict([file.getvalue()], params=whole)["labels"]
    assert (read(png) == segment(network, np.array(photo)).argmax(0).numpy()).all()


def test_a_photo_on_its_side_is_put_upright(model, data):
    photo = Image.fromarray(data.image(data.ids("val")[0])[:40])
    exif = photo.getexif()
    exif[0x0112] = 6  # the orientation: turned by a quarter
    file = io.BytesIO()
    photo.save(file, "JPEG", exif=exif)
    (png,) = model.predict([file.getvalue()])["labels"]
    assert read(png).shape == (photo.width, 40)


@pytest.mark.parametrize("given", [b"", b"no photo", base64.b64encode(b"nor this").decode()])
def test_what_is_no_photo_is_named_by_its_row(model, data, given):
    good = jpeg(data, data.ids("val")[0])
    with pytest.raises(mlflow.MlflowException, match=r"^row 1: .*; replace") as raised:
        model.predict(pd.DataFrame({"photo": [good, given, good]}))
    assert raised.value.error_code == "INVALID_PARAMETER_VALUE"


def test_versions_have_card_and_tags_and_the_run_goes_on(run, data):
    client = mlflow_store.client()
    first, second = (client.get_model_version("toy", version) for version in ("1", "2"))
    assert first.tags["run"] == run.run_id == first.run_id and first.tags["dataset"] == "shapes"
    assert first.tags["miou"] == "50.00" and "miou" not in second.tags
    text = first.description
    assert text.startswith("This network ")  # which tables of versions show as it is
    newest = client.get_model_version_by_alias("toy", model_registry.NEWEST)
    assert int(newest.version) == 2  # the store gives a number, a server a text
    for phrase in (
        "mlflow models serve -m models:/toy/1 ",
        "| background | 100.0 |",
        f"| {data.classes[0]} | 50.0 |",
        f"| {data.classes[4]} | not shown |",
        "6 photos, none of which it was trained on; masks `SegmentationClassAug`",
        "scales [1.0, 0.5], flip, no dCRF",
        "`imagenet.pth`",
        "chosen on the masks of 7 photos",
        "| `flip` | `True` |",
        f"1 {data.classes[0]}, 2 {data.classes[1]}",
        "apply to the weights too",
    ):
        assert phrase in text, phrase
    assert len(text) < 5000  # the registry's column
    assert "has no masks to score it on" in second.description
    (path,) = (f.path for f in client.list_artifacts(run.run_id) if f.path.endswith(".md"))
    assert path == "MODEL_CARD.md"
    logged = client.get_run(run.run_id)
    assert logged.info.status == "RUNNING" and logged.data.tags["wsss.model"] == "toy/1"
    model = client.get_logged_model(first.source.rpartition("/")[2])
    assert {metric.key: metric.value for metric in model.metrics} == {"segmentation_miou/val": 50.0}


def test_requirements_cover_what_serving_imports(model):
    owners = packages_distributions()
    # these are only for who asks for a cluster
    reached = House(PACKAGE).reached("apply/mlflow_model.py")
    used = {name for name in reached if isinstance(name, str)} - sys.stdlib_module_names
    used -= {"ray", "fsspec", "pyarrow"}
    wanted = {canonical(owner) for name in used for owner in owners[name]}
    assert wanted - {canonical(name) for name in model_registry.REQUIREMENTS} == {
        "mlflow-skinny",  # a part of mlflow
        "mlflow-tracing",
        "google-auth",  # shares protobuf's namespace, google
    }
    assert set(model_registry.REQUIREMENTS) <= wanted


ALONE = """
import json, sys
sys.path = [path for path in sys.path if path != sys.argv[1]]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder)]
try:
    import wsss
    sys.exit("wsss is still there")
except ImportError:
    pass
import mlflow
model = mlflow.pyfunc.load_model("models:/toy/1")
answer = model.predict([open(sys.argv[2], "rb").read()])
import wsss
print(json.dumps([wsss.__file__, answer["classes"][0]]))
"""


@pytest.mark.slow
def test_it_loads_where_wsss_is_not_installed(run, model, data, tmp_path):
    path = data.image_path(data.ids("val")[0])
    command = [sys.executable, "-c", ALONE, str(paths.project_root()), str(path)]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    place, classes = json.loads(out.stdout.splitlines()[-1])
    assert not place.startswith(str(paths.project_root())) and "/code/wsss/" in place
    assert classes == model.predict([path.read_bytes()])["classes"][0]


def post(url, request):
    body, kind = json.dumps(request).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, kind), timeout=120) as answer:
        return json.load(answer)["predictions"]


@pytest.mark.slow
def test_the_server_answers_as_the_evaluation(run, network, data, tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/toy/1"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    ids = data.ids("val")[:2]
    photos = [base64.b64encode(jpeg(data, id)).decode() for id in ids]
    expected = [
        segment(network, data.image(id), scales=(1.0, 0.5), flip=True).argmax(0).numpy()
        for id in ids
    ]
    with served(command, port, tmp_path / "log", ready="/ping") as url:
        for request in (
            {"inputs": photos},
            {"dataframe_records": [{"photo": photo} for photo in photos]},
            {"dataframe_split": {"columns": ["photo"], "data": [[photo] for photo in photos]}},
        ):
            answers = post(f"{url}/invocations", request)
            for answer, labels in zip(answers, expected, strict=True):
                assert (read(base64.b64decode(answer["labels"])) == labels).all()
                assert len(answer["classes"]) == len(np.unique(labels))
        (plain,) = post(
            f"{url}/invocations",
            {"inputs": photos[:1], "params": {"scales": [1.0], "flip": False}},
        )
        alone = segment(network, data.image(ids[0])).argmax(0).numpy()
        assert (read(base64.b64decode(plain["labels"])) == alone).all()
        with pytest.raises(urllib.error.HTTPError) as raised:
            post(f"{url}/invocations", {"inputs": [photos[0], "bm8gcGhvdG8="]})
        assert raised.value.code == 400
        assert "row 1: expected a photo but it is not a JPEG" in json.load(raised.value)["message"]
