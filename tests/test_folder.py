"""Your own photos: found, tagged, drawn apart, checked, described."""

import json
import pickle

import numpy as np
import pytest
import yaml
from PIL import Image

from wsss import datasets
from wsss.cli import main
from wsss.datasets import Folder
from wsss.errors import InputError
from wsss.io.artifacts import save_labels

NAMES = ["a.jpg", "b 2.png", "deep/er/c.webp", "deep/d.JPG", "é/ünï.jpeg"]
IDS = ["a", "b 2", "deep/d", "deep/er/c", "é/ünï"]
TAGS = "id,labels\na,cat;dog\nb 2.png,dog\ndeep/d,cat\ndeep/er/c.webp,eel\né/ünï,eel;cat\n"


def photo(path, size=(40, 30), colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 90, 200)).save(path)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "my photos"
    for place, name in enumerate(NAMES):
        photo(root / name, colour=40 * place)
    (root / "notes.txt").write_text("no photo")
    (root / ".hidden").mkdir()
    photo(root / ".hidden" / "x.jpg")
    (root / "tags.csv").write_text(TAGS)
    return root


def test_photos_are_found_with_their_tags(root):
    data = datasets.open("folder", root)
    assert list(data.photos) == IDS and data.ids("all") == IDS
    assert data.classes == ("cat", "dog", "eel")
    assert [data.labels(id) for id in IDS] == [[1, 2], [2], [1], [3], [1, 3]]
    np.testing.assert_array_equal(data.label_vector("é/ünï"), [1, 0, 1])
    assert data.image("deep/er/c").shape == (30, 40, 3) and data.check(["all"]) == []
    assert pickle.loads(pickle.dumps(data)).image("a")[0, 0, 2] == data.image("a")[0, 0, 2]


def test_tags_may_be_folders_names_json_or_several_files(root, tmp_path):
    (root / "tags.csv").unlink()
    data = Folder(root)
    assert data.classes == ("deep", "é") and data.ids("all") == ["deep/d", "deep/er/c", "é/ünï"]
    (tmp_path / "1.json").write_text(json.dumps({"a": ["cat"]}))
    (tmp_path / "2.csv").write_text("id,labels\nb 2,dog\n")
    data = Folder(root, tags=[tmp_path / "1.json", tmp_path / "2.csv"], classes=["dog", "cat"])
    assert data.classes == ("dog", "cat") and data.labels("a") == [2] and data.labels("b 2") == [1]


