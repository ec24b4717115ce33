"""Label maps written for other tools, loaded by them, and corrections read back."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from wsss.datasets.annotations import formats
from wsss.errors import InputError
from wsss.io import artifacts

CLASSES = ("cat", "big dog")
IDS = ("plain", "a folder/é 1", "empty")
WRITERS = {
    "coco": formats.write_coco,
    "labelme": formats.write_labelme,
    "cvat": formats.write_cvat,
}


class Place:
    """Photos and label maps of ``IDS``; the second label map is of its photo at half the size."""

    def __init__(self, root):
        self.root, self.maps = root, root / "maps"
        labels = np.zeros((30, 40), np.uint8)
        labels[5:25, 5:20], labels[10:30, 20:35] = 1, 2
        labels[10:20, 8:16], labels[:4, :] = 0, 255
        self.labels = dict(zip(IDS, (labels, labels[::-1], np.zeros_like(labels)), strict=True))
        for id, labels in self.labels.items():
            artifacts.save_labels(self.maps / f"{id}.png", labels)
            self.photo(id).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (80, 60) if "/" in id else (40, 30)).save(self.photo(id))
        half = self.labels[IDS[1]]
        self.whole = self.labels | {IDS[1]: half.repeat(2, axis=0).repeat(2, axis=1)}

    def photo(self, id):
        return self.root / "photos" / f"{id}.jpg"

    def write(self, form, target):
        WRITERS[form](formats.LabelMaps(self.maps, IDS, CLASSES, self.photo), target)
        return target


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def same(found, expected):
    return found.keys() == expected.keys() and all(
        np.array_equal(found[id], expected[id]) for id in expected
    )


# pycocotools 2.0.11 decodes masks into arrays in a way that numpy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
def test_pycocotools_loads_coco(place, capsys):
    coco = COCO(place.write("coco", place.root / "out" / "coco.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == [
        "plain.jpg",
        "a folder/é 1.jpg",
        "empty.jpg",
    ]
    for image, labels in zip(coco.loadImgs(coco.getImgIds()), place.whole.values(), strict=True):
        assert (image["height"], image["width"]) == labels.shape
        found = np.where(labels == 255, 255, 0)
        for entry in coco.loadAnns(coco.getAnnIds(image["id"], iscrowd=False)):
            mask = coco.annToMask(entry) > 0
            rows, columns = np.nonzero(mask)
            assert entry["area"] == mask.sum()
            assert entry["bbox"] == [
                columns.min(),
                rows.min(),
                columns.max() + 1 - columns.min(),
                rows.max() + 1 - rows.min(),
            ]
            found[mask] = entry["category_id"]
        assert np.array_equal(found, labels)


def test_labelmes_files_name_their_photos_and_come_back(place):
    out = place.write("labelme", place.root / "out" / "corrected")
    for id in IDS:
        path = out / f"{id}.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        assert (path.parent / content["imagePath"]).samefile(place.photo(id))
        with Image.open(place.photo(id)) as file:
            width, height = file.size
        assert (content["imageWidth"], content["imageHeight"]) == (width, height)
        assert np.array_equal(formats.read_correction(path, CLASSES), place.whole[id])
    assert same(formats.read_corrections(out, CLASSES, ids=IDS), place.whole)


def test_labelmes_files_are_not_written_over(place):
    out = place.root / "out"
    (out / "a folder").mkdir(parents=True)
    (out / "a folder" / "é 1.json").write_text("corrected")
    place.write("labelme", out)
    assert (out / "a folder" / "é 1.json").read_text() == "corrected"
    assert (out / "plain.json").exists() and (out / "empty.json").exists()


def test_cvats_folder_has_what_its_import_wants(place):
    out = place.write("cvat", place.root / "out")
    assert (out / "labelmap.txt").read_text() == (
        "# label:color_rgb:parts:actions\n"
        "background:0,0,0::\n"
        "cat:128,0,0::\n"
        "big dog:0,128,0::\n"
        "__ignore__:224,224,192::\n"
    )
    listed = (out / "ImageSets" / "Segmentation" / "default.txt").read_text(encoding="utf-8")
    assert listed.splitlines() == list(IDS)
    for id, labels in place.whole.items():
        for kind in ("SegmentationClass", "SegmentationObject"):
            with Image.open(out / kind / f"{id}.png") as file:
                assert file.mode == "RGB"
                assert np.array_equal(np.array(file), artifacts.voc_palette()[labels])
    assert same(formats.read_corrections(out, CLASSES, ids=IDS), place.whole)


def test_colours_are_those_that_cvat_tells(place):
    out = place.root / "export"
    (out / "SegmentationClass").mkdir(parents=True)
    (out / "labelmap.txt").write_text("big dog:1,2,3::\nother:9,9,9::\ncat:4,5,6:legs:sits\n")
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0, 0], picture[1, 1] = (1, 2, 3), (4, 5, 6)
    Image.fromarray(picture).save(out / "SegmentationClass" / "plain.png")
    (found,) = formats.read_corrections(out, CLASSES, ids=IDS).values()
    assert found.tolist() == [[2, 0], [0, 1]]
    for colour, reason in (((9, 9, 9), "9,9,9 is 'other'"), ((7, 7, 7), "not in labelmap.txt")):
        picture[0, 1] = colour
        Image.fromarray(picture).save(out / "SegmentationClass" / "plain.png")
        with pytest.raises(InputError, match=reason):
            formats.read_corrections(out, CLASSES, ids=IDS)
    (out / "labelmap.txt").write_text("cat 4,5,6\n")
    with pytest.raises(InputError, match="expected 'name:red,green,blue::'"):
        formats.read_corrections(out, CLASSES, ids=IDS)


def test_a_class_that_cvat_cannot_name_is_refused(place):
    with pytest.raises(InputError, match="without ':'"):
        formats.write_cvat(
            formats.LabelMaps(place.maps, IDS, ("a:b", "c"), place.photo), place.root / "out"
        )


def test_corrections_are_json_and_png_side_by_side(place):
    out = place.write("labelme", place.root / "out")
    (out / "plain.json").unlink()
    (out / "empty.json").unlink()
    shutil.copy(place.maps / "plain.png", out)
    (out / "notes.txt").write_text("passed over")
    (out / ".labelmerc.json").write_text("passed over")
    found = formats.read_corrections(out, CLASSES, ids=IDS)
    assert same(found, {id: place.whole[id] for id in IDS[:2]})


def test_numbers_of_other_classes_are_refused_where_names_are_not(place):
    out = place.write("labelme", place.root / "labelled" / "corrected")
    (out.parent / "classes.txt").write_text("big dog\ncat\n")
    assert same(formats.read_corrections(out, CLASSES, ids=IDS), place.whole)  # by name
    (out / "plain.json").unlink()
    shutil.copy(place.maps / "plain.png", out)
    with pytest.raises(
        InputError, match="label maps of big dog, cat, but the dataset has cat, big"
    ):
        formats.read_corrections(out, CLASSES, ids=IDS)
    (out.parent / "classes.txt").write_text("cat\nbig dog\n")
    assert same(formats.read_corrections(out, CLASSES, ids=IDS), place.whole)


@pytest.mark.parametrize("form", WRITERS)
def test_a_label_map_of_another_photo_is_refused(place, form):
    artifacts.save_labels(place.maps / "plain.png", np.zeros((30, 41)))
    with pytest.raises(InputError, match="41x30 but its photo is 40x30"):
        place.write(form, place.root / "out")
    assert not [path for path in Path(place.root).rglob("out*") if path.is_file()]
