"""The files that one stage hands to the next, written atomically: activation maps and CRF marginals
(.npz), label maps (palette PNG).
"""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.errors import InputError, raise_if_out_of_files, reason
from wsss.io import atomic, mirror

MOST_BYTES = 2**31  # of a file's arrays; enough for a photo of 100 million pixels
IGNORE = 255  # the value of a label map that no score and no loss counts


def voc_palette() -> np.ndarray:
    """VOC's colours, uint8 (256, 3): the bits of a number, dealt to red, green and blue."""
    places = 3 * np.arange(8)[:, None] + np.arange(3)  # (8 bits, 3 channels), highest bit first
    return np.packbits(np.arange(256)[:, None, None] >> places & 1, axis=1)[:, 0]


def save_cams(path: Path | str, classes: Sequence[int], *, cams: np.ndarray) -> None:
    """Keep maps (C, h, w) in [0, 1] of the present classes (numbers from 1) as float16."""
    _save(np.savez, path, classes, cams=np.asarray(cams, np.float16))


def load_cams(path: Path | str) -> tuple[list[int], np.ndarray]:
    """The ``(classes, cams)`` that ``save_cams`` kept, float32 (C, h, w)."""
    with _reading(path, "activation maps", stage="infer_cam on its split"):
        found = read_arrays(path, classes=("iu", 1), cams=("f", 3))
        cams = found["cams"].astype(np.float32)
        if not ((cams >= 0) & (cams <= 1)).all():  # nan neither
            raise ValueError("maps with values outside 0 to 1")
        return _checked(found["classes"], len(cams)), cams


def save_labels(path: Path | str, labels: np.ndarray) -> None:
    """Write a label map (H, W) of values 0 to 255 as a PNG with VOC's palette."""
    image = Image.fromarray(np.asarray(labels, np.uint8), mode="P")
    image.putpalette(voc_palette().tobytes())
    with atomic.write(path) as partial:
        image.save(partial, format="PNG")


def save_marginals(
    path: Path | str, classes: Sequence[int], *, low: np.ndarray, high: np.ndarray
) -> None:
    """Keep the CRF's marginals (1 + C, H, W) at both alphas, in steps of 1/255."""
    steps = np.rint(255 * np.stack([low, high])).astype(np.uint8)
    _save(np.savez_compressed, path, classes, marginals=steps)


def load_marginals(path: Path | str) -> tuple[list[int], np.ndarray]:
    """The ``(classes, marginals)`` that ``save_marginals`` kept, uint8 (2, 1 + C, H, W)."""
    stage = "affinity_labels with affinity_labels.marginals=true"
    with _reading(path, "CRF probabilities", stage=stage):
        found = read_arrays(path, classes=("iu", 1), marginals=("u", 4))
        marginals = found["marginals"]
        if len(marginals) != 2:
            raise ValueError(f"marginals of shape {marginals.shape}")
        return _checked(found["classes"], marginals.shape[1] - 1), marginals


def _save(save, path, classes, **arrays):
    with atomic.write(path) as partial, partial.open("wb") as file:
        save(file, classes=np.asarray(classes, np.uint8), **arrays)


@contextmanager
def _reading(path, what, *, stage) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no {what} of this photo; run {stage}") from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a file of {what} ({reason(error)}); delete it and run {stage}"
        ) from None


def _checked(classes, count):
    """Class numbers as a list, one for each of ``count`` maps."""
    numbers = classes.tolist()
    if len(numbers) != count or not all(0 < number < 255 for number in numbers):
        raise ValueError(f"classes {numbers} of {count} maps")
    return numbers


def read_arrays(path: Path | str, **wanted: tuple[str, int]) -> dict[str, np.ndarray]:
    """Arrays of an .npz file, by name; nothing is unpickled. ``wanted`` maps a name to the accepted
    ``dtype.kind`` letters, such as ``iu``, and the number of axes. Raises FileNotFoundError, or
    ValueError in one line for anything else that is wrong.
    """
    path = mirror.download_file(path)
    if not path.is_file() and path.exists():
        raise ValueError("not a plain file")
    try:
        with path.open("rb") as file:
            with zipfile.ZipFile(file) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > MOST_BYTES:
                raise ValueError(f"it unpacks to {size:,} bytes")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in wanted}
        for name, (kinds, dimensions) in wanted.items():
            array = found[name]
            if not isinstance(array, np.ndarray):
                raise ValueError("a member is not an array")
            if array.dtype.kind not in kinds or array.ndim != dimensions:
                raise ValueError(f"'{name}' is {array.dtype} of shape {array.shape}")
            if array.dtype.kind == "U":
                array.tolist()  # which raises for numbers beyond Unicode
        return found
    except FileNotFoundError:
        raise
    except Exception as error:  # zip and numpy raise many kinds for a damaged file
        raise_if_out_of_files(error)
        raise ValueError(reason(error)) from None
