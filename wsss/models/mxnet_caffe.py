"""Weight files of MXNet and Caffe, read without either framework.

Nothing in them is executed, and each length in them is checked against the file.
"""

import math
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.message import DecodeError

from wsss.errors import InputError
from wsss.io.byte_reader import Bytes, Fault

MXNET_LIST = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA  # of an array; older ones begin with their rank
BFLOAT16 = 12  # which numpy lacks: read as bits
MXNET_TYPES = dict(enumerate(["f4", "f8", "f2", "u1", "i4", "i1", "i8", "?", "i2"]))
MXNET_TYPES[BFLOAT16] = "u2"

FIELD = descriptor_pb2.FieldDescriptorProto
# Messages of caffe.proto, with the fields that are read: name to number and type. Layers have two
# forms, of Caffe's current and of its earlier (V1) format.
CAFFE = {
    "Shape": {"dim": (1, FIELD.TYPE_INT64)},
    "Blob": {
        **{f"side{place}": (place, FIELD.TYPE_INT32) for place in (1, 2, 3, 4)},  # in old files
        "data": (5, FIELD.TYPE_FLOAT),
        "shape": (7, "Shape"),
        "double_data": (8, FIELD.TYPE_DOUBLE),
    },
    "Layer": {"name": (1, FIELD.TYPE_BYTES), "blobs": (7, "Blob")},
    "V1Layer": {"name": (4, FIELD.TYPE_BYTES), "blobs": (6, "Blob")},
    "Net": {"layers": (2, "V1Layer"), "layer": (100, "Layer")},
}


def is_mxnet(path: Path | str) -> bool:
    """Whether a file begins as a list of MXNet arrays does."""
    with Path(path).open("rb") as file:
        return file.read(8) == MXNET_LIST.to_bytes(8, "little")


def read_mxnet(path: Path | str) -> dict[str, torch.Tensor]:
    """The arrays of an MXNet ``.params`` file of any version, by the file's names, such as
    ``arg:conv1a_weight``. Raises InputError if it is no such file or cut short, or an array is
    sparse, empty or of an unknown type.
    """
    with _mapped(path, "an MXNet .params file") as data:
        if data.left < 16 or data.number("Q") != MXNET_LIST:
            raise Fault("does not begin as a list of MXNet arrays does")
        data.number("Q")  # reserved
        arrays = [_mxnet_array(data) for _ in range(_count(data, 4))]
        names = [data.take(_count(data, 1)) for _ in range(_count(data, 8))]
        if len(names) != len(arrays):
            raise Fault(f"holds {len(arrays)} arrays but {len(names)} names")
        if data.left:
            raise Fault(f"goes on for {data.left} bytes after its last name")
        names = [str(name, "utf-8", "replace") for name in names]
        return dict(zip(names, arrays, strict=True))


def _count(data, size):
    """A number of things of at least ``size`` bytes that follow."""
    count = data.number("Q")
    if count * size > data.left:
        raise Fault(f"announces {count} entries, more than it has bytes for")
    return count


def _mxnet_array(data):
    version = data.number("I")
    if version in (V2, V3) and (storage := data.number("i")) != 0:
        raise Fault(f"has an array of storage {storage}; only dense arrays (0) can be read")
    wide = version in (V1, V2, V3)
    rank = data.number("i") if wide else version
    if rank == -1 or (rank == 0 and version != V3):  # not known; only version 3 has rank 0
        raise Fault("has an array without a shape")
    if not 0 <= rank <= 32:
        raise Fault(f"has an array of {rank} dimensions")
    shape = tuple(data.number("q" if wide else "I") for _ in range(rank))
    data.take(8)  # the device that it was on
    kind = data.number("i")
    if kind not in MXNET_TYPES:
        raise Fault(f"has an array of unknown type {kind}")
    if min(shape, default=0) < 0:
        raise Fault(f"has an array of shape {shape}")
    dtype = np.dtype(MXNET_TYPES[kind]).newbyteorder("<")
    tensor = _tensor(np.frombuffer(data.take(dtype.itemsize * math.prod(shape)), dtype), shape)
    return tensor.view(torch.bfloat16) if kind == BFLOAT16 else tensor


def _tensor(values, shape):
    """Values as a tensor of a shape with as many elements."""
    try:
        return torch.from_numpy(values.astype(values.dtype.newbyteorder("=")).reshape(shape))
    except (OverflowError, RuntimeError, ValueError):  # too many sides, negative or too long ones
        raise Fault(f"has an array of the impossible shape {shape}") from None


def read_caffe(path: Path | str) -> dict[str, torch.Tensor]:
    """The blobs of a ``.caffemodel`` file: ``<layer>.weight``, ``<layer>.bias``, then
    ``<layer>.<number>``, in the file's shapes (in old files always four numbers, a bias
    (1, 1, 1, n)). Raises InputError if it is no such file, cut short, or holds no blobs.
    """
    with _mapped(path, "a .caffemodel file") as data:
        try:
            net = _caffe_net().FromString(data.take(data.left))
        except DecodeError:
            raise Fault("is cut short, or of another format") from None
        state = {}
        for layer in (*net.layers, *net.layer):
            name = layer.name[-1].decode("utf-8", "replace") if layer.name else ""
            for index, blob in enumerate(layer.blobs):
                part = ("weight", "bias")[index] if index < 2 else index
                state[f"{name}.{part}"] = _caffe_blob(blob)
        if not state:
            raise Fault("holds no layer with weights")
        return state


def _caffe_blob(blob):
    old = tuple((getattr(blob, f"side{place}") or [1])[-1] for place in (1, 2, 3, 4))
    shape = tuple(blob.shape[-1].dim) if blob.shape else old
    double = np.array(blob.double_data, np.float64)
    values = double if double.size else np.array(blob.data, np.float32)
    if math.prod(shape) != values.size:
        raise Fault(f"has a blob of shape {shape} with {values.size} values")
    return _tensor(values, shape)


def _caffe_net() -> Any:
    """The message class of ``Net`` in CAFFE."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe")
    for message, fields in CAFFE.items():
        described = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            by = {"type_name": f".caffe.{kind}"} if isinstance(kind, str) else {"type": kind}
            described.field.add(name=name, number=number, label=FIELD.LABEL_REPEATED, **by)
    return message_factory.GetMessages([file])["caffe.Net"]


@contextmanager
def _mapped(path, expected) -> Iterator[Bytes]:
    """A file's bytes; a ``Fault`` inside becomes one line with the file and the fix."""
    try:
        with Path(path).open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give the path of {expected}") from None
    except ValueError:  # mmap's for an empty file
        raise InputError(f"{path}: is empty; give {expected}") from None
    try:
        yield Bytes(content)
    except Fault as fault:
        raise InputError(f"{path}: {fault}; expected {expected}, give another copy") from None
