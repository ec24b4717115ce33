"""Contents of files that are not what they should be, for the table in ``bad_inputs.py``."""

import base64
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
import scipy.io
import torch
from PIL import Image

from tests import samples


class Folder:
    """What to put at a path: an empty folder."""


class Pipe:
    """What to put at a path: a named pipe, which nobody writes to."""


class Link(NamedTuple):
    """What to put at a path: a link to another."""

    target: str


class Case(NamedTuple):
    """A file spoilt, and what is printed of it.

    Attributes:
        spoil: file in the world to what it holds now: bytes, text, ``Folder``, ``Link``, a
            function of the file's path that gives one of these, or None to take it away.
        message: part of the line, as a regular expression.
        more: arguments for the command.
        names: what the line must name; None takes the first spoilt file's name.
    """

    spoil: dict
    message: str
    more: tuple = ()
    names: str | None = None


def case(file, content, message, *more, names=None):
    """A ``Case`` of one spoilt file."""
    return Case({file: content}, message, more, names)


def weights(file, content, message, *more):
    """A ``Case`` of a spoilt file that is an argument of the command."""
    return case(file, content, message, file, *more)


def word(*given, message, names, spoil=None):
    """A ``Case`` of arguments."""
    return Case(spoil or {}, message, given, names)


def png(picture):
    return samples.encoded(picture, "PNG")


def png_header(width, height, colour=2):
    """A PNG that says how large it is, and has hardly any pixels."""

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def animated(form):
    photo = samples.photo()
    return samples.encoded(photo, form, save_all=True, append_images=[photo.rotate(90)])


class Canary:
    """What unpickles into a command that leaves a file behind."""

    def __reduce__(self):
        return os.system, ("touch canary",)


def pickled(path):
    return pickle.dumps({"a": Canary()})


def torch_file(content):
    return samples.kept(lambda path: torch.save(content, path))


def network(file="cam", state=dict, **described):
    """The sound network's file with another state or description."""
    found = torch.load(io.BytesIO(samples.network(file)), weights_only=True)
    found["state"] = state(found["state"])
    found["description"] |= described
    return torch_file(found)


def with_value(value):
    """Changes one number of a state."""

    def change(state):
        name = next(name for name, tensor in state.items() if tensor.is_floating_point())
        state[name].view(-1)[0] = value
        return state

    return change


def arrays(**named):
    return samples.kept(lambda path: np.savez(path, **named), "a.npz")


