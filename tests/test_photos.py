"""Photos of every kind that people have, against PIL's own reading, and files that are none."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from wsss.datasets.photos import photo_size, read_photo
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


def png_header(width, height):
    """A PNG that says how large it is, and has hardly any pixels."""

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def encoded(picture, form, **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


BAD = {
    "nothing": (lambda p: b"", "expected a JPEG, PNG or WebP but the file is none"),
    "text": (lambda p: b"a photo of a cat", "expected a JPEG, PNG or WebP but the file is none"),
    "cut short": (lambda p: encoded(p, "JPEG")[:1500], "not a readable photo"),
    "corrupt": (lambda p: encoded(p, "PNG").replace(b"IHDR", b"IHDX", 1), "the file is none"),
    "bytes flipped": (lambda p: encoded(p, "PNG")[:400] + bytes(300), "not a readable photo"),
    "another format": (lambda p: encoded(p, "BMP"), "but the file is BMP; save it as PNG"),
    "a GIF": (
        lambda p: encoded(p, "GIF", save_all=True, append_images=[p.rotate(9)]),
        "but the file is GIF",
    ),
    "animated": (
        lambda p: encoded(p, "WEBP", save_all=True, append_images=[p.rotate(9)]),
        "expected one picture but the file has 2 frames",
    ),
    "one pixel": (lambda p: encoded(p.resize((1, 1)), "PNG"), "at least 16 pixels on each side"),
    "huge": (lambda p: png_header(30_000, 20_000), "expected at most 100 million pixels"),
    "large": (lambda p: png_header(12_000, 10_000), "the photo has 12000x10000 pixels"),
    "a bomb": (lambda p: png_header(2**31 - 1, 2**31 - 1), "expected at most 100 million pixels"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_photo_is_one_line(tmp_path, picture, kind):
    make, reason = BAD[kind]
    path = tmp_path / "a photo.jpg"
    path.write_bytes(make(picture))
    with pytest.raises(InputError, match=reason) as raised:
        read_photo(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


def test_a_missing_photo_a_folder_and_a_link_to_itself(tmp_path):
    (tmp_path / "link.jpg").symlink_to("link.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name, reason in (
        ("none.jpg", "is missing"),
        ("folder.jpg", "not a readable photo"),
        ("link.jpg", "not a readable photo"),
    ):
        with pytest.raises(InputError, match=reason):
            read_photo(tmp_path / name)
