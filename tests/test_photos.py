"""Photos of every kind that people have, against PIL's own reading."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from wsss.datasets.photos import photo_size, read_photo


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