def half(content):
    return content[: len(content) // 2]


MAPS = np.full((2, 6, 8), 0.5, np.float16)
TWO = np.array([1, 2], np.uint8)


def member(name, kind=tarfile.REGTYPE, link="", content=b"bad!", **headers):
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.pax_headers = kind, link, headers
    found.size = len(content) if kind == tarfile.REGTYPE else 0
    return found, content


def zipped(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def tar(*members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for found, content in members:
            archive.addfile(found, io.BytesIO(content))
    return file.getvalue()


def header(name, kind, size):
    found = tarfile.TarInfo(name)
    found.type, found.size = kind, size
    return found.tobuf(tarfile.GNU_FORMAT)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
RUN_THIS = '!!python/object/apply:os.system ["touch canary"]'
NOT_YAML = {  # of either kind of file, with the same answers
    "a list": ("- a\n- b\n", "expected "),
    "a text": ("hello", "expected "),
    "empty": ("", "expected "),
    "broken": ("stages: [", "not readable as YAML"),
    "tabs": ("stages:\n\tdataset: {}", "not readable as YAML"),
    "a bomb": (BOMB, "expands to more than 200,000 values; use fewer anchors"),
    "merged": (f"{BOMB}z: {{<<: [*i]}}", "expands to more than 200,000 values"),
    "within itself": ("stages: &a [*a]", "an anchor in the YAML contains itself"),
    "code": (f"stages: {RUN_THIS}", "not readable as YAML"),
    "code in a key": (f"? {RUN_THIS}\n: 1", "not readable as YAML"),
    "a class": ("stages: !!python/name:os.system ''", "not readable as YAML"),
    "UTF-16": ("stages: {}".encode("utf-16"), "UTF-8"),
    "Latin-1": ("name: é".encode("latin-1"), "not valid UTF-8 at byte 6"),
    "NUL": (b"name: a\0b", "contains NUL bytes"),
    "NUL escaped": ('name: "a\\0b"', r"expected text but it contains '\\x00'"),
    "half a pair": ('data_root: "\\ud800"', r"expected text but it contains '\\ud800'"),
    "huge": ("# much\n" * 200_000, "at most 1,048,576 bytes; make it smaller"),
    "deep": ("[" * 10_000, "nested too deep"),
    "twice": ("stages: {}\nstages: {}", "'stages' is listed twice; keep one"),
    "no date": ("stages: !!timestamp x", "a value is not what its tag says.*put it in quotes"),
    "two of them": ("a: 1\n---\nb: 2", "not readable as YAML"),
    "a folder": (Folder, "it is a folder|no such experiment file"),
    "missing": (None, "no such"),
}


def not_yaml(file):
    return [case(file, content, message) for content, message in NOT_YAML.values()]


PHOTO = samples.photo((240, 160))
LABELS = "kit/image_labels.csv"
IDS = "kit/ImageSets/Segmentation/train.txt"
MASK = "kit/SegmentationClassAug/b.png"
BOXES = "boxed/Annotations/b.xml"
MAT = "voc/benchmark_RELEASE/dataset/cls/p_e.mat"
GOOD = member("VOCdevkit/VOC2012/JPEGImages/good.jpg")
AFTER = member("VOCdevkit/VOC2012/JPEGImages/after.jpg")
REFUSED = {  # members of an archive between sound ones, by the reason
    "not in VOCdevkit/": [
        member("../escaped"),
        member("/tmp/escaped"),
        member("VOCdevkit/../../escaped"),
        member("VOCdevkit/VOC2012/JPEGImages/../../../../escaped"),
        member("VOCdevkit/VOC2012/JPEGImages/../same.jpg"),
        member("elsewhere/file"),
    ],
    "a link or a device": [
        member("VOCdevkit/VOC2012/JPEGImages/l.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        member("VOCdevkit/VOC2012/JPEGImages", tarfile.SYMTYPE, "/tmp"),
        member("VOCdevkit/VOC2012/JPEGImages/h.jpg", tarfile.LNKTYPE, "e.yaml"),
        member("VOCdevkit/VOC2012/JPEGImages/d.jpg", tarfile.CHRTYPE),
        member("VOCdevkit/VOC2012/JPEGImages/b.jpg", tarfile.BLKTYPE),
        member("VOCdevkit/VOC2012/JPEGImages/f.jpg", tarfile.FIFOTYPE),
        member("VOCdevkit/not/needed", tarfile.SYMTYPE, "x"),
    ],
}
RESULT = "results/VOC2012/Segmentation/comp6_test_cls/a.png"
LAUGHS = (
    '<!DOCTYPE a [<!ENTITY a "ha">'
    + "".join(
        f'<!ENTITY {n} "{f"&{o};" * 10}">' for o, n in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]><annotation><object><name>&i;</name></object></annotation>"
)
OUTSIDE = (
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a><object><name>&x;</name></object></a>'
)


def mat_file(content):
    return samples.kept(lambda path: scipy.io.savemat(path, content), "a.mat")


NO_MASKS = [  # what .mat files may hold instead of SBD's masks
    ({"GTinst": {"Segmentation": np.ones((2, 3), np.uint8)}}, "has no GTcls"),
    ({"GTcls": {"Boundaries": 1}}, "has no field Segmentation"),
    ({"GTcls": np.ones((2, 3), np.uint8)}, "something else than a struct of one element"),
    ({"GTcls": np.zeros((0, 0))}, "something else than a struct of one element"),
    ({"GTcls": {"Segmentation": "dog"}}, "has no numbers in that field"),
    ({"GTcls": {"Segmentation": np.zeros((2, 3), complex)}}, "or of complex numbers"),
    ({"GTcls": {"Segmentation": np.zeros((2, 3, 3), np.uint8)}}, r"uint8 of shape \(2, 3, 3\)"),
    ({"GTcls": {"Segmentation": np.full((2, 3), 0.5)}}, "has float64 of shape"),
    ({"GTcls": {"Segmentation": np.full((2, 3), 21, np.uint8)}}, "has value 21;"),
    ({"GTcls": {"Segmentation": np.full((2, 3), 255, np.uint8)}}, "has value 255;"),
    ({"GTcls": {"Segmentation": np.full((2, 3), -1, np.int16)}}, "has value -1;"),
]


def labelme(**changes):
    return json.dumps(json.loads(samples.labelme()) | changes)


def shape(**changes):
    square = {"label": "cat", "points": [[0, 0], [9, 0], [9, 9]], "shape_type": "polygon"}
    return labelme(shapes=[square | changes])


def bitmap(size):
    bits = Image.fromarray(np.eye(size, dtype=np.uint8))
    return base64.b64encode(png(bits)).decode()


CORNERS = {"shape_type": "mask", "points": [[0, 0], [3, 3]]}
NO_LABELME = [  # JSON, but not what labelme saves
    ("[]", "expected labelme's JSON"),
    ('{"images": []}', "expected labelme's JSON"),
    (labelme(shapes={}), "expected labelme's JSON"),
    (labelme(imageHeight="9"), "expected imageHeight"),
    (labelme(imageHeight=0), "expected imageHeight"),
    (labelme(imageWidth=None), "expected imageHeight"),
    (labelme(imageWidth=10**9), "million pixels"),
    (labelme(shapes=["cat"]), "shape 1: expected a label"),
    (shape(label="wolf"), "shape 1 'wolf': no such class; expected one of: cat"),
    (shape(label=None), "shape 1: expected a label"),
    (shape(shape_type="linestrip"), "cannot fill a 'linestrip'"),
    (shape(points=[[0, 0], [1, 1]]), "expected 3 or more points but it has 2"),
    (shape(points=[[0, 0], [1, 1], [2, 2]], shape_type="rectangle"), "2 points but it has 3"),
    (shape(points=[[0, 0], [1, float("nan")], [2, 2]]), "two numbers each"),
    (shape(points=[[0, 0], [1, 1e300], [2, 2]]), "two numbers each"),
    (shape(points=[[0, 0], [1], [2, 2]]), "two numbers each"),
    (shape(points=[[0, 0], ["1", 1], [2, 2]]), "two numbers each"),
    (shape(**CORNERS), "not a readable PNG"),
    (shape(**CORNERS, mask="AAAA"), "not a readable PNG"),
    (shape(**CORNERS, mask=base64.b64encode(png_header(2**31 - 1, 2**31 - 1)).decode()), "PNG"),
    (shape(**CORNERS, mask=bitmap(3)), "mask of 4x4"),
    (shape(shape_type="mask", points=[[30, 0], [33, 3]], mask=bitmap(4)), "leaves the photo"),
]


def record(**changes):
    return json.dumps(samples.RECORD | changes)


def lacking(name):
    return json.dumps({key: value for key, value in samples.RECORD.items() if key != name})


NO_RECORD = "cut short, or not what a stage writes; run its stage again"
NO_RECORDS = [  # what may lie where a completed stage's record should
    '{"stage": "random_',
    "[]",
    "",
    "[" * 100_000,
    b"\xff",
    lacking("inputs"),
    lacking("parameters"),
    record(inputs=[]),
    record(inputs={"infer_cam": 3}),
    record(inputs={"infer_cam": "../.."}),
    record(ended="now"),
]
