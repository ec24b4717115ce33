"""Weight files of MXNet and Caffe, read byte by byte, without either framework.

Nothing in them is executed, and no length in them is believed before it was held against the file.
"""

import mmap
from pathlib import Path

import numpy as np
import torch

from wsss.errors import InputError
from wsss.io.byte_reader import Bytes, Fault

MXNET_LIST = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA  # of an array; older ones begin with their rank
SPARSE = {1: "row-sparse", 2: "compressed-sparse-row"}
MXNET_TYPES = {
    0: np.float32,
    1: np.float64,
    2: np.float16,
    3: np.uint8,
    4: np.int32,
    5: np.int8,
    6: np.int64,
    7: np.bool_,
    8: np.int16,
    12: np.uint16,  # bfloat16, which numpy lacks: read as bits
}
BFLOAT16 = 12


def is_mxnet(path):
    """Whether a file begins as a list of MXNet arrays does."""
    with Path(path).open("rb") as file:
        return file.read(8) == MXNET_LIST.to_bytes(8, "little")


def read_mxnet(path):
    """The arrays of an MXNet ``.params`` file, without mxnet.

    All versions of the format are read: arrays without a version (32-bit shapes) and versions 1 to
    3.

    Args:
        path: the file.

    Returns:
        dict of name, as the file has it (``arg:conv1a_weight``), to tensor.

    Raises:
        InputError: not such a file, cut short, or an array is sparse or of an unknown type.
    """
    with _mapped(path, "an MXNet .params file") as data:
        bytes_ = Bytes(data)
        if len(data) < 16 or bytes_.number("Q") != MXNET_LIST:
            raise Fault("does not begin as a list of MXNet arrays does")
        bytes_.number("Q")  # reserved
        arrays = [_mxnet_array(bytes_) for _ in range(_count(bytes_, 4))]
        names = [
            str(bytes_.take(_count(bytes_, 1)), "utf-8", "replace")
            for _ in range(_count(bytes_, 8))
        ]
        if len(names) != len(arrays):
            raise Fault(f"holds {len(arrays)} arrays but {len(names)} names")
        if bytes_.place != len(data):
            raise Fault(f"goes on for {len(data) - bytes_.place} bytes after its last name")
        for name, array in zip(names, arrays, strict=True):
            if isinstance(array, str):
                raise Fault(f"array '{name}' is {array}; only dense arrays can be read")
        return dict(zip(names, arrays, strict=True))


def _count(bytes_, size):
    """A number of things of at least ``size`` bytes that are still to come."""
    count = bytes_.number("Q")
    if count * size > bytes_.left:
        raise Fault(f"announces {count} entries, more than it has bytes for")
    return count


def _mxnet_array(bytes_):
    """A tensor, or the reason why there is none."""
    version = bytes_.number("I")
    storage = 0
    if version in (V2, V3):
        storage = bytes_.number("i")
        stored = _shape(bytes_) if storage in SPARSE else None
        shape = _shape(bytes_)
    elif version == V1:
        shape = _shape(bytes_)
    else:
        shape = tuple(bytes_.number("I") for _ in range(_rank(version)))
    # an array without a shape has no more than that; only version 3 knows arrays of rank 0
    if shape is None or (not shape and version != V3):
        return "empty"
    bytes_.take(8)  # the device that it was on
    kind = bytes_.number("i")
    if storage not in (0, *SPARSE) or kind not in MXNET_TYPES:
        raise Fault(f"has an array of unknown storage {storage} or type {kind}")
    if storage in SPARSE:
        sizes = [(kind, stored)]
        for _ in range(storage):  # row-sparse has one array of indices, the other two
            sizes.append((bytes_.number("i"), _shape(bytes_)))
        for index, size in sizes:
            if index not in MXNET_TYPES:
                raise Fault(f"has indices of unknown type {index}")
            bytes_.take(np.dtype(MXNET_TYPES[index]).itemsize * _elements(size or ()))
        return SPARSE[storage]
    dtype = np.dtype(MXNET_TYPES[kind]).newbyteorder("<")
    values = np.frombuffer(bytes_.take(dtype.itemsize * _elements(shape)), dtype)
    tensor = _tensor(values, shape)
    return tensor.view(torch.bfloat16) if kind == BFLOAT16 else tensor


def _rank(number):
    if number > 32:
        raise Fault(f"has an array of {number} dimensions")
    return number


def _shape(bytes_):
    rank = bytes_.number("i")
    if rank == -1:  # not known when it was written
        return None
    return tuple(bytes_.number("q") for _ in range(_rank(rank & 0xFFFFFFFF)))


