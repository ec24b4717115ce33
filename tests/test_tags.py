"""Tags in every form."""

import json
import time

import numpy as np
import pytest
from scipy import sparse

from wsss.datasets.annotations import formats
from wsss.datasets.tags import RESERVED, class_names, folder_tags, read_tags
from wsss.errors import InputError
from wsss.photos.evaluation import Confusions
from wsss.report.paper_tables import paper, score

ROWS = [("a.jpg", ["cat", "dog"]), ("b/c", ["dog"]), ("d", [])]


def write(path, content):
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "id,labels\na.jpg,cat;dog\nb/c,dog\nd,\n"),
        ("t.csv", '\ufeffid,labels\r\n"a.jpg", cat ; dog;\r\n\r\nb\\c,dog\r\nd,\r\n'),
        ("t.json", {"a.jpg": ["cat", "dog"], "b/c": ["dog"], "d": []}),
        ("t.json", [{"id": id, "labels": labels} for id, labels in ROWS]),
    ],
)
def test_forms_of_the_same_tags(tmp_path, name, content):
    tags = read_tags(write(tmp_path / name, content))
    assert tags.rows == ROWS and tags.classes is None and not tags.loose


def test_spellings_of_a_name_are_one(tmp_path):
    composed, apart = "caf\u00e9.jpg", "cafe\u0301.jpg"
    for name in (composed, apart):
        tags = read_tags(write(tmp_path / "t.csv", f"id,labels\n{name},cr\u00e8me\n"))
        assert tags.rows == [(composed, ["cr\u00e8me"])]


def test_folders_are_tags():
    assert folder_tags(["cat/a", "cat/deep/b", "c"]).rows == [
        ("cat/a", ["cat"]),
        ("cat/deep/b", ["cat"]),
    ]


COCO = {
    "info": {},
    "images": [
        {"id": 9, "file_name": "COCO_train2014_000000000009.jpg"},
        {"id": 25, "file_name": "COCO_train2014_000000000025.jpg"},
    ],
    "categories": [{"id": 25, "name": "giraffe"}, {"id": 1, "name": "person"}],
    "annotations": [
        {"image_id": 9, "category_id": 25, "segmentation": [[1.5, 2, 3, 4]], "bbox": [1, 2, 3, 4]},
        {"image_id": 9, "category_id": 1, "segmentation": {"counts": [1, 2], "size": [3, 1]}},
        {"image_id": 9, "category_id": 25, "iscrowd": 1},
    ],
}


def test_coco_instances_give_categories_alone(tmp_path):
    tags = read_tags(write(tmp_path / "instances_train2014.json", COCO))
    assert tags.classes == ["person", "giraffe"] and tags.loose
    assert tags.rows == [
        ("COCO_train2014_000000000009.jpg", ["giraffe", "person"]),
        ("COCO_train2014_000000000025.jpg", []),
    ]


def test_categories_are_names_in_one_spelling(tmp_path):
    categories = [{"id": 25, "name": "cre\u0300me "}, {"id": 1, "name": "person"}]
    tags = read_tags(write(tmp_path / "t.json", COCO | {"categories": categories}))
    assert tags.classes == ["person", "cr\u00e8me"] and tags.rows[0][1] == ["cr\u00e8me", "person"]


@pytest.mark.parametrize("name", ["background", "Mean", "_background_", "__ignore__", "", "a\nb"])
def test_names_that_stand_for_other_things_are_no_classes(tmp_path, name):
    assert class_names([" cat ", "ca fe"], where="x") == ("cat", "ca fe")
    with pytest.raises(InputError, match=r"x: .* cannot be the name of a class; rename it"):
        class_names(["cat", name], where="x")


def test_every_column_of_the_tables_is_reserved():
    """Or a class of that name would take the column's place."""
    matrix = np.ones((1, 9), int)
    found = score([("run", Confusions(3, ["a"], sparse.csr_array(matrix)))], draws=2)
    steps = dict.fromkeys(("CAM", "network"), found)
    tables = paper(steps, backbone="b", classes=["cat", "dog"], score_on="s", val_on="v")
    assert set(tables["table2"].columns) - {"cat", "dog"} <= RESERVED
    of_cvat = [line.split(":")[0] for line in formats.cvat_lines(["cat"]).splitlines()[1:]]
    assert {*of_cvat, formats.labelme.BACKGROUND_NAME} - {"cat"} <= RESERVED


def test_a_photo_listed_twice_is_found_in_time_that_grows_with_the_photos(tmp_path):
    """Comparing each name with all others would take minutes."""
    lines = [f'"p{number}.jpg": ["cat"]' for number in range(40_000)]
    path = write(tmp_path / "t.json", "{" + ",".join([*lines, lines[-1]]) + "}")
    began = time.process_time()
    with pytest.raises(InputError, match=r"'p39999\.jpg' is listed twice"):
        read_tags(path)
    assert time.process_time() - began < 8


@pytest.mark.parametrize("escape", ["\\u0000", "\\ud800"])
@pytest.mark.parametrize("form", ['{"a": ["%s"]}', '{"%s": []}', '[{"id": "x%s", "labels": []}]'])
def test_escapes_that_no_file_can_hold_are_refused(tmp_path, form, escape):
    path = write(tmp_path / "t.json", form % escape)
    with pytest.raises(InputError, match=r"t\.json: expected text but it contains '\\(x00|ud800)"):
        read_tags(path)
    assert read_tags(write(path, form % "\\ud83d\\udc08")).rows  # a pair is a letter


def test_categories_with_such_escapes_are_refused(tmp_path):
    odd = COCO | {"categories": [{"id": 25, "name": "gi\ud800"}, {"id": 1, "name": "person"}]}
    with pytest.raises(InputError, match="expected text but it contains"):
        read_tags(write(tmp_path / "t.json", odd))