def test_coco_names_photos_without_their_folder(tmp_path):
    photo(tmp_path / "coco" / "train2014" / "COCO_9.jpg")
    photo(tmp_path / "coco" / "val2014" / "COCO_3.jpg")
    categories = [{"id": number, "name": f"thing {number}"} for number in range(1, 91, 2)]
    content = {
        "images": [{"id": 9, "file_name": "COCO_9.jpg"}, {"id": 3, "file_name": "COCO_3.jpg"}],
        "categories": categories,
        "annotations": [{"image_id": 9, "category_id": 3}, {"image_id": 3, "category_id": 89}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    data = Folder(
        tmp_path / "coco",
        tags=tmp_path / "instances.json",
        splits={"train": "train2014", "val": "val2014/"},
    )
    assert data.ids("train") == ["train2014/COCO_9"] and data.ids("val") == ["val2014/COCO_3"]
    assert len(data.classes) == 45 and data.labels("train2014/COCO_9") == [2]


def test_the_draw_is_seeded_and_photos_keep_their_place(tmp_path):
    for number in range(50):
        photo(tmp_path / f"{number}.png", size=(16, 16))
    (tmp_path / "tags.json").write_text(json.dumps({str(n): ["x"] for n in range(40)}))
    data = Folder(tmp_path)
    train, val = data.ids("train"), data.ids("val")
    assert len(val) == 8 and sorted(train + val) == data.ids("all")
    assert Folder(tmp_path).ids("val") == val != Folder(tmp_path, seed=1).ids("val")
    assert len(Folder(tmp_path, val_share=0.5).ids("val")) == 20
    (tmp_path / "tags.json").write_text(json.dumps({str(n): ["x"] for n in range(50)}))
    moved = set(val) - set(Folder(tmp_path).ids("val"))
    assert len(moved) <= 4, "photos that were there before changed sides"


def test_lists_are_taken_where_they_are_given(root):
    (root / "splits").mkdir()
    (root / "splits" / "train.txt").write_text("a.jpg\ndeep/d\n\n")
    (root / "splits" / "val.txt").write_text("\ufeffé/ünï\r\nb 2\r\n")
    data = Folder(root)
    assert data.splits() == ["train", "val", "all"]
    assert data.ids("train") == ["a", "deep/d"] and data.ids("val") == ["é/ünï", "b 2"]
    for line, reason in (
        ("c", "is not a photo of this folder"),
        ("a", "listed twice"),
        ("deep/er/c", "has no tags"),
    ):
        (root / "tags.csv").write_text(TAGS.replace("deep/er/c.webp,eel", "deep/er/c.webp,"))
        (root / "splits" / "train.txt").write_text(f"a\n{line}\n")
        with pytest.raises(InputError, match=reason):
            Folder(root).ids("train")


def test_masks_are_there_or_not_and_follow_the_photo(root):
    labels = np.zeros((30, 40), np.uint8)
    labels[10:, 20:] = 2
    save_labels(root / "masks" / "a.png", labels)
    data = Folder(root)
    assert list(data.photos) == IDS, "a mask was taken for a photo"
    assert data.masked(IDS) == ["a"] and data.mask_folder == "masks"
    np.testing.assert_array_equal(data.mask("a"), labels)
    small = Folder(root, long_side=20)
    assert small.image("a").shape[:2] == small.mask("a").shape == (15, 20)
    np.testing.assert_array_equal(small.mask("a"), labels[::2, ::2])
    before = data.digest()
    save_labels(root / "masks" / "a.png", np.zeros((5, 5)))
    assert Folder(root).digest() != before
    assert (
        "the mask is 5x5 but its photo is 40x30, or larger in proportion"
        in Folder(root).check(["all"])[0]
    )


def test_the_digest_follows_what_results_hang_on(root):
    seen = {Folder(root).digest(), Folder(root).digest()}
    assert len(seen) == 1
    seen.add(Folder(root, seed=5, val_share=0.4).digest())
    seen.add(Folder(root, long_side=30).digest())
    (root / "tags.csv").write_text(TAGS.replace("a,cat;dog", "a,cat"))
    seen.add(Folder(root).digest())
    photo(root / "a.jpg", size=(80, 60))
    seen.add(Folder(root).digest())
    assert len(seen) == 5


def test_a_description_is_read_from_its_own_folder(root, tmp_path, monkeypatch):
    (tmp_path / "dog.txt").write_text("b 2\n")
    description = {
        "photos": root.name,
        "tags": f"{root.name}/tags.csv",
        "classes": ["eel", "dog", "cat"],
        "splits": {"train": ["a", "deep/d.JPG"], "val": "dog.txt"},
        "leave_out": ["é/ünï.jpeg"],
        "long_side": 20,
    }
    path = tmp_path / "photos.yaml"
    path.write_text(yaml.safe_dump(description))
    monkeypatch.chdir("/")
    data = datasets.open("folder", path)
    assert data.classes == ("eel", "dog", "cat") and data.labels("a") == [2, 3]
    assert data.ids("train") == ["a", "deep/d"] and data.ids("val") == ["b 2"]
    assert "é/ünï" not in data.photos and data.check(["all"]) == []
    assert data.image("a").shape == (15, 20, 3)


FAULTS = {
    "a photo that is not there": ("gone.jpg,cat", "gone.jpg: has tags but there is no such JPEG"),
    "a path that leaves": ("../a.jpg,cat", "../a.jpg: leaves the folder of photos"),
    "an absolute path": ("/a.jpg,cat", "/a.jpg: leaves the folder of photos"),
    "listed twice": ("a.jpg,dog", "a.jpg: is listed twice"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_tags_that_do_not_fit_are_reported_and_the_rest_is_there(root, kind):
    line, reason = FAULTS[kind]
    (root / "tags.csv").write_text(f"{TAGS}{line}\n")
    data = Folder(root)
    (fault,) = data.check(["all"])
    assert reason in fault and data.ids("all") == IDS


def test_a_million_faults_are_not_told_one_by_one(root, capsys):
    lines = "".join(f"gone{number},cat\n" for number in range(1_500))
    (root / "tags.csv").write_text(f"{TAGS}{lines}")
    assert main(["data", "folder", str(root)]) == 2
    printed = capsys.readouterr()
    assert printed.out.count("fault: ") == 1_000 and "and 500 more faults\n" in printed.out
    assert "(and 1499 more, listed above)" in printed.err


def test_the_survey_tells_all_and_saves_what_can_be_used(root, tmp_path, capsys):
    photo(root / "same.jpg")  # as a.jpg
    photo(root / "a.png", size=(20, 20))
    (root / "broken.jpg").write_bytes(b"no photo")
    (root / "loop").symlink_to(root)
    (root / "tags.csv").write_text(f"{TAGS}broken,cat\ngone,cat\n")
    save_labels(root / "masks" / "a.png", np.zeros((30, 40)))
    assert main(["data", "folder", str(root)]) == 2
    output = capsys.readouterr().out
    for line in (
        "7 photos, 3 classes; tags from",
        "| cat | ",
        "note: 1 photos without tags, not trained on: same",
        "note: the same picture: a.jpg, same.jpg",
        "a.jpg and a.png have one id; rename all but one",
        "gone: has tags but there is no such JPEG",
        "broken.jpg: expected a photo but it is not a JPEG, PNG or WebP",
    ):
        assert line in output, line
    (root / "a.png").unlink()
    (root / "tags.csv").write_text(f"{TAGS}broken,cat\n")
    saved = tmp_path / "photos.yaml"
    assert (
        main(["data", "folder", str(root), "--save", str(saved), "--classes", "eel,dog,cat"]) == 0
    )
    data = datasets.open("folder", saved)
    assert data.check(["all"]) == [] and data.ids("all") == IDS
    assert data.classes == ("eel", "dog", "cat")
    capsys.readouterr()
    assert main(["data", "folder", str(root), "--save", str(saved)]) == 2
    assert "this file exists already" in capsys.readouterr().err
    assert main(["data", "folder", str(saved)]) == 0
    (tmp_path / "classes.txt").write_text("dog\neel\ncat\nbird\n")
    more = ["--classes", str(tmp_path / "classes.txt"), "--save", str(tmp_path / "more.yaml")]
    assert main(["data", "folder", str(root), *more]) == 0
    assert Folder.described(tmp_path / "more.yaml").classes == ("dog", "eel", "cat", "bird")
