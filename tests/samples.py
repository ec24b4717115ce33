"""A small sound file of every kind that is read, as bytes: for tests that spoil them."""

import io
import json
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import scipy.io
import torch
from PIL import Image

from tests.test_mxnet_caffe import blob, field, mx_array, mx_list
from wsss import models
from wsss.datasets.annotations import labelme as labelme_form
from wsss.io import artifacts
from wsss.photos.evaluation import count_labels, save_confusions

CLASSES = ("cat", "dog")
CSV = b"id,labels\na,cat;dog\nb.jpg,dog\n"
VOC_CSV = b"id,labels\na,cat;dog\nb,person\n"
TAGS = {"a": ["cat", "dog"], "b.jpg": ["dog"]}
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}],
    "annotations": [
        {"image_id": 1, "category_id": 3, "segmentation": [[1, 2, 3, 4, 5, 6]], "bbox": [1, 2]},
        {"image_id": 2, "category_id": 1, "segmentation": {"counts": "abc", "size": [9, 9]}},
    ],
}
LABELMAP = b"# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\ndog:1,2,3::\n"
XML = b"""<annotation><filename>a.jpg</filename><object><name>dog</name><bndbox><xmin>1</xmin>
</bndbox></object><object><name>person</name></object></annotation>"""
EXPERIMENT = {
    "name": "tiny",
    "description": "A text.",
    "common": {"dataset": "voc", "data_root": "nowhere", "seed": 0},
    "stages": {"dataset": {}, "train_cam": {"epochs": 1}, "infer_cam": {"scales": [0.5, 1.0]}},
    "smoke": {"train_cam": {"epochs": 1}},
    "sweep": {"grid": {"infer_cam.cam_power": [1.0, 2.0]}, "seeds": [0, 1]},
}
DESCRIPTION = {
    "photos": "photos",
    "tags": [],
    "classes": ["cat", "dog"],
    "splits": {"train": ["a"], "val": "b.txt"},
    "val_share": 0.2,
    "seed": 1,
    "leave_out": ["b"],
    "long_side": 64,
}
RECORD = {
    **{"stage": "random_walk", "fingerprint": "0123", "run_id": "1", "ended": 1.5, "metrics": {}},
    **{"inputs": {"infer_cam": "0123"}, "parameters": {"beta": 8.0}, "data_digest": "4567"},
}


def photo(size=(32, 24)):
    """A picture of noise, (width, height)."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def mask(size=(32, 24)):
    """A palette picture of classes 0 to 2 and a border to ignore, (width, height)."""
    values = np.zeros((size[1], size[0]), np.uint8)
    values[4:10], values[12:20], values[0] = 1, 2, 255
    picture = Image.fromarray(values, mode="P")
    picture.putpalette(artifacts.voc_palette().tobytes())
    return picture


def encoded(picture, form, **options):
    """A picture's bytes in one of Pillow's formats."""
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def turned():
    """A JPEG with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(photo(), "JPEG", exif=exif)


def kept(write, name="file"):
    """The bytes of what ``write`` writes to a path."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


def cams():
    return kept(lambda path: artifacts.save_cams(path, [1, 2], cams=np.full((2, 6, 8), 0.5)))


def marginals():
    maps = np.full((3, 6, 8), 1 / 3)
    return kept(lambda path: artifacts.save_marginals(path, [1, 2], low=maps, high=maps))


def confusions():
    photos = [(id, np.eye(3), np.ones((3, 3))) for id in ("a", "b")]
    confusions = count_labels(photos, num_classes=3)
    return kept(lambda path: save_confusions(path, confusions))


def params():
    """MXNet's arrays, in each version of the format."""
    arrays = {"arg:a_weight": np.ones((2, 3), "<f4"), "aux:b": np.arange(4, dtype="<f8")}
    return [
        mx_list([mx_array(array, version) for array in arrays.values()], arrays)
        for version in range(4)
    ]


def caffe():
    """A layer of Caffe's, in both formats."""
    weight, bias = np.ones((2, 3, 1, 1), np.float32), np.ones(2, np.float32)
    new = field(100, field(1, b"a") + field(7, blob(weight)) + field(7, blob(bias)))
    old = field(2, field(4, b"a") + field(6, blob(weight, old=True)))
    return [new, old]


@cache
def network(kind="cam", classes=CLASSES):
    """The file of an untrained network over the small backbone."""
    torch.manual_seed(0)
    count, shape = len(classes), {"backbone": "small", "output_stride": 8}
    if kind == "cam":
        built, own = models.build_cam("small", count, output_stride=8), {}
    elif kind == "affinity":
        own = {"reduced": [4, 8, 8]}
        built = models.build_affinity("small", output_stride=8, **own)
    else:
        own = {"channels": 8, "dilation": 24}
        built = models.build_segmentation("small", count + 1, output_stride=8, **own)
    settings = {"radius": 4, "reduction": "sum"} if kind == "affinity" else {}
    return kept(
        lambda path: models.save_network(
            path, built, kind=kind, classes=classes, settings=settings, **shape, **own
        )
    )


def old_checkpoint():
    """Tensors as torch saved them until 2020."""
    state = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)}
    return kept(lambda path: torch.save(state, path, _use_new_zipfile_serialization=False))


def mat(packed):
    """SBD's mask of a photo."""
    content = {"GTcls": {"Segmentation": np.full((6, 8), 3, np.uint8), "CategoriesPresent": [3]}}
    file = io.BytesIO()
    scipy.io.savemat(file, content, do_compression=packed)
    return file.getvalue()


def tar(files):
    """A tar of files by name."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def labelme():
    labels = np.array(mask())
    return json.dumps(
        labelme_form.annotation(labels, CLASSES, image_path="a.jpg", least_area=1)
    ).encode()
