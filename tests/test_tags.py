"""Tags in every form, and files that are none."""

import json

import pytest

from wsss.datasets.tags import folder_tags, read_tags
from wsss.errors import InputError

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


BAD = {
    "another header": ("t.csv", "photo,tags\na,b\n", "expected the header 'id,labels' but found"),
    "a column more": ("t.csv", "id,labels,when\na,b,c\n", "found 'id,labels,when'"),
    "an unquoted comma": ("t.csv", "id,labels\na,b,c\n", "line 2.*found 3 columns; quote names"),
    "empty": ("t.csv", "", "found 'an empty file'"),
    "binary": ("t.csv", b"\xff\xfe\x00id", "expected tags in UTF-8"),
    "no JSON": ("t.json", "{", "not readable as tags"),
    "labels in one text": ("t.json", {"a": "cat"}, "'a' is none of these"),
    "numbers": ("t.json", [{"id": "a", "labels": [1]}], "'a' is none of these"),
    "a list of names": ("t.json", ["a"], "None is none of these"),
    "a number": ("t.json", "3", "None is none of these"),
    "twice": ("t.json", '{"a": ["x"], "a": ["y"]}', "'a' is listed twice"),
    "deep": ("t.json", "[" * 100_000, "not readable as tags"),
    "COCO without names": ("t.json", COCO | {"categories": [{"id": 1}]}, "met KeyError: 'name'"),
    "COCO of others": ("t.json", COCO | {"images": []}, "met KeyError: 9"),
    "another ending": ("t.xls", "id,labels\n", "expected a .csv or .json"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_are_no_tags_is_one_line(tmp_path, kind):
    name, content, reason = BAD[kind]
    with pytest.raises(InputError, match=reason) as raised:
        read_tags(write(tmp_path / name, content))
    assert str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file of tags"):
        read_tags(tmp_path / "t.csv")
