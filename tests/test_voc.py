"""The devkit layout: labels from CSV or XML, masks as indices, and a clear line for every fault."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from wsss import datasets
from wsss.datasets.voc import VOC_CLASSES, Devkit
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
    photo.write_bytes(content[:-3] + b"\0" + content[-2:])
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
    (devkit / "image_labels.csv").unlink()
    (devkit / "Annotations").mkdir(exist_ok=True)
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
