"""Readers of MXNet's and Caffe's files against files that the tests write by the formats' rules."""

import struct

import numpy as np
import pytest
import torch

from wsss.errors import InputError
from wsss.models import load_state
from wsss.models.mxnet_caffe import read_caffe, read_mxnet

TYPES = {"f4": 0, "f8": 1, "f2": 2, "u1": 3, "i4": 4, "i1": 5, "i8": 6, "i2": 8}
rng = np.random.default_rng(0)
ARRAYS = {
    "arg:conv1a_weight": rng.normal(size=(4, 3, 3, 3)).astype("<f4"),
    "arg:double": rng.normal(size=(2, 5)).astype("<f8"),
    "arg:half": rng.normal(size=(7,)).astype("<f2"),
    "aux:bytes": np.arange(6, dtype="<u1").reshape(2, 3),
    "aux:wide": np.array([[-(2**40)]], "<i8"),
    "aux:short": np.array([-3, 4], "<i2"),
}


def mx_array(array, version):
    shape = array.shape
    if version == 0:
        head = struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}I", *shape)
    else:
        head = struct.pack("<I", 0xF993FAC8 + version - 1)
        head += struct.pack("<i", 0) if version > 1 else b""
        head += struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}q", *shape)
    kind = TYPES[array.dtype.str[1:]]
    return head + struct.pack("<iii", 1, 0, kind) + array.tobytes()


def mx_list(arrays, names):
    out = struct.pack("<QQQ", 0x112, 0, len(arrays)) + b"".join(arrays)
    out += struct.pack("<Q", len(names))
    return out + b"".join(struct.pack("<Q", len(n.encode())) + n.encode() for n in names)


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_mxnet_arrays_of_all_versions_come_back(tmp_path, version):
    path = write(
        tmp_path / "a.params", mx_list([mx_array(a, version) for a in ARRAYS.values()], ARRAYS)
    )
    for state in (read_mxnet(path), load_state(path)):
        assert list(state) == list(ARRAYS)
        for name, array in ARRAYS.items():
            assert state[name].dtype == torch.from_numpy(array).dtype
            np.testing.assert_array_equal(state[name].numpy(), array)


def test_mxnet_versions_mix_and_scalars_and_bfloat16_are_read(tmp_path):
    values = torch.tensor([1.5, -2.0]).bfloat16()
    bits = struct.pack("<IiIq", 0xF993FAC9, 0, 1, 2) + struct.pack("<iii", 1, 0, 12)
    bits += values.view(torch.uint16).numpy().tobytes()
    scalar = struct.pack("<Iii", 0xF993FACA, 0, 0) + struct.pack("<iiif", 1, 0, 0, 2.5)
    old = mx_array(ARRAYS["arg:double"], 0)
    state = read_mxnet(write(tmp_path / "a.params", mx_list([bits, scalar, old], ["a", "b", "c"])))
    assert torch.equal(state["a"], values)
    assert state["b"].shape == () and state["b"] == 2.5
    np.testing.assert_array_equal(state["c"], ARRAYS["arg:double"])


def sparse(storage):
    out = struct.pack("<Ii", 0xF993FAC9, storage)
    out += struct.pack("<Iqq", 2, 1, 3) + struct.pack("<Iqq", 2, 5, 3)  # stored, whole shape
    out += struct.pack("<iii", 1, 0, 0)
    indices = [1] if storage == 1 else [6, 3]
    out += b"".join(struct.pack("<iIq", 6, 1, n) for n in indices)
    return out + bytes(12) + b"".join(bytes(8 * n) for n in indices)


def test_sparse_and_empty_arrays_are_refused(tmp_path):
    dense = mx_array(ARRAYS["arg:half"], 2)
    empty = struct.pack("<IiI", 0xF993FAC9, 0, 0)
    for array, reason in (
        (sparse(1), r"storage 1; only dense arrays \(0\)"),
        (sparse(2), "storage 2; only dense"),
        (empty, "an array without a shape"),
    ):
        path = write(tmp_path / "a.params", mx_list([dense, array, dense], ["x", "emb", "y"]))
        with pytest.raises(InputError, match=reason):
            read_mxnet(path)


def test_a_params_file_cut_anywhere_is_refused_in_one_line(tmp_path):
    whole = mx_list([mx_array(ARRAYS["arg:double"], 2), sparse(2)], ["a", "b"])
    path = tmp_path / "a.params"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="MXNet") as raised:
            read_mxnet(path)
        assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (mx_list([], ["a"]), "0 arrays but 1 names"),
        (mx_list([], []) + b"x", "goes on for 1 bytes"),
        (struct.pack("<QQQ", 0x112, 0, 2**60), "announces"),
        (mx_list([struct.pack("<I", 99)], ["a"]), "99 dimensions"),
        (
            mx_list([struct.pack("<IIqiii", 0xF993FAC8, 1, -5, 1, 0, 0)], ["a"]),
            r"shape \(-5,\)",
        ),
        (
            mx_list([struct.pack("<IIqiii", 0xF993FAC8, 1, 2**40, 1, 0, 0)], ["a"]),
            "ends early",
        ),
        (
            mx_list([struct.pack("<IIqiii", 0xF993FAC8, 1, 1, 1, 0, 77)], ["a"]),
            "unknown type 77",
        ),
    ],
)
def test_mxnet_files_that_lie_are_refused(tmp_path, content, reason):
    with pytest.raises(InputError, match=reason):
        read_mxnet(write(tmp_path / "a.params", content))


