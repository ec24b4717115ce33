"""Label maps of own photos: as the method and the network alone give them, whatever goes wrong."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import wsss
from wsss import models, synthesis
from wsss.apply import find_networks
from wsss.cli import main
from wsss.crf import CrfParams
from wsss.datasets import Devkit, Folder
from wsss.errors import InputError
from wsss.io import artifacts, atomic
from wsss.photos.segmentation import segment

FAST = ["infer_cam.scales=[1.0]", "infer_cam.flip=false", "random_walk.steps=8"]
FAST += ["random_walk.crf_steps=2"]
WALK = synthesis.Walk(steps=8, crf_steps=2)


@pytest.fixture(scope="module")
def data(tiny_shapes):
    return Devkit(tiny_shapes)


@pytest.fixture(scope="module")
def photos(tmp_path_factory, data):
    """Four photos in folders, with tags; one cannot be read and one has none."""
    root = tmp_path_factory.mktemp("own") / "my photos"
    rows = ["id,labels"]
    for place, id in enumerate(data.ids("train_aug")[:3]):
        name = ["a.png", "sub/b c.png", "é.png"][place]
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.image(id)).save(root / name)
        labels = [data.classes[k - 1] for k in data.labels(id)]
        rows.append(f"{name},{';'.join(labels)}")
    (root / "broken.jpg").write_bytes(b"no photo")
    Image.fromarray(data.image(id)).save(root / "untagged.png")
    rows += [f"broken,{labels[0]}", f"gone.jpg,{labels[0]}"]
    (root / "tags.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def networks(tmp_path_factory, data):
    """Files of random networks, by kind."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("networks")
    classes, shape = data.classes, {"backbone": "small", "output_stride": 8}
    cam = models.build_cam("small", len(classes), output_stride=8)
    affinity = models.build_affinity("small", output_stride=8, reduced=[4, 8, 8])
    segmentation = models.build_segmentation(
        "small", len(classes) + 1, output_stride=8, channels=8, dilation=24
    )
    files = {kind: folder / kind / "weights.pt" for kind in ("cam", "affinity", "segmentation")}
    models.save_network(files["cam"], cam, kind="cam", classes=classes, **shape)
    models.save_network(
        files["affinity"],
        affinity,
        kind="affinity",
        classes=classes,
        settings={"radius": 4, "reduction": "sum", "border_pairs": True},
        reduced=[4, 8, 8],
        **shape,
    )
    models.save_network(
        files["segmentation"],
        segmentation,
        kind="segmentation",
        classes=classes,
        channels=8,
        dilation=24,
        **shape,
    )
    return files


def test_labels_at_another_size_are_those_of_scores_brought_there():
    scores = torch.rand(4, 9, 12, generator=torch.Generator().manual_seed(0))
    scores = torch.nn.functional.interpolate(scores[None], (45, 60), mode="bicubic")[0].clamp(0, 1)
    classes = [2, 5, 9]
    same = synthesis.labels_at(scores.numpy(), classes, size=(45, 60))
    np.testing.assert_array_equal(same, synthesis.label_map(scores.numpy(), classes))
    larger = torch.nn.functional.interpolate(
        scores[None], (180, 240), mode="bilinear", align_corners=False
    )[0]
    expected = synthesis.label_map(larger.numpy(), classes)
    found = synthesis.labels_at(scores.numpy(), classes, size=(180, 240))
    assert found.dtype == np.uint8 and (found != expected).mean() < 0.01


def label(photos, networks, out, *more):
    given = ["--cam", str(networks["cam"]), "--affinity", str(networks["affinity"].parent)]
    return main(["label", str(photos), *given, "--out", str(out), *more, "--processes", "1"])


