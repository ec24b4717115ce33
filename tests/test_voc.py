"""The devkit layout: labels from CSV or XML, masks as indices, and a clear line for every fault."""

import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from wsss import datasets
from wsss.datasets.voc import VOC_CLASSES, Devkit, MaskTags, read_ids, shared_photos
from wsss.errors import InputError
from wsss.io.artifacts import save_labels


@pytest.fixture
def devkit(tmp_path):
    """Two photos in VOC's layout with XML annotations, made here."""
    for folder in ("JPEGImages", "Annotations", "SegmentationClassAug", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    for id, names in {"a": ["dog", "person", "dog"], "b": ["cat"]}.items():
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / f"JPEGImages/{id}.jpg")
        mask = np.full((20, 30), VOC_CLASSES.index(names[0]) + 1, np.uint8)
        save_labels(tmp_path / f"SegmentationClassAug/{id}.png", mask)
        objects = "".join(f"<object><name>{name}</name></object>" for name in names)
        (tmp_path / f"Annotations/{id}.xml").write_text(f"<annotation>{objects}</annotation>")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\nb\n")
    return tmp_path


def csv(devkit, text):
    (devkit / "image_labels.csv").write_text(text)
    return Devkit(devkit)


def test_labels_from_annotations_are_sorted_numbers_without_repeats(devkit):
    assert Devkit(devkit).labels("a") == [12, 15]  # dog, person
    assert Devkit(devkit).label_vector("a").nonzero()[0].tolist() == [11, 14]


def test_labels_from_csv_come_before_annotations(devkit):
    assert csv(devkit, "id,labels\na,cat;bus\n").labels("a") == [6, 8]


def test_an_annotation_without_objects_gives_no_labels(devkit):
    (devkit / "Annotations/b.xml").write_text("<annotation></annotation>")
    data = Devkit(devkit)
    assert data.labelled() == {"a"}
    (fault,) = data.check(["train"])
    assert "Annotations/b.xml: no labels for photo b; add them" in fault


def test_labels_never_come_from_masks(devkit):
    shutil.rmtree(devkit / "SegmentationClassAug")
    assert Devkit(devkit).labels("a") == [12, 15]


def test_mask_is_read_as_indices(devkit):
    mask = Devkit(devkit).mask("b")
    assert mask.dtype == np.uint8 and (mask == 8).all()


