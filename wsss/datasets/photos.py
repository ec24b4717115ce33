"""Photos as people have them: JPEG, PNG or WebP of any mode, turned as their EXIF says."""

import errno
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from wsss.errors import InputError, raise_if_out_of_files, reason
from wsss.io import contents, mirror

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FORMATS = ("JPEG", "MPO", "PNG", "WEBP")  # MPO: a JPEG with further pictures behind it
MOST_PIXELS = 100_000_000  # of a photo that is opened: 300 MB when decoded
MOST_BYTES = 2**29  # of a file; 100 million pixels have at most 300 MB
LEAST_SIDE = 16  # pixels; a smaller photo shows nothing
SCALES = {"1": 255, "L;2": 85, "L;4": 17}  # by which Pillow multiplies grey of 1, 2 and 4 bits


def read_photo(path: Path | str, *, long_side: int = 0, upright: bool = True) -> np.ndarray:
    """A JPEG, PNG or WebP as uint8 RGB (H, W, 3), values 0 to 255. Transparent pixels become white;
    16-bit grey values keep their upper byte.

    A photo whose longer side exceeds ``long_side`` pixels is resized to it, unless that is 0;
    ``upright`` turns it as its EXIF orientation says. Raises InputError for a file that is missing,
    unreadable, cut short, of another format, animated, smaller than 16 pixels on a side, or of more
    than 100 million pixels or 512 MiB.
    """
    with _opened_photo(path) as photo:
        size = _read_size(photo, long_side)
        if size != photo.size:
            # libjpeg decodes to a fraction of the size at that fraction of the time
            photo.draft(None, size)
        image = _rgb(photo)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        if upright:
            image.info.clear()  # its EXIF may be broken
            image.getexif()[ExifTags.Base.Orientation] = _orientation(photo)
            ImageOps.exif_transpose(image, in_place=True)
        return np.array(image)


def photo_size(path: Path | str, *, long_side: int = 0) -> tuple[int, int]:
    """``(height, width)`` of what ``read_photo`` gives, from the file's header alone."""
    with _opened_photo(path) as photo:
        width, height = _read_size(photo, long_side)
        return (width, height) if 5 <= _orientation(photo) <= 8 else (height, width)


def photo_digests(paths: Iterable[Path]) -> dict[Path, str]:
    """Digests of photos' contents, of those whose header can be read."""
    readable = []
    for path in paths:
        with suppress(InputError):
            photo_size(path)  # what is no photo, such as a pipe, is not read to its end
            readable.append(path)
    return dict(zip(readable, contents.digests(readable), strict=True))


def scaled(size: Sequence[int], long_side: int) -> tuple[int, int]:
    """Two sides in the same proportion, the longer one ``long_side``, none below 1."""
    one, other = (max(1, round(side * (long_side / max(size)))) for side in size)
    return one, other


def fit_mask(mask: np.ndarray, size: Sequence[int], *, name: Path | str) -> np.ndarray:
    """A mask, uint8 (H, W), subsampled to the (height, width) of its photo as read. Raises
    InputError if the mask, of this ``name``, is smaller or of other proportions.
    """
    if max(size) > max(mask.shape) or scaled(mask.shape, max(size)) != tuple(size):
        raise InputError(
            f"{name}: the mask is {mask.shape[1]}x{mask.shape[0]} but its photo is "
            f"{size[1]}x{size[0]}, or larger in proportion; replace the mask"
        )
    return resize_mask(mask, size)


