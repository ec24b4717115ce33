"""Matrices in MATLAB's files of level 5 (.mat, versions 5 to 7), read byte by byte.

scipy's reader takes what lengths and types say at their word, and was seen to crash the process on
files with a few bytes changed.
"""

import zlib

import numpy as np

from wsss.io.byte_reader import Bytes, Fault

MOST_BYTES = 2**28  # that a compressed part may unpack to
MATRIX, COMPRESSED = 14, 15  # types of elements
NUMBERS = {  # types of elements that hold numbers
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
}
STRUCT = 2  # classes of matrices
CLASSES = {
    **{6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4"},
    **{14: "i8", 15: "u8"},
}
COMPLEX = 0x800  # of a matrix's flags


def read_field(content, variable, field):
    """The matrix of numbers in a field of a struct of one element.

    Args:
        content: bytes of the file.
        variable, field: names of the struct and of the field in it.

    Returns:
        array of the type that MATLAB had it in, of its shape.

    Raises:
        Fault: no such file, cut short, or without such a field.
    """
    bytes_ = Bytes(content)
    order = {b"IM": "<", b"MI": ">"}.get(bytes(bytes_.take(128)[126:]))
    if order is None or content[125 if order == "<" else 124] != 1:
        raise Fault("is no MATLAB file of version 5 to 7")
    while bytes_.left:
        kind, part = _element(bytes_, order)
        if kind == COMPRESSED:
            kind, part = _element(Bytes(_unpacked(part)), order)
        if kind == MATRIX:
            given, shape, name = _head(part, order)
            if name == variable:
                return _field(part, given, shape, field, order)
    raise Fault(f"has no {variable}")


def _field(part, given, shape, field, order):
    """The numbers in a field of the struct whose head was read."""
    if given != STRUCT or shape != (1, 1):
        raise Fault("holds no struct of one element under that name")
    _, width = _element(part, order)
    width = width.number("i", order)
    _, names = _element(part, order)
    if not 0 < width <= 64:
        raise Fault(f"has names of {width} bytes")
    for _ in range(names.left // width):
        name = bytes(names.take(width)).rstrip(b"\0").decode("latin-1")
        kind, inner = _element(part, order)
        if kind != MATRIX:
            raise Fault(f"has an element of type {kind} where a matrix should be")
        if name == field:
            return _numbers(inner, order)
    raise Fault(f"has no field {field}")


def _numbers(part, order):
    """A matrix of numbers, stored by columns in any type that holds its values."""
    given, shape, _ = _head(part, order)
    if given not in CLASSES:
        raise Fault("holds no numbers in that field")
    kind, data = _element(part, order)
    if kind not in NUMBERS:
        raise Fault(f"has numbers of unknown type {kind}")
    dtype = np.dtype(order + NUMBERS[kind])
    count = 1
    for side in shape:
        count *= side
    if count * dtype.itemsize != data.left:
        raise Fault(f"has a matrix of shape {shape} in {data.left} bytes")
    values = np.frombuffer(data.take(data.left), dtype)
    with np.errstate(invalid="ignore"):  # fractions where whole numbers are said to be
        return values.astype(CLASSES[given]).reshape(shape, order="F")


def _head(part, order):
    """``(class, shape, name)`` of a matrix."""
    _, flags = _element(part, order)
    flags = flags.number("I", order)
    _, sides = _element(part, order)
    shape = tuple(sides.number("i", order) for _ in range(min(sides.left // 4, 8)))
    if sides.left or len(shape) < 2 or min(shape) < 0 or flags & COMPLEX:
        raise Fault(f"has a matrix of shape {shape}, or of complex numbers")
    _, name = _element(part, order)
    return flags & 0xFF, shape, bytes(name.take(name.left)).decode("latin-1")


def _element(bytes_, order):
    """``(type, cursor over its bytes)`` of the next element."""
    kind = bytes_.number("I", order)
    if kind >> 16:  # a small one, of up to four bytes
        part = Bytes(bytes_.take(4))
        if kind >> 16 > 4:
            raise Fault(f"has a small element of {kind >> 16} bytes")
        part.end = kind >> 16
        return kind & 0xFFFF, part
    size = bytes_.number("I", order)
    part = bytes_.part(size)
    if kind != COMPRESSED:
        bytes_.take(min(-size % 8, bytes_.left))  # filled up to whole eights
    return kind, part


def _unpacked(part):
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(part.take(part.left), MOST_BYTES)
    except zlib.error as error:
        raise Fault(f"has a damaged part ({error})") from None
    if not stream.eof:
        raise Fault("has a part that is cut short, or unpacks to too much")
    return content
