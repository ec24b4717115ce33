"""Photos of every kind that people have, against PIL's own reading; masks against PNGs by hand."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from wsss.datasets.photos import photo_size, read_photo, read_png
from wsss.errors import InputError


@pytest.fixture(scope="module")
def picture():
    """A picture of 60 x 40 blocks, 240 x 160 pixels."""
    blocks = np.random.default_rng(0).integers(0, 256, (10, 15, 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(16, 0).repeat(16, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_put_upright(tmp_path, picture, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    picture.save(path, exif=exif)
    upright = np.array(ImageOps.exif_transpose(Image.open(path)))
    np.testing.assert_array_equal(read_photo(path), upright)
    np.testing.assert_array_equal(read_photo(path, upright=False), np.array(Image.open(path)))
    assert photo_size(path) == upright.shape[:2]
    small = read_photo(path, long_side=100)
    assert small.shape[:2] == photo_size(path, long_side=100) and max(small.shape) == 100
    expected = Image.fromarray(upright).resize(small.shape[1::-1], Image.Resampling.BICUBIC)
    assert np.abs(small - np.array(expected, np.float32)).mean() < 4


@pytest.mark.parametrize(
    ("mode", "name"),
    [("L", "a.png"), ("P", "a.png"), ("1", "a.png"), ("RGB", "a.webp"), ("CMYK", "a.jpg")],
)
def test_any_mode_becomes_rgb(tmp_path, picture, mode, name):
    path = tmp_path / name
    converted = picture.convert(mode)
    converted.save(path, **({"lossless": True} if name.endswith("webp") else {"quality": 95}))
    photo = read_photo(path)
    assert photo.shape == (160, 240, 3) and photo.dtype == np.uint8
    expected = np.array(converted.convert("RGB"), np.float32)
    assert np.abs(photo - expected).mean() < (6 if mode == "CMYK" else 0.01)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path, picture, mode):
    path = tmp_path / "a.png"
    if mode == "P":
        plain = Image.new("P", (40, 30), 7)
        plain.putpalette([0, 0, 0] * 256)
        plain.save(path, transparency=7)
    else:
        clear = picture.convert(mode)
        clear.putalpha(0)
        clear.save(path)
    assert (read_photo(path) == 255).all()


def test_sixteen_bits_keep_their_upper_byte(tmp_path):
    values = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50) * 32
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "a.png")[..., 1], values >> 8)


def test_a_file_with_broken_exif_is_shown_as_it_lies(tmp_path, picture):
    picture.save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_photo(tmp_path / "a.jpg").shape == (160, 240, 3)


def png_of(values, depth, colour):
    """A grey (colour 0) or palette (3) PNG of values (H, W), made by the standard alone."""

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    rows = b""
    for row in values.tolist():  # bits of a row, high ones first, filled up to whole bytes
        bits = "".join(f"{value:0{depth}b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    height, width = values.shape
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    greys = bytes(value for value in range(2 ** min(depth, 8)) for _ in range(3))
    palette = chunk(b"PLTE", greys) if colour == 3 else b""
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("colour", [0, 3], ids=["grey", "palette"])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_mask_is_read_as_the_numbers_in_its_file(tmp_path, depth, colour):
    values = np.random.default_rng(depth).integers(0, 2**depth, (5, 7), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(png_of(values, depth, colour))
    mask = read_png(tmp_path / "a.png")
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, values)


def test_a_mask_of_sixteen_bits_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(png_of(np.ones((5, 7), int), 16, 0))
    with pytest.raises(InputError, match="expected a palette or grey mask but it is I;16"):
        read_png(tmp_path / "a.png")


@pytest.mark.parametrize("read", [read_photo, photo_size, read_png])
def test_a_file_of_a_terabyte_is_not_opened(tmp_path, picture, read):
    path = tmp_path / "a.png"
    picture.convert("L").save(path)
    read(path)
    os.truncate(path, 2**40)  # sparse: it takes no room
    with pytest.raises(InputError, match="more than 536,870,912 bytes"):
        read(path)
