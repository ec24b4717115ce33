"""Matrices in MATLAB's files of level 5 (.mat, versions 5 to 7).

scipy 1.17's reader trusts the lengths and types in a file, so that some damaged files crash the
process (segmentation fault).
"""

import math
import zlib

import numpy as np

from wsss.io.byte_reader import Bytes, Fault

MOST_BYTES = 2**28  # that a compressed part may unpack to
MATRIX, COMPRESSED = 14, 15  # types of elements
STRUCT = 2  # class of matrices
# of numbers: by type of element, and by class of matrix
NUMBERS = (None, "i1", "u1", "i2", "u2", "i4", "u4", "f4", None, "f8", None, None, "i8", "u8")
CLASSES = dict(enumerate(("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"), 6))
COMPLEX = 0x800  # of a matrix's flags


def read_field(content: bytes, variable: str, *, field: str) -> np.ndarray:
    """The matrix of numbers in a field of the struct ``variable``, of one element, in the bytes of
    a file; in MATLAB's own type.

    Raises:
        Fault: not such a file, cut short, or without such a field.
    """
    data = Bytes(content)
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data.take(128)[126:]))
    if order is None or content[125 if order == "<" else 124] != 1:
        raise Fault("is not a MATLAB file of version 5 to 7")
    while data.left:
        kind, part = _element(data, order)
        if kind == COMPRESSED:
            kind, part = _element(Bytes(_unpacked(part)), order)
        if kind == MATRIX:
            matrix_class, shape, name = _head(part, order)
            if name == variable:
                if matrix_class != STRUCT or shape != (1, 1):
                    raise Fault("has something else than a struct of one element under that name")
                return _numbers(_field(part, field, order), order)
    raise Fault(f"has no {variable}")


def _field(part, field, order):
    """The matrix in a field of a struct, after the struct's head."""
    width = int(_element(part, order)[1].number("i", order))
    _, names = _element(part, order)
    if not 0 < width <= 64:
        raise Fault(f"has names of {width} bytes")
    for _ in range(names.left // width):
        name = bytes(names.take(width)).rstrip(b"\0").decode("latin-1")
        kind, inner = _element(part, order)
        if kind != MATRIX:
            raise Fault(f"has an element of type {kind} where a matrix should be")
        if name == field:
            return inner
    raise Fault(f"has no field {field}")


def _numbers(part, order):
    """A matrix of numbers, stored by columns in any type that can represent its values."""
    matrix_class, shape, _ = _head(part, order)
    kind, data = _element(part, order)
    stored = NUMBERS[kind] if kind < len(NUMBERS) else None
    if matrix_class not in CLASSES or stored is None:
        raise Fault("has no numbers in that field")
    dtype = np.dtype(order + stored)
    if math.prod(shape) * dtype.itemsize != data.left:
        raise Fault(f"has a matrix of shape {shape} in {data.left} bytes")
    values = np.frombuffer(data.take(data.left), dtype)
    with np.errstate(invalid="ignore"):  # fractions in a matrix of integers
        return values.astype(CLASSES[matrix_class]).reshape(shape, order="F")


def _head(part, order):
    """``(class, shape, name)`` of a matrix."""
    flags = int(_element(part, order)[1].number("i", order))
    _, sides = _element(part, order)
    shape = tuple(int(sides.number("i", order)) for _ in range(min(sides.left // 4, 8)))
    if sides.left or len(shape) < 2 or min(shape) < 0 or flags & COMPLEX:
        raise Fault(f"has a matrix of shape {shape}, or of complex numbers")
    _, name = _element(part, order)
    return flags & 0xFF, shape, bytes(name.take(name.left)).decode("latin-1")


def _element(data, order):
    """``(type, its bytes)`` of the next element."""
    kind = int(data.number("I", order))
    if small := kind >> 16:  # its length, up to four bytes
        return kind & 0xFFFF, Bytes(Bytes(data.take(4)).take(small))
    size = int(data.number("I", order))
    part = Bytes(data.take(size))
    if kind != COMPRESSED:
        data.take(min(-size % 8, data.left))  # padded to multiples of eight
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