def test_labels_are_the_methods_and_the_rest_of_the_batch_completes(
    tmp_path, photos, networks, capsys
):
    assert label(photos, networks, tmp_path, *FAST) == 2
    output = capsys.readouterr().out
    for line in (
        "1 photos have no tags and get no labels",
        "3 label maps in labels/",
        "2 faults, also in",
        "gone.jpg: has tags but there is no such JPEG",
        "broken.jpg: expected a photo but it is not a JPEG, PNG or WebP",
    ):
        assert line in output, line
    assert len((tmp_path / "faults.txt").read_text().splitlines()) == 2
    classes = (tmp_path / "classes.txt").read_text().split()
    assert tuple(classes) == models.open_network(networks["cam"]).classes
    cam = models.open_network(networks["cam"]).network
    affinity = models.open_network(networks["affinity"]).network
    own = Folder(photos, classes=models.open_network(networks["cam"]).classes)
    walk = synthesis.Walk(steps=8, crf_steps=2, radius=4, reduction="sum")
    for id in ("a", "sub/b c", "é"):
        with Image.open(tmp_path / "labels" / f"{id}.png") as file:
            assert file.mode == "P"
            assert file.getpalette() == artifacts.voc_palette().ravel().tolist()
            found = np.array(file)
        expected = wsss.synthesize(
            own.image(id), own.labels(id), cam, affinity, scales=(1.0,), flip=False, walk=walk
        )
        assert (found == expected).mean() > 0.999
        with Image.open(tmp_path / "overlays" / f"{id}.jpg") as overlay:
            assert overlay.size == found.shape[::-1]


def test_what_is_there_is_left_alone_and_makings_do_not_mix(tmp_path, photos, networks, capsys):
    label(photos, networks, tmp_path, *FAST)
    files = sorted(tmp_path.rglob("labels/**/*.png"))
    before = [path.stat().st_mtime_ns for path in files]
    files[1].unlink()
    label(photos, networks, tmp_path, *FAST)
    after = [path.stat().st_mtime_ns for path in files]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    capsys.readouterr()
    assert label(photos, networks, tmp_path, *FAST, "random_walk.beta=3") == 2
    assert "making.json has others; give another --out" in capsys.readouterr().err
    assert [path.stat().st_mtime_ns for path in files] == after


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*.*")
    }


