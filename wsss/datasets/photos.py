"""Photos as people have them: JPEG, PNG or WebP of any mode, turned as their EXIF says."""

import errno
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.errors import InputError, reason
from wsss.io import mirror

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FORMATS = ("JPEG", "MPO", "PNG", "WEBP")  # MPO: a JPEG with further pictures behind it
MOST_PIXELS = 100_000_000  # of a photo that is opened: 300 MB when decoded
LEAST_SIDE = 16  # pixels; below there is nothing to see


def read_photo(path, *, long_side=0, upright=True):
    """A photo as uint8 RGB of shape (H, W, 3), values 0 to 255.

    Transparent pixels are shown on white; 16-bit grey values keep their upper byte.

    Args:
        path: a JPEG, PNG or WebP file.
        long_side: pixels; a photo whose longer side exceeds it is made that long. 0 leaves it.
        upright: turn it as its EXIF orientation says.

    Raises:
        InputError: missing, unreadable, cut short, of another format, animated, smaller than 16
            pixels on a side, or of more than 100 million pixels.
    """
    with _opened(path) as photo:
        size = _shrunk(photo.size, long_side)
        if size != photo.size:
            # JPEGs decode to an eighth of their size at an eighth of the price
            photo.draft(None, size)
        image = _rgb(photo)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        turn = _turn(photo) if upright else None
        return np.array(image if turn is None else image.transpose(turn))


def photo_size(path, *, long_side=0):
    """``(height, width)`` of what ``read_photo`` gives, from the file's header alone."""
    with _opened(path) as photo:
        width, height = _shrunk(photo.size, long_side)
        return (width, height) if _turn(photo) in SIDEWAYS else (height, width)


def fit_mask(mask, size, name):
    """A mask (H, W) in the size that its photo is read in: as it is, or thinned out where the photo
    is read smaller.

    Args:
        mask: uint8 (H, W).
        size: (height, width) of the photo as read.
        name: of the mask, for messages.

    Raises:
        InputError: it is of another shape.
    """
    scale = max(size) / max(mask.shape)
    if scale > 1 or tuple(max(1, round(side * scale)) for side in mask.shape) != tuple(size):
        raise InputError(
            f"{name}: the mask is {mask.shape[1]}x{mask.shape[0]} but its photo is "
            f"{size[1]}x{size[0]}, or larger in proportion; replace the mask"
        )
    return np.array(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def read_png(path, what, *, colours=False):
    """The numbers that the pixels of a palette or grey PNG hold, uint8 (H, W), or its colours,
    uint8 (H, W, 3).

    No other format is opened: a grey JPEG would give other numbers, and readers of some formats
    start other programs.

    Args:
        path: the file.
        what: is expected in it, for messages, such as ``mask``.
        colours: take the colours, of any PNG.

    Raises:
        InputError: missing, unreadable, without such numbers, or of more than 100 million pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our bound is below
            local = mirror.download_file(path)
            refuse_special(local)
            with Image.open(local, formats=["PNG"]) as file:
                if file.width * file.height > MOST_PIXELS:
                    raise Image.DecompressionBombError
                if colours:
                    return np.array(file.convert("RGB"))
                if file.mode in ("P", "L"):
                    return np.array(file)
                mode = file.mode
    except FileNotFoundError:
        raise InputError(
            f"{path}: the {what} is missing; restore it or take the photo off the id list"
        ) from None
    except Image.DecompressionBombError:
        raise InputError(
            f"{path}: expected a {what} of at most {MOST_PIXELS // 10**6} million pixels; make it "
            "smaller"
        ) from None
    except InputError:
        raise
    except Image.UnidentifiedImageError:
        raise InputError(f"{path}: expected a {what} as PNG; save it as that") from None
    except Exception as error:  # decoders raise many kinds for a damaged file
        raise InputError(
            f"{path}: not a readable {what} ({reason(error)}); replace the file"
        ) from None
    raise InputError(f"{path}: expected a palette or grey {what} but it is {mode}; save indices")


ORIENTATION = 0x0112  # the EXIF tag
TURNS = {  # what puts a photo upright, by the tag's value
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (TURNS[5], TURNS[6], TURNS[7], TURNS[8])


def _turn(photo):
    """What puts a photo upright, or None; also where EXIF is broken, as other viewers have it."""
    try:
        return TURNS.get(photo.getexif().get(ORIENTATION))
    except Exception:  # a foreign block of bytes may break in any way
        return None


@contextmanager
def _opened(path):
    """An image file, its header read and found in order; what goes wrong becomes an InputError."""
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of broken EXIF, which is passed over
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our bound is below
            local = mirror.download_file(path)
            refuse_special(local)
            with Image.open(local) as file:
                _refuse(path, file)
                yield file
    except FileNotFoundError:
        raise InputError(f"{path}: the photo is missing; restore it") from None
    except Image.DecompressionBombError:
        raise InputError(_too_large(path)) from None
    except Image.UnidentifiedImageError:
        raise InputError(
            f"{path}: expected a JPEG, PNG or WebP but the file is none of them; replace it"
        ) from None
    except InputError:
        raise
    except Exception as error:  # decoders raise many kinds for a damaged file
        raise InputError(
            f"{path}: not a readable photo ({reason(error)}); replace the file"
        ) from None


def refuse_special(path):
    """Raise OSError for what is there but no plain file: to open a pipe would wait for ever."""
    if Path(path).exists() and not Path(path).is_file():
        raise OSError(errno.EINVAL, "no plain file")


def _too_large(path, size=None):
    given = f"{size[0]}x{size[1]} pixels" if size else "far more"
    return (
        f"{path}: expected at most {MOST_PIXELS // 10**6} million pixels but the photo has "
        f"{given}; make it smaller"
    )


def _refuse(path, file):
    width, height = file.size
    if file.format not in FORMATS:
        raise InputError(
            f"{path}: expected a JPEG, PNG or WebP but the file is {file.format}; save it as PNG"
        )
    if file.format != "MPO" and getattr(file, "n_frames", 1) > 1:
        raise InputError(
            f"{path}: expected one picture but the file has {file.n_frames} frames; save the one "
            "that you want as PNG"
        )
    if width * height > MOST_PIXELS:
        raise InputError(_too_large(path, file.size))
    if min(width, height) < LEAST_SIDE:
        raise InputError(
            f"{path}: expected at least {LEAST_SIDE} pixels on each side but the photo is "
            f"{width}x{height}; leave it out"
        )


def _shrunk(size, long_side):
    scale = long_side / max(size) if long_side else 1
    return tuple(max(1, round(side * scale)) for side in size) if scale < 1 else tuple(size)


def _rgb(photo):
    """Any mode as RGB."""
    photo.load()
    if photo.mode.startswith("I"):  # 16-bit grey
        return Image.fromarray((np.array(photo).astype(np.uint32) >> 8).astype(np.uint8)).convert(
            "RGB"
        )
    if photo.has_transparency_data:
        shown = photo if photo.mode == "RGBA" else photo.convert("RGBA")
        ground = Image.new("RGBA", shown.size, "white")
        shown = Image.alpha_composite(ground, shown)
        del ground  # 400 MB of the largest
        return shown.convert("RGB")
    return photo.convert("RGB")
