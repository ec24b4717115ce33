"""MATLAB's files as scipy writes them, and by the format's rules; what is refused is in
``bad_inputs.py``.
"""

import io
import struct

import numpy as np
import pytest
import scipy.io

from wsss.datasets.prepare.matlab import read_field
from wsss.io.byte_reader import Fault


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "u8", "f4", "f8"])
def test_matrices_are_those_that_were_written(kind, packed):
    wanted = np.arange(35, dtype=kind).reshape(5, 7)
    file = io.BytesIO()
    content = {"other": 3, "GTcls": {"before": ["a", 1], "Segmentation": wanted, "after": 2.0}}
    scipy.io.savemat(file, content, do_compression=packed)
    found = read_field(file.getvalue(), "GTcls", field="Segmentation")
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


def big_endian(values):
    """A struct with one field of doubles that are stored as bytes, as MATLAB does to save room."""

    def element(kind, content):
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    def matrix(kind, shape, name, rest):
        head = element(6, struct.pack(">II", kind, 0)) + element(5, struct.pack(">2i", *shape))
        return element(14, head + element(1, name) + rest)

    numbers = matrix(6, values.shape, b"", element(2, values.T.astype("u1").tobytes()))
    names = struct.pack(">HHi", 4, 5, 8) + element(1, b"field\0\0\0")  # a small element
    return bytes(124) + b"\x01\x00MI" + matrix(2, (1, 1), b"it", names + numbers)


def test_the_other_order_of_bytes_and_narrower_storage():
    values = np.array([[1, 2, 3], [40, 50, 60]])
    found = read_field(big_endian(values), "it", field="field")
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, values)


def test_a_file_cut_anywhere_is_refused():
    whole = big_endian(np.ones((2, 2)))
    for length in range(len(whole) - 4):  # the last four only fill up
        with pytest.raises(Fault):
            read_field(whole[:length], "it", field="field")


def test_what_unpacks_to_too_much_is_refused(monkeypatch):
    file = io.BytesIO()
    scipy.io.savemat(file, {"a": {"b": np.zeros((1000, 1000))}}, do_compression=True)
    assert len(file.getvalue()) < 20_000
    monkeypatch.setattr("wsss.datasets.prepare.matlab.MOST_BYTES", 10**6)
    with pytest.raises(Fault, match="unpacks to too much"):
        read_field(file.getvalue(), "a", field="b")