def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number, content):
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(array, *, old=False, packed=True, double=False):
    if old:
        four = (1,) * (4 - array.ndim) + array.shape
        out = b"".join(field(i + 1, size) for i, size in enumerate(four))
    elif packed:
        out = field(7, field(1, b"".join(varint(size) for size in array.shape)))
    else:
        out = field(7, b"".join(field(1, size) for size in array.shape))
    if double:
        return out + field(8, array.astype("<f8").tobytes())
    if packed:
        return out + field(5, array.astype("<f4").tobytes())
    return out + b"".join(varint(5 << 3 | 5) + struct.pack("<f", value) for value in array.ravel())


WEIGHT = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
BIAS = rng.normal(size=4).astype(np.float32)


@pytest.mark.parametrize("how", [{}, {"packed": False}, {"double": True}, {"old": True}], ids=str)
@pytest.mark.parametrize("v1", [False, True])
def test_caffe_blobs_come_back(tmp_path, how, v1):
    at_name, at_blobs, at_layer = (4, 6, 2) if v1 else (1, 7, 100)
    layer = field(at_name, b"conv1_1") + field(5, 4) if v1 else field(at_name, b"conv1_1")
    layer += field(at_blobs, blob(WEIGHT, **how)) + field(at_blobs, blob(BIAS, **how))
    pool = field(at_name, b"pool1")
    net = field(1, b"VGG") + field(at_layer, layer) + field(at_layer, pool)
    path = write(tmp_path / "vgg.caffemodel", net)
    for state in (read_caffe(path), load_state(path)):
        assert set(state) == {"conv1_1.weight", "conv1_1.bias"}
        np.testing.assert_array_equal(state["conv1_1.weight"].numpy(), WEIGHT)
        assert state["conv1_1.bias"].shape == ((1, 1, 1, 4) if how.get("old") else (4,))
        np.testing.assert_array_equal(state["conv1_1.bias"].numpy().ravel(), BIAS)
        assert state["conv1_1.bias"].dtype == (
            torch.float64 if how.get("double") else torch.float32
        )


def test_a_caffemodel_cut_anywhere_is_refused_or_has_lost_whole_layers(tmp_path):
    layers = [
        field(100, field(1, name) + field(7, blob(BIAS)) + field(7, blob(BIAS)))
        for name in (b"a", b"b")
    ]
    whole, path = b"".join(layers), tmp_path / "a.caffemodel"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        if length == len(layers[0]):
            assert set(read_caffe(path)) == {"a.weight", "a.bias"}
            continue
        with pytest.raises(InputError, match="caffemodel") as raised:
            read_caffe(path)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (field(1, b"VGG"), "holds no layer with weights"),
        (varint(100 << 3 | 2) + varint(2**50), "is cut short"),
        (varint(1 << 3 | 3), "of another format"),
        (b"\x80" * 11, "of another format"),
        (
            field(100, field(7, field(7, field(1, varint(9))) + field(5, bytes(8)))),
            r"shape \(9,\) with 2 values",
        ),
        (field(100, field(7, field(5, bytes(7)))), "of another format"),
    ],
)
def test_caffe_files_that_lie_are_refused(tmp_path, content, reason):
    with pytest.raises(InputError, match=reason):
        read_caffe(write(tmp_path / "a.caffemodel", content))


@pytest.mark.parametrize("reader", [read_mxnet, read_caffe])
def test_missing_and_foreign_files_are_refused(tmp_path, reader):
    with pytest.raises(InputError, match="No such file"):
        reader(tmp_path / "none")
    with pytest.raises(InputError, match="expected"):
        reader(write(tmp_path / "a.txt", b"hello, this is a text\n"))
    with pytest.raises(InputError, match="is empty"):
        reader(write(tmp_path / "b.txt", b""))


@pytest.mark.parametrize("seed", range(200))
def test_changed_bytes_never_do_worse_than_an_input_error(tmp_path, seed):
    """A short fuzz: flipped bytes give arrays or one line, never another exception."""
    random = np.random.default_rng(seed)
    mx = bytearray(mx_list([mx_array(a, seed % 4) for a in ARRAYS.values()], ARRAYS))
    caffe = bytearray(field(100, field(1, b"a") + field(7, blob(WEIGHT)) + field(7, blob(BIAS))))
    for data, reader in ((mx, read_mxnet), (caffe, read_caffe)):
        head = len(data) if seed % 2 else 80  # half of them where the lengths are
        for place in random.integers(0, min(head, len(data)), 3):
            data[place] = random.integers(256)
        try:
            reader(write(tmp_path / "fuzz", bytes(data)))
        except InputError as fault:
            assert "\n" not in str(fault)