def test_check_names_every_fault(devkit):
    (devkit / "ImageSets/Segmentation/train.txt").write_text("a\nb\nc\nd\ne\n")
    photo = (devkit / "JPEGImages/a.jpg").read_bytes()
    (devkit / "JPEGImages/b.jpg").write_bytes(photo[: len(photo) // 2])  # truncated
    for id in "de":
        (devkit / f"JPEGImages/{id}.jpg").write_bytes(photo)
    Image.fromarray(np.zeros((10, 30), np.uint8)).save(
        devkit / "SegmentationClassAug/d.png"
    )  # another size
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(
        devkit / "SegmentationClassAug/e.png"
    )  # a colour image
    faults = csv(devkit, "id,labels\na,dog\nd,dog\n").check(["train"], masks=["train"])
    reasons = {
        "JPEGImages/b.jpg": "not a readable photo",
        "JPEGImages/c.jpg": "missing",
        "SegmentationClassAug/d.png": "30x10 but its photo is 30x20",
        "SegmentationClassAug/e.png": "RGB",
        "image_labels.csv": "no labels for photo e",
    }
    assert len(faults) == len(reasons)
    for name, reason in reasons.items():
        assert any(name in fault and reason in fault for fault in faults), (name, faults)


def test_a_list_from_another_system_is_read_as_it_is_meant(devkit):
    (devkit / "ImageSets/Segmentation/train.txt").write_bytes(b"\xef\xbb\xbfb  1\r\na -1\r\n\r\n")
    assert Devkit(devkit).ids("train") == ["b", "a"]


@pytest.mark.parametrize(
    ("lines", "ids"),
    [
        ("a b\na\n", ["a b", "a"]),
        ("photo 1\nphoto 10\n", ["photo 1", "photo 10"]),
        ("x  1\ny -1\nz 0\n", ["x", "y", "z"]),  # VOC's lists of one class
        ("x  1\ny\n", ["x  1", "y"]),
    ],
)
def test_ids_may_have_blanks(tmp_path, lines, ids):
    (tmp_path / "train.txt").write_text(lines)
    assert read_ids(tmp_path / "train.txt") == ids


def test_classes_are_lines_in_any_spelling(devkit):
    (devkit / "classes.txt").write_text("traffic light\n\ncre\u0300me \n")
    data = csv(devkit, "id,labels\na,cr\u00e8me\nb,traffic light\n")
    assert data.classes == ("traffic light", "cr\u00e8me")
    assert data.labels("a") == [2] and data.labels("b") == [1]


def full(*numbers):
    """A mask that shows the background, these classes, and pixels to ignore."""
    return np.array([[0, 255, *numbers]], np.uint8)


CLASSES = ("ant", "cat", "dog")


@pytest.mark.parametrize(
    ("photos", "text", "wrong"),
    [
        # all as tagged, or less than that
        ([([1], [1]), ([1], [1, 2]), ([], [3])] * 4, "0 of 12", None),
        # a class that was put before the others: cats' masks are called ant
        ([([1], [2])] * 4 + [([1, 2], [2, 3])] * 4, "8 of 8", "8 of 8 with ant (1)"),
        # two classes swapped, which few of the photos show
        (
            [([3], [3])] * 20 + [([1], [2])] * 4 + [([2], [1])] * 4,
            "8 of 28",
            "4 of 4 with ant (1), 4 of 4 with cat (2)",
        ),
        # tags forgotten: half of a class's
        ([([1, 3], [1, 3])] * 5 + [([1, 3], [3])] * 5, "5 of 10", None),
        ([([1, 3], [1, 3])] * 5 + [([1, 3], [3])] * 6, "6 of 11", "6 of 11 with ant (1)"),
        # too few to tell
        ([([1], [2])] * 3, "3 of 3", None),
        ([([1], [2])] * 2 + [([2], [3])] * 2, "4 of 4", "tagged with; number"),
    ],
)
def test_masks_are_compared_with_tags(photos, text, wrong):
    compared = MaskTags()
    for shown, tags in photos:
        compared.add(full(*shown), tags)
    assert str(compared) == f"{text} masks show a class that their photo is not tagged with"
    faults = compared.faults(SimpleNamespace(classes=CLASSES, root="kit", mask_folder="masks"))
    assert len(faults) == (wrong is not None)
    assert not wrong or wrong in faults[0]


def test_check_compares_masks_with_tags(devkit):
    ids = "abcde"
    for id in ids:
        Image.new("RGB", (30, 20)).save(devkit / f"JPEGImages/{id}.jpg")
        save_labels(devkit / f"SegmentationClassAug/{id}.png", np.full((20, 30), 8))
    (devkit / "ImageSets/Segmentation/train.txt").write_text("\n".join(ids))
    data = csv(devkit, "id,labels\n" + "".join(f"{id},dog\n" for id in ids))
    compared = MaskTags()
    (fault,) = data.check(["train"], masks=["train"], compared=compared)
    assert "SegmentationClassAug: 5 of 5 masks show" in fault and "5 of 5 with cat (8)" in fault
    assert (compared.untagged, compared.masks) == (5, 5)
    assert data.check(["train"]) == []


def test_photos_that_are_trained_on_are_not_scored(devkit):
    lists = devkit / "ImageSets/Segmentation"
    (lists / "val.txt").write_text("b\n")
    (fault,) = shared_photos(Devkit(devkit), "train", "val")
    assert "1 photos are on both 'train' and 'val', such as b" in fault
    (lists / "train.txt").write_text("a\n")
    assert shared_photos(Devkit(devkit), "train", "val") == []


def test_missing_folder_list_and_name_are_refused(devkit, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        Devkit(tmp_path / "nowhere")
    with pytest.raises(InputError, match="the lists here are: train"):
        Devkit(devkit).ids("trian")
    with pytest.raises(InputError, match="expected one of: shapes, shapes_few, voc"):
        datasets.open("coco", devkit)


def test_digest_sees_lists_labels_and_contents(devkit):
    digests = [Devkit(devkit).digest()]
    csv(devkit, "id,labels\na,dog\nb,cat\n")
    digests.append(Devkit(devkit).digest())
    (devkit / "ImageSets/Segmentation/train.txt").write_text("b\na\n")
    digests.append(Devkit(devkit).digest())
    photo = devkit / "JPEGImages/b.jpg"
    content, status = photo.read_bytes(), photo.stat()
    photo.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
    digests.append(Devkit(devkit).digest())
    assert photo.stat().st_size == status.st_size
    photo.unlink()
    digests.append(Devkit(devkit).digest())
    assert len(set(digests)) == 5
    assert Devkit(devkit).digest() == digests[-1]


def test_a_mask_changes_only_the_part_of_the_digest_that_scores_depend_on(devkit):
    before = Devkit(devkit).digest().split("-")
    mask = devkit / "SegmentationClassAug" / "a.png"
    mask.parent.mkdir(exist_ok=True)
    mask.write_bytes(b"another")
    after = Devkit(devkit).digest().split("-")
    assert before[0] == after[0] and before[1] != after[1]


def test_digest_sees_the_boxes_of_annotations(devkit):
    box = devkit / "Annotations" / "a.xml"
    box.write_text("<annotation><object><name>cat</name></object></annotation>")
    before = Devkit(devkit).digest()
    box.write_text(box.read_text().replace("cat", "dog"))
    assert Devkit(devkit).digest() != before


def test_tuning_split_parts_the_list():
    ids = [str(n) for n in range(50)]
    tuning, rest = datasets.tuning_split(ids, 20)
    assert len(tuning) == 20 and sorted(tuning + rest, key=int) == ids
    assert (tuning, rest) == datasets.tuning_split(ids, 20)
    assert tuning != datasets.tuning_split(ids, 20, seed=1)[0]


def test_the_real_sample_is_whole(voc_sample):
    data = datasets.open("voc", voc_sample)
    counts = {split: len(data.ids(split)) for split in ("train", "train_aug", "val")}
    assert counts == {"train": 668, "train_aug": 1098, "val": 333}
    assert set(data.ids("train")) < set(data.ids("train_aug")) and not set(
        data.ids("train_aug")
    ) & set(data.ids("val"))
    assert data.labels("2007_000032") == [1, 15]  # aeroplane, person
    assert data.mask("2007_000032").shape == data.image("2007_000032").shape[:2]