def _elements(shape):
    if any(side < 0 for side in shape):
        raise Fault(f"has an array of shape {shape}")
    count = 1
    for side in shape:
        count *= side
    return count


def _tensor(values, shape):
    """Values in little-endian order as a tensor of a shape that has as many."""
    try:
        return torch.from_numpy(values.astype(values.dtype.newbyteorder("=")).reshape(shape))
    except (OverflowError, RuntimeError, ValueError):  # of too many or too long sides beside a 0
        raise Fault(f"has an array of shape {shape}, as none can be") from None


def read_caffe(path):
    """The blobs of a ``.caffemodel`` file, without caffe or protobuf.

    Args:
        path: the file, of Caffe's current or of its earlier (V1) layer format.

    Returns:
        dict of name to tensor: a layer's first blob is ``<layer>.weight``, its second
        ``<layer>.bias``, others ``<layer>.<number>``; shapes as the file has them (in old files
        always four numbers, a bias (1, 1, 1, n)).

    Raises:
        InputError: not such a file, cut short, or holding no blobs.
    """
    with _mapped(path, "a .caffemodel file") as data:
        state = {}
        for field, value in _fields(Bytes(data)):
            # NetParameter: layers in field 100, V1 layers in field 2; each with its name and blobs
            if field not in (2, 100) or not isinstance(value, Bytes):
                continue
            name, blobs = "", []
            at_name, at_blobs = (1, 7) if field == 100 else (4, 6)
            for part, content in _fields(value):
                if part == at_name and isinstance(content, Bytes):
                    name = str(content.take(content.left), "utf-8", "replace")
                elif part == at_blobs and isinstance(content, Bytes):
                    blobs.append(_blob(content))
            for index, blob in enumerate(blobs):
                state[f"{name}.{('weight', 'bias')[index] if index < 2 else index}"] = blob
        if not state:
            raise Fault("holds no layer with weights")
        return state


def _blob(bytes_):
    """BlobProto: shape in field 7, or in fields 1 to 4; values in 5 (float) or 8 (double)."""
    shape, old, values = None, {}, []
    for field, value in _fields(bytes_):
        if field == 7 and isinstance(value, Bytes):
            shape = []
            for dim, size in _fields(value):
                if dim == 1:
                    shape += _varints(size) if isinstance(size, Bytes) else [size]
        elif field in (1, 2, 3, 4) and isinstance(value, int):
            old[field] = value
        elif field in (5, 8):
            if isinstance(value, int):
                raise Fault("has whole numbers where values should be")
            kind = "<f4" if field == 5 else "<f8"
            if isinstance(value, Bytes):
                value = value.take(value.left)
            if len(value) % int(kind[-1]):
                raise Fault(f"has {len(value)} bytes of values of {kind[-1]} bytes each")
            values.append(np.frombuffer(value, kind))
    shape = tuple(old.get(field, 1) for field in (1, 2, 3, 4)) if shape is None else tuple(shape)
    values = np.concatenate(values) if values else np.zeros(0, "<f4")
    if _elements(shape) != values.size:
        raise Fault(f"has a blob of shape {shape} with {values.size} values")
    return _tensor(values, shape)


def _fields(bytes_):
    """The fields of a protobuf message: (number, an int, four or eight raw bytes, or ``Bytes``)."""
    while bytes_.place < bytes_.end:
        key = _varint(bytes_)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise Fault("has a field without a number")
        if kind == 0:
            yield number, _varint(bytes_)
        elif kind == 2:
            length = _varint(bytes_)
            yield number, bytes_.part(length)
        elif kind in (1, 5):
            yield number, bytes_.take(8 if kind == 1 else 4)
        else:
            raise Fault(f"has a field of unknown kind {kind}")


def _varint(bytes_):
    result = 0
    for shift in range(0, 70, 7):
        byte = bytes_.take(1)[0]
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result
    raise Fault("has a number of more than ten bytes")


def _varints(bytes_):
    numbers = []
    while bytes_.place < bytes_.end:
        numbers.append(_varint(bytes_))
    return numbers


class _mapped:
    """A file's bytes, mapped; a ``Fault`` inside becomes one line with the file and the mend."""

    def __init__(self, path, expected):
        self.path, self.expected = Path(path), expected

    def __enter__(self):
        try:
            with self.path.open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise InputError(
                f"{self.path}: {error.strerror}; give the path of {self.expected}"
            ) from None
        except ValueError:  # what mmap says of an empty file
            raise InputError(f"{self.path}: is empty; give {self.expected}") from None

    def __exit__(self, kind, fault, traceback):
        if isinstance(fault, Fault):
            raise InputError(
                f"{self.path}: {fault}; expected {self.expected}, give another copy"
            ) from None
