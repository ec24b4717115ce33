"""Your own photos: found, tagged, drawn apart, checked, described."""

import json
import os
import pickle
import unicodedata

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
    assert list(data.splits) == ["train", "val", "all"]
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


def test_the_classes_that_are_known_of_a_photos_tags_are_kept(root):
    data = Folder(root, classes=["cat", "dog"])
    assert data.unknown_tags == {"deep/er/c": ["eel"], "é/ünï": ["eel"]}
    assert data.labels("é/ünï") == [1] and data.labelled() == set(IDS) - {"deep/er/c"}
    faults = data.check([])
    assert len(faults) == 2 and all("unknown class 'eel'; the classes" in each for each in faults)


def test_a_name_that_files_of_its_maps_cannot_have_is_a_fault(root, capsys):
    photo(root / f"{'x' * 250}.jpg", colour=1)
    doubled = "\u0958" * 70  # its normal form is twice as long
    photo(root / f"{doubled}.jpg", colour=2)
    (fault,) = Folder(root).check([])
    assert "the name is too long for its maps (250 bytes); shorten it" in fault
    assert doubled in fault
    assert main(["data", "folder", str(root)]) == 2
    assert capsys.readouterr().out.count("too long") == 1


def test_two_spellings_of_a_name_can_be_told_apart(root):
    photo(root / "e\u0301.jpg", colour=1)
    photo(root / "\xe9.jpg", colour=2)
    (fault,) = Folder(root).check([])
    escaped, composed = r"e\u0301.jpg", "\xe9.jpg"
    assert f"{escaped} and {composed} have one id, and only {escaped} is read" in fault


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
        "note: not trained on, without tags: same",
        "note: the same picture: a.jpg, same.jpg",
        "a.jpg and a.png have one id, and only a.jpg is read; rename all but one",
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
    assert Folder.open(tmp_path / "more.yaml").classes == ("dog", "eel", "cat", "bird")


def surveyed(capsys, *arguments):
    """``(exit code, lines)`` of the command that checks a folder."""
    capsys.readouterr()
    code = main(["data", "folder", *map(str, arguments)])
    return code, capsys.readouterr().out.splitlines()


@pytest.fixture
def pets(tmp_path):
    """Four photos each of cats and dogs, with masks, tagged."""
    root, rows = tmp_path / "pets", ["id,labels"]
    for number, name in enumerate(["cat", "dog"] * 4):
        photo(root / f"{name}{number}.png", colour=20 * number)
        save_labels(root / "masks" / f"{name}{number}.png", np.full((30, 40), 1 + number % 2))
        rows.append(f"{name}{number},{name}")
    (root / "tags.csv").write_text("\n".join(rows) + "\n")
    return root


def test_a_class_that_shifts_the_others_numbers_is_noticed(pets, capsys):
    code, lines = surveyed(capsys, pets)
    note = "0 of 8 masks show a class that their photo is not tagged with"
    assert code == 0 and f"note: {note}" in lines
    photo(pets / "new.png", colour=255)
    with (pets / "tags.csv").open("a") as file:
        file.write("new,ant\n")
    code, lines = surveyed(capsys, pets)
    (fault,) = [line for line in lines if line.startswith("fault")]
    assert code == 2 and "masks: 8 of 8 masks show a class" in fault
    assert "4 of 4 with ant (1), 4 of 4 with cat (2); number the masks" in fault
    (again,) = Folder(pets).check(["all"])
    assert again in fault
    assert surveyed(capsys, pets, "--classes", "cat,dog,ant")[0] == 0


def test_classes_that_may_be_misspelt_or_hardly_learnt_are_named(pets, capsys):
    names = ["Cat", "dog 1", "dogg", "wolf"] + ["eel"] * 4
    with (pets / "tags.csv").open("a") as file:
        for number, name in enumerate(names):
            photo(pets / f"more{number}.png", colour=10 + 20 * number)
            file.write(f"more{number},{name}\n")
    (pets / "splits").mkdir()
    (pets / "splits" / "train.txt").write_text("".join(f"more{n}\n" for n in range(8)))
    (pets / "splits" / "val.txt").write_text("cat0\ndog1\n")
    code, lines = surveyed(capsys, pets, "--classes", "cat,dog,Cat,dog 1,dogg,wolf,eel,unicorn")
    assert code == 0
    assert "note: perhaps misspelt (photos): Cat (1) for cat (4), dogg (1) for dog (4)" in lines
    assert "note: cannot be learnt, on no photo: unicorn" in lines
    unscored = "Cat, dog 1, dogg, wolf, eel"
    assert f"note: no score, on no photo of val: {unscored}" in lines
    assert "note: hardly learnt, on under 10 photos: cat, dog, Cat, dog 1, dogg and 2 more" in lines


def test_a_folder_without_tags_is_refused(pets, capsys):
    for content in (None, "id,labels\n", "id,labels\ncat0,\n"):
        (pets / "tags.csv").unlink(missing_ok=True)
        if content:
            (pets / "tags.csv").write_text(content)
        for more in ((), ("--classes", "cat,dog")):
            code, lines = surveyed(capsys, pets, *more)
            start = f"fault: {pets}: no photo has tags (from "
            (fault,) = [line for line in lines if line.startswith(start)]
            assert code == 2
            assert fault.endswith("give --tags, a tags.csv or tags.json in it, or a folder per tag")