def resize_mask(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A mask, uint8 (H, W), in another (height, width), by the nearest pixel."""
    return np.array(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


def read_png(path: Path | str, *, colours: bool = False) -> np.ndarray:
    """A mask's indices or grey values of 1 to 8 bits, as the file has them, uint8 (H, W), or any
    PNG's ``colours``, uint8 (H, W, 3). Raises InputError for a file that is missing, unreadable,
    without such values, or of more than 100 million pixels.

    No other format is opened: a grey JPEG would give other numbers, and readers of some formats
    start other programs.
    """
    with _opened(path, "mask", formats=["PNG"]) as file:
        if colours:
            return np.array(file.convert("RGB"))
        if file.mode not in ("P", "L", "1"):
            raise InputError(
                f"{path}: expected a palette or grey mask but it is {file.mode}; save indices"
            )
        scale = SCALES.get(str(file.tile[0][3]))  # loading empties ``tile``
        return np.array(file.convert("L")) // scale if scale else np.array(file)


def digest_files(root: Path, files: Iterable[Path]) -> dict[str, str]:
    """Path from ``root`` on to digest of those files that exist; InputError for a huge one."""
    found = [path for path in files if path.is_file()]
    if large := next((path for path in found if path.stat().st_size > MOST_BYTES), None):
        raise InputError(f"{large}: expected at most {MOST_BYTES:,} bytes; replace the file")
    names = (path.relative_to(root).as_posix() for path in found)
    return dict(zip(names, contents.digests(found), strict=True))


def _orientation(photo):
    """The EXIF orientation, or 1 (upright) where EXIF is broken, as other viewers do."""
    try:
        return int(photo.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a foreign block of bytes may break in any way
        return 1


@contextmanager
def _opened(path, what, *, formats=None) -> Iterator[ImageFile.ImageFile]:
    """An image file, its header read; every failure becomes an InputError."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of broken EXIF, and of sizes bounded below
            local = mirror.download_file(path)
            if local.stat().st_size > MOST_BYTES:  # a sparse file has any size, and may be hashed
                raise OSError(errno.EFBIG, f"more than {MOST_BYTES:,} bytes")
            if not local.is_file():  # a pipe would block forever
                raise OSError(errno.EINVAL, "no plain file")
            with Image.open(local, formats=formats) as file:
                if file.width * file.height > MOST_PIXELS:
                    raise Image.DecompressionBombError(f"{file.width}x{file.height}")
                yield file
        return
    except InputError:
        raise
    except FileNotFoundError:
        fault = f"the {what} is missing; restore it or take the photo off the id list"
    except Image.DecompressionBombError as error:
        most = f"{MOST_PIXELS // 10**6} million pixels ({reason(error)})"
        fault = f"expected a {what} of at most {most}; make it smaller"
    except Image.UnidentifiedImageError:
        wanted = "PNG" if formats else "JPEG, PNG or WebP"
        fault = f"expected a {what} but it is not a {wanted}; replace the file"
    except Exception as error:  # decoders raise many kinds for a damaged file
        raise_if_out_of_files(error)
        fault = f"not a readable {what} ({reason(error)}); replace the file"
    raise InputError(f"{path}: {fault}")


@contextmanager
def _opened_photo(path) -> Iterator[Image.Image]:
    """A photo's file, its format, number of frames and size checked."""
    with _opened(path, "photo") as file:
        frames = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
        if file.format not in FORMATS:
            fault = f"a JPEG, PNG or WebP but it is {file.format}; save it as PNG"
        elif frames > 1:
            fault = f"one picture but the file has {frames} frames; save one as PNG"
        elif min(file.size) < LEAST_SIDE:
            size = f"{file.width}x{file.height}"
            fault = f"at least {LEAST_SIDE} pixels on each side but it has {size}; leave it out"
        else:
            yield file
            return
        raise InputError(f"{path}: expected {fault}")


def _read_size(photo, long_side):
    """(width, height) of a photo that may have ``long_side`` pixels, 0 any number."""
    return scaled(photo.size, min(max(photo.size), long_side or MOST_PIXELS))


def _rgb(photo):
    """Any mode as RGB."""
    photo.load()
    if photo.mode.startswith("I"):  # 16-bit grey
        upper = (np.array(photo).astype(np.uint32) >> 8).astype(np.uint8)
        return Image.fromarray(upper).convert("RGB")
    if photo.has_transparency_data:
        rgba = photo if photo.mode == "RGBA" else photo.convert("RGBA")
        rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return rgba.convert("RGB")
    return photo.convert("RGB")