def test_a_photo_or_tags_that_changed_make_that_photos_map_again(tmp_path, data, networks):
    """What is in the folder is then what a run from nothing gives."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    tags = dict.fromkeys("abcd", data.classes[0])

    def run(folder):
        rows = "".join(f"{name},{row}\n" for name, row in tags.items())
        (photos / "tags.csv").write_text(f"id,labels\n{rows}")
        code = label(photos, networks, folder, *FAST, "--write", "coco")
        return code, contents(folder)

    first, second = (Image.fromarray(data.image(id)) for id in data.ids("train_aug")[:2])
    for name in tags:
        first.save(photos / f"{name}.png")
    code, before = run(out)
    assert code == 0
    tags["a"] = f"{data.classes[1]};{data.classes[2]}"  # corrected
    second.save(photos / "b.png")  # another photo of the same name
    del tags["c"]  # no longer labelled
    code, after = run(out)
    assert code == 0
    _, expected = run(tmp_path / "anew")
    assert {name: found[0] for name, found in after.items()} == {
        name: found[0] for name, found in expected.items()
    }
    assert before["labels/a.png"][0] != after["labels/a.png"][0]
    assert before["labels/b.png"][0] != after["labels/b.png"][0]
    assert before["labels/d.png"] == after["labels/d.png"], "made again for nothing"
    assert set(np.unique(np.array(Image.open(out / "labels" / "a.png")))) <= {0, 2, 3}


def test_a_correction_of_an_earlier_map_stays_and_is_reported(tmp_path, data, networks):
    photos = tmp_path / "cross"  # without tags in a file, the folder is the tag
    (photos / data.classes[0]).mkdir(parents=True)
    photo = photos / data.classes[0] / "a.png"
    Image.fromarray(data.image(data.ids("val")[0])).save(photo)
    given = (photos, networks, tmp_path / "out", *FAST, "--write", "labelme")
    assert label(*given) == 0
    corrected = tmp_path / "out" / "labelme" / data.classes[0] / "a.json"
    corrected.write_text("{}")
    Image.fromarray(data.image(data.ids("val")[1])).save(photo)
    assert label(*given) == 2 and corrected.read_text() == "{}"
    assert "a.json: of an earlier label map" in (tmp_path / "out" / "faults.txt").read_text()


def test_files_that_no_run_made_are_left_alone(tmp_path, photos, networks, capsys):
    out = tmp_path / "out"
    given = ["predict", str(photos), "--network", str(networks["segmentation"])]
    given += ["--out", str(out), "--processes", "1"]
    artifacts.save_labels(out / "labels" / "a.png", np.ones((9, 9)))
    before = contents(out)
    assert main(given) == 2 and contents(out) == before
    assert "its files are not of this command" in capsys.readouterr().err
    shutil.rmtree(out)
    main(given)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(photos / "later.png")
    try:
        artifacts.save_labels(out / "labels" / "later.png", np.ones((9, 9)))
        before = contents(out)
        capsys.readouterr()
        assert main(given) == 2 and contents(out) == before
        assert "later.png: not made by this command; move it away" in capsys.readouterr().err
    finally:
        (photos / "later.png").unlink()


def test_results_among_the_photos_are_no_photos(tmp_path, data, networks, capsys):
    for number, id in enumerate(data.ids("train_aug")[:4]):
        folder = tmp_path / data.classes[number % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(data.image(id)).save(folder / f"{number}.png")
    before = Folder(tmp_path)
    out = tmp_path / "labelled"
    given = ["predict", str(tmp_path), "--network", str(networks["segmentation"])]
    for _ in range(3):
        assert main([*given, "--out", str(out), "--processes", "1"]) == 0
        assert "4 label maps" in capsys.readouterr().out
        assert len(list(out.rglob("*.png"))) == 4
    after = Folder(tmp_path)
    assert (after.classes, after.ids("all")) == (before.classes, before.ids("all"))
    assert after.digest() == before.digest()


def test_a_photo_that_is_not_done_is_named(tmp_path, data, networks, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    picture = Image.fromarray(data.image(data.ids("val")[0]))
    long, doubled = "y" * 250, "\u0958" * 70  # the last one's normal form is twice as long
    for name in ("IMG_1.jpg", "IMG_1.png", "e\u0301.png", "\xe9.png", f"{long}.png", "z.png"):
        picture.save(photos / name)
    picture.save(photos / f"{doubled}.png")
    given = ["predict", str(photos), "--network", str(networks["segmentation"])]
    assert main([*given, "--out", str(out), "--processes", "1"]) == 2
    assert "4 label maps" in capsys.readouterr().out
    assert (out / "labels" / f"{long}.png").exists() and (out / "labels" / "z.png").exists()
    faults = (out / "faults.txt").read_text(encoding="utf-8").splitlines()
    assert len(faults) == 3
    assert "IMG_1.jpg and IMG_1.png have one id, and only IMG_1.jpg is read" in faults[0]
    assert r"and only e\u0301.png is read; rename all but one" in faults[1]
    assert "the name is too long for a file; shorten it" in faults[2]
    assert not list(out.rglob("*.partial"))


def test_tags_that_the_network_does_not_know_are_named(tmp_path, data, networks, capsys):
    for name in "ab":
        Image.fromarray(data.image(data.ids("val")[0])).save(tmp_path / f"{name}.png")
    (tmp_path / "tags.csv").write_text(f"id,labels\na,horse;{data.classes[0]}\nb,dog\n")
    out = tmp_path / "out"
    assert label(tmp_path, networks, out, *FAST) == 2
    output = capsys.readouterr().out
    assert "have no tags" not in output and "1 label maps" in output
    assert [path.name for path in out.glob("labels/*")] == ["a.png"]
    faults = (out / "faults.txt").read_text()
    assert "a: unknown class 'horse'; the classes are: " in faults and "'dog'" in faults


def test_the_bar_has_the_commands_name(tmp_path, photos, networks, capsys):
    given = ["predict", str(photos), "--network", str(networks["segmentation"])]
    main([*given, "--out", str(tmp_path), "--processes", "1"])
    shown = capsys.readouterr().err
    assert "predict: 100%" in shown and "label:" not in shown
    assert not (tmp_path / "coco.json").exists()


def test_further_forms_are_written_and_corrections_stay(tmp_path, photos, networks):
    more = ["--write", "coco,labelme,cvat"]
    label(photos, networks, tmp_path, *FAST, *more)
    content = json.loads((tmp_path / "coco.json").read_text())
    assert {image["file_name"] for image in content["images"]} == {"a.png", "sub/b c.png", "é.png"}
    corrected = tmp_path / "labelme" / "sub" / "b c.json"
    assert (tmp_path / "cvat" / "labelmap.txt").exists() and corrected.exists()
    corrected.write_text("{}")
    (tmp_path / "labels" / "a.png").unlink()
    (tmp_path / "coco.json").write_text("of other maps")
    label(photos, networks, tmp_path, *FAST)
    assert corrected.read_text() == "{}"
    assert json.loads((tmp_path / "coco.json").read_text()) == content


@pytest.mark.parametrize("options", [[], ["--flip", "--scales", "0.5,1.0", "--crf"]])
def test_predictions_are_the_evaluations(tmp_path, photos, networks, options, capsys):
    given = ["predict", str(photos), "--network", str(networks["segmentation"])]
    assert main([*given, "--out", str(tmp_path), *options, "--processes", "1"]) == 2
    assert "4 label maps" in capsys.readouterr().out
    network = models.open_network(networks["segmentation"]).network
    own = Folder(photos, tags=[])
    for id in ("a", "untagged"):
        scores = segment(
            network,
            own.image(id),
            scales=(0.5, 1.0) if options else (1.0,),
            flip=bool(options),
        ).numpy()
        if options:
            scores = wsss.crf.DenseCRF(own.image(id), CrfParams()).infer(scores)
        found = np.array(Image.open(tmp_path / "labels" / f"{id}.png"))
        assert (found == scores.argmax(0)).mean() > 0.99


def test_a_photo_beyond_the_size_has_labels_of_its_own(tmp_path, networks, data):
    small = Image.fromarray(data.image(data.ids("val")[0]))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "photos").mkdir()
    small.resize((400, 300)).save(tmp_path / "photos" / "large.jpg", exif=exif)
    given = ["--network", str(networks["segmentation"]), "--long", "100", "--processes", "1"]
    assert main(["predict", str(tmp_path / "photos"), *given, "--out", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "labels" / "large.png") as file:
        assert file.size == (300, 400), "not upright, or not of the photo's own size"


def test_a_completed_walk_names_its_networks_and_constants(tmp_path, monkeypatch, networks):
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path))
    records = {
        "train_cam": {"inputs": {}, "parameters": {}},
        "infer_cam": {
            "inputs": {"train_cam": "train_cam0"},
            "parameters": {"scales": [0.5], "flip": False, "cam_power": 1.0, "output_stride": 16},
        },
        "train_affinity": {"inputs": {}, "parameters": {}},
        "random_walk": {
            "inputs": {"infer_cam": "infer_cam0", "train_affinity": "train_affinity0"},
            "parameters": {"beta": 3.0, "steps": 4, "bilateral_sxy": 20.0, "tuning_photos": 3},
        },
    }
    for stage, record in records.items():
        folder = tmp_path / stage / f"{stage}0"
        more = {"stage": stage, "fingerprint": "0", "data_digest": "d", "metrics": {}, "ended": 0}
        atomic.save_json(folder / "complete.json", {"inputs": {}} | record | more)
        if stage.startswith("train"):
            kind = stage.removeprefix("train_")
            (folder / "weights.pt").write_bytes(networks[kind].read_bytes())
    method = find_networks.method_of(
        tmp_path / "random_walk" / "random_walk0", {"random_walk": {"beta": 7}}
    )
    assert method.strides == {"cam": 16, "affinity": 0}
    assert method.maps == {"scales": (0.5,), "flip": False, "cam_power": 1.0}
    assert method.walk == synthesis.Walk(beta=7.0, steps=4, crf=CrfParams(bilateral_sxy=20.0))
    assert models.open_network(method.cam, "cam") and models.open_network(method.affinity)
    with pytest.raises(InputError, match=r"one completed random_walk .* this is one of infer_cam"):
        find_networks.method_of(tmp_path / "infer_cam" / "infer_cam0")
    (tmp_path / "train_affinity" / "train_affinity0" / "weights.pt").unlink()
    with pytest.raises(InputError, match="the stages that it builds on are no longer in"):
        find_networks.method_of(tmp_path / "random_walk" / "random_walk0")
