"""The whole chain on a folder of photos without a single mask, then again on labels put right."""

import csv
import json

import numpy as np
import pytest
import yaml
from PIL import Image

from wsss import cli, datasets
from wsss.apply import find_networks
from wsss.datasets import Devkit
from wsss.datasets.annotations import formats
from wsss.errors import InputError
from wsss.io import atomic
from wsss.lab import results
from wsss.lab.record import delivery, mlflow_store

pytestmark = pytest.mark.slow

OWN = {
    "common": {
        "dataset": "folder",
        "processes": 1,
        "workers": 0,
        "train_split": "train",
        "score_split": "train",
        "val_split": "val",
    },
    "stages": {
        "dataset": {},
        "train_cam": {"epochs": 1, "crop": 64},
        "infer_cam": {"scales": [0.5], "tuning_photos": 2},
        "affinity_labels": {"crf_steps": 1},
        "train_affinity": {"epochs": 1, "crop": 64, "batch_size": 4},
        "random_walk": {"steps": 4, "crf_steps": 1},
        "train_segmentation": {"epochs": 1, "crop": 64, "channels": 8, "batch_size": 4},
        "evaluate": {"model_name": "own"},
        "report": {},
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_shapes):
    """Photos in folders with odd names, and a file that describes them."""
    root = tmp_path_factory.mktemp("own")
    data = Devkit(tiny_shapes)
    rows = [("id", "labels")]
    for number, id in enumerate([*data.ids("train_aug"), *data.ids("val")]):
        name = f"{'été' if number % 2 else 'a b'}/photo {number}.png"
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.image(id)).save(root / "photos" / name)
        rows.append((name, ";".join(data.classes[k - 1] for k in data.labels(id))))
    with (root / "tags.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    description = {"photos": "photos", "tags": "tags.csv", "val_share": 0.3}
    (root / "photos.yaml").write_text(yaml.safe_dump(description))
    common = OWN["common"] | {"data_root": str(root / "photos.yaml")}
    (root / "own.yaml").write_text(yaml.safe_dump(OWN | {"common": common}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSSS_OUTPUTS", str(root / "outputs"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        yield root


def completed(place, stage):
    """The record of the stage's newest completed run."""
    markers = place.glob(f"outputs/{stage}/*/complete.json")
    return max((results.completion(marker.parent) for marker in markers), key=lambda r: r["ended"])


def test_photos_without_masks_go_through_the_chain_and_have_no_scores(place, capsys):
    assert cli.main(["run", str(place / "own.yaml")]) == 0
    output = capsys.readouterr().out
    assert "no photo of train has a mask, so nothing could be scored" in output
    assert "no photo of val has a mask, so nothing could be scored" in output
    for stage in ("infer_cam", "random_walk", "evaluate"):
        assert not [name for name in completed(place, stage)["metrics"] if "miou" in name]
    labels = list(place.glob("outputs/random_walk/*/labels/*/*.png"))
    predictions = list(place.glob("outputs/evaluate/*/predictions/*/*.png"))
    assert (len(labels), len(predictions)) == (13, 18)  # and the gallery of the label stages


def test_a_network_is_found_by_its_model_and_by_its_runs(place):
    experiment = mlflow_store.experiment_id("own")
    runs = mlflow_store.client().search_runs([experiment], "tags.`wsss.stage.evaluate` != ''")
    folder = place / "outputs" / "train_segmentation"
    folder = folder / completed(place, "train_segmentation")["fingerprint"]
    file = folder / "weights.pt"
    given = ("models:/own", "models:/own/1", runs[0].info.run_id, delivery.run_of(folder))
    for source in given:
        found = find_networks.network_file(source, "segmentation")
        assert found.read_bytes() == file.read_bytes(), source
    method = find_networks.method_of(runs[0].info.run_id)
    assert method.walk.steps == 4 and method.maps["scales"] == (0.5,)
    for source, fault in {
        "models:/own/7": "it has the versions 1$",
        "models:/onw": r"\(did you mean 'own'\?\); the models are: own$",
        "0" * 32: "there is none; there are: train_segmentation ",
    }.items():
        with pytest.raises(InputError, match=fault):
            find_networks.network_file(source, "segmentation")
    photos = str(place / "photos.yaml")
    assert cli.main(["predict", photos, "--network", given[0], "--out", str(place / "seen")]) == 0
    assert len(list(place.glob("seen/labels/*/*.png"))) == 18


def test_one_command_leads_from_tagged_photos_to_labels_a_page_and_a_network(place, capsys):
    out, description = place / "auto", str(place / "photos.yaml")
    given = ["auto", description, "--experiment", str(place / "own.yaml"), "--out", str(out)]
    assert cli.main(given) == 0
    output = capsys.readouterr().out
    assert "18 photos: about" in output and "all 9 stages are done" in output
    assert len(list(out.glob("labels/*/*.png"))) == len(list(out.glob("overlays/*/*.jpg"))) == 18
    assert (out / "index.html").read_text(encoding="utf-8").count("<figure>") == 18
    trained = completed(place, "train_segmentation")["fingerprint"]
    weights = place / "outputs" / "train_segmentation" / trained / "weights.pt"
    assert (out / "network.pt").read_bytes() == weights.read_bytes()
    record = out / "making.json"
    content = json.loads(record.read_text())
    outside = place / "outside.txt"
    outside.write_text("mine")
    content |= {"making": {}, "made_from": content["made_from"] | {"../outside.txt": 1}}
    record.write_text(json.dumps(content))  # as if other networks had made the labels
    assert cli.main(given) == 0
    assert outside.exists() and len(list(out.glob("labels/*/*.png"))) == 18
    (out / "network.pt").unlink()  # then they are not of this command, and stay
    record.write_text(json.dumps(content))
    assert cli.main(given) == 2
    assert len(list(out.glob("labels/*/*.png"))) == 18
    capsys.readouterr()
    (place / "foreign").mkdir()
    (place / "foreign" / "mine.txt").write_text("mine")
    assert cli.main([*given[:-1], str(place / "foreign")]) == 2
    assert "not of this command" in capsys.readouterr().err


def test_a_label_map_put_right_trains_the_last_network_again(place, capsys):
    run = completed(place, "random_walk")["fingerprint"]
    folder = place / "outputs" / "random_walk" / run
    data = datasets.open("folder", place / "photos.yaml")
    id = data.ids("train")[0]
    given = ["label", str(place / "photos.yaml"), "--run", str(folder), "--write", "labelme"]
    assert cli.main([*given, "--out", str(place / "labelled"), "--processes", "1"]) == 0
    roots = (folder, place / "labelled")
    maps = [np.array(Image.open(root / "labels" / f"{id}.png")) for root in roots]
    assert (maps[0] == maps[1]).mean() > 0.999, "label does not give the labels of the run"
    corrected = place / "labelled" / "labelme" / f"{id}.json"
    right = np.zeros_like(maps[0])
    right[10:40, 10:40] = 1
    content = formats.labelme.annotation(right, data.classes, image_path="x.png")
    atomic.save_json(corrected, content)
    capsys.readouterr()
    override = f"train_segmentation.corrected_folder={place / 'labelled' / 'labelme'}"
    assert cli.main(["run", str(place / "own.yaml"), override]) == 0
    output = capsys.readouterr().out
    assert "random_walk: done before" in output and "train_segmentation: done in" in output
    record = completed(place, "train_segmentation")
    assert record["parameters"]["corrected_folder"]
    atomic.save_json(corrected, content | {"version": "another"})
    assert cli.main(["run", str(place / "own.yaml"), override, "--dry-run"]) == 0
    assert "papermill notebooks/60_train_segmentation" in capsys.readouterr().out