def test_what_is_not_read_is_told(pets, capsys):
    for name in ("a.HEIC", "b.heic", "deep/c.tif", "noext", ".DS_Store", "photos.yaml"):
        (pets / name).parent.mkdir(exist_ok=True)
        (pets / name).write_text("")
    (pets / "more").symlink_to(pets.parent)
    code, lines = surveyed(capsys, pets)
    kinds = "2 .heic, 1 linked folder, 1 noext, 1 .tif"
    (note,) = [line for line in lines if "not read" in line]
    assert code == 0 and sorted(note.partition("WebP: ")[2].split(", ")) == sorted(
        kinds.split(", ")
    )


def test_photos_that_are_nearly_black_are_told(pets, capsys):
    values = np.arange(30 * 40, dtype=np.uint16).reshape(30, 40)
    Image.fromarray(values % 4096).save(pets / "cat0.png")  # 12 bits in 16
    Image.fromarray((values % 4096) * 16 + 20_000).save(pets / "dog1.png")
    code, lines = surveyed(capsys, pets)
    assert code == 0
    assert [line.rpartition(": ")[2] for line in lines if "nearly black" in line] == ["cat0.png"]


def test_a_large_sparse_file_is_not_hashed(pets, capsys):
    os.truncate(pets / "cat0.png", 2**40)
    code, lines = surveyed(capsys, pets)
    assert code == 2 and "more than 536,870,912 bytes" in lines[-1]


def test_a_path_comes_before_an_id(tmp_path, capsys):
    root, saved = tmp_path / "photos", tmp_path / "photos.yaml"
    photo(root / "IMG.jpg", colour=10)
    photo(root / "IMG.jpg.jpg", colour=200)
    photo(root / "other.jpg", colour=90)
    (root / "tags.csv").write_text("id,labels\nIMG.jpg,cat\nIMG.jpg.jpg,dog\nother,cat\n")
    data = Folder(root)
    assert data.check(["all"]) == []
    assert [data.classes[data.labels(id)[0] - 1] for id in ("IMG", "IMG.jpg")] == ["cat", "dog"]
    (root / "IMG.jpg.jpg").write_bytes(b"broken")
    assert surveyed(capsys, root, "--save", saved)[0] == 0
    data = Folder.open(saved)
    assert list(data.photos) == ["IMG", "other"] and data.check(["all"]) == []


def test_coco_names_one_photo_or_none(tmp_path):
    for name in ("train/a", "test/a", "train/b", "train/c", "d", "sub/e"):
        photo(tmp_path / "coco" / f"{name}.jpg")
    names = ["a.jpg", "test/a.jpg", "val/b.jpg", "c.jpg", "images/d.jpg", "x/sub/e.jpg"]
    content = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": number, "category_id": 1} for number in range(len(names))],
    }
    (tmp_path / "t.json").write_text(json.dumps(content))
    data = Folder(tmp_path / "coco", tags=tmp_path / "t.json")
    assert data.ids("all") == ["d", "sub/e", "test/a", "train/c"]
    ambiguous, other = data.check([])
    assert "a.jpg: may be test/a or train/a; name the photo by its path" in ambiguous
    assert "val/b.jpg: has tags but there is no such JPEG" in other


def test_names_that_are_left_out_must_be_there(root):
    data = Folder(root, leave_out=["a.jpg", "deep/d", "typo"])
    assert data.ids("all") == ["b 2", "deep/er/c", "é/ünï"]
    (fault,) = data.check(["all"])
    assert "leave_out: there is no photo 'typo'; take it off the list" in fault


@pytest.mark.parametrize("given", [True, False])
def test_the_list_of_all_photos_cannot_be_given(root, given):
    (root / "splits").mkdir()
    (root / "splits" / "all.txt").write_text("a\n")
    with pytest.raises(InputError, match="'all' is always that of all tagged photos"):
        Folder(root, splits={"all": ["a"]} if given else None).ids("all")


def test_lists_that_share_photos_are_a_fault(root, capsys):
    (root / "splits").mkdir()
    (root / "splits" / "train.txt").write_text("a\ndeep/d\n")
    (root / "splits" / "val.txt").write_text("b 2\ndeep/d.JPG\n")
    code, lines = surveyed(capsys, root)
    assert code == 2
    assert "1 photos are on both 'train' and 'val', such as deep/d: scores would be" in lines[-1]


@pytest.mark.parametrize("spelling", ["NFC", "NFD"])
def test_a_mask_has_its_photos_name_in_any_spelling(tmp_path, spelling):
    name = unicodedata.normalize("NFD", "é/ünï")
    photo(tmp_path / f"{name}.jpg")
    save_labels(
        tmp_path / "masks" / f"{unicodedata.normalize(spelling, name)}.png", np.ones((30, 40))
    )
    data = Folder(tmp_path)
    (id,) = data.ids("all")
    assert id == unicodedata.normalize("NFC", name) and data.masked([id]) == [id]
    assert (data.mask(id) == 1).all()
