"""Matrices in MATLAB's files of level 5 (.mat, versions 5 to 7).

scipy 1.17's reader trusts the lengths and types in a file, so that some damaged files crash the
process (segmentation fault).
"""

import math
import zlib

import numpy as np

from wsss.io.byte_reader import Bytes, Fault

MOST_BYTES = 2**28  # that a compressed part may unpack to
MATRIX, COMPRESSED = 14, 15  # types of elements; those of numbers:
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
NUMBERS |= {12: "i8", 13: "u8"}
STRUCT = 2  # class of matrices; those of numbers:
CLASSES = dict(enumerate(("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"), 6))
COMPLEX = 0x800  # of a matrix's flags


def read_field(content: bytes, variable: str, *, field: str) -> np.ndarray:
    """The matrix of numbers in a field of the struct ``variable``, of one element, in the bytes of
    a file; in MATLAB's own type. Raises Fault for another kind of file, one cut short, or without
    such a field.
    """
    data = Bytes(content)
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data.take(128)[126:]))
    if order is None or content[125 if order == "<" else 124] != 1:
        raise Fault("is not a MATLAB file of version 5 to 7")
    while data.left:
        flags, shape, name, part = _matrix(data, order)
        if name == variable:
            break
    else:
        raise Fault(f"has no {variable}")
    if flags & 0xFF != STRUCT or shape != (1, 1):
        raise Fault("has something else than a struct of one element under that name")
    width = _element(part, order)[1].number("i", order)
    _, names = _element(part, order)
    if not 0 < width <= 64:
        raise Fault(f"has names of {width} bytes")
    while names.left >= width:
        name = bytes(names.take(width)).rstrip(b"\0").decode("latin-1")
        flags, shape, _, inner = _matrix(part, order)
        if name == field:
            return _numbers(inner, order, flags, shape)
    raise Fault(f"has no field {field}")


def _matrix(data, order):
    """``(flags, shape, name, what follows these)`` of the next element, if it is a matrix."""
    kind, part = _element(data, order)
    if kind == COMPRESSED:
        stream = zlib.decompressobj()
        try:
            content = stream.decompress(part.take(part.left), MOST_BYTES)
        except zlib.error as error:
            raise Fault(f"has a damaged part ({error})") from None
        if not stream.eof:
            raise Fault("has a part that is cut short, or unpacks to too much")
        kind, part = _element(Bytes(content), order)
    if kind != MATRIX:
        raise Fault(f"has an element of type {kind} where a matrix should be")
    flags = _element(part, order)[1].number("I", order)
    _, sides = _element(part, order)
    shape = tuple(sides.number("i", order) for _ in range(min(sides.left // 4, 8)))
    if sides.left or len(shape) < 2 or min(shape) < 0:
        raise Fault(f"has a matrix of shape {shape}")
    _, name = _element(part, order)
    return flags, shape, bytes(name.take(name.left)).decode("latin-1"), part


def _numbers(part, order, flags, shape):
    """A matrix of numbers, stored by columns in any type that can represent its values."""
    kind, data = _element(part, order)
    if flags & 0xFF not in CLASSES or kind not in NUMBERS:
        raise Fault("has no numbers in that field")
    dtype = np.dtype(order + NUMBERS[kind])
    if flags & COMPLEX or math.prod(shape) * dtype.itemsize != data.left:
        raise Fault(f"has a matrix of shape {shape} in {data.left} bytes, or of complex numbers")
    values = np.frombuffer(data.take(data.left), dtype)
    with np.errstate(invalid="ignore"):  # fractions in a matrix of integers
        return values.astype(CLASSES[flags & 0xFF]).reshape(shape, order="F")


def _element(data, order):
    """``(type, its bytes)`` of the next element."""
    kind = data.number("I", order)
    if small := kind >> 16:  # its length, up to four bytes
        return kind & 0xFFFF, Bytes(Bytes(data.take(4)).take(small))
    part = Bytes(data.take(data.number("I", order)))
    if kind != COMPRESSED:
        data.take(min(-part.left % 8, data.left))  # padded to multiples of eight
    return kind, part
