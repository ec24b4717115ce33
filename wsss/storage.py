"""The files that one stage hands to the next: activation maps (.npz), label maps (palette PNG),
JSON.

Every writer writes beside the target and renames, so a reader sees a whole file or none, also after
a loss of power; ``is_whole`` tells a file that was damaged later.
"""

import hashlib
import json
import os
import re
import zipfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from wsss import mirror
from wsss.arrays import read_arrays
from wsss.errors import InputError, reason
from wsss.workers import is_running

PARTIAL = re.compile(r"\..+\.(\d{1,9})\.partial")  # with the process that writes it
DAMAGE = (OSError, ValueError, KeyError, EOFError, NotImplementedError, zlib.error)
DAMAGE += (zipfile.BadZipFile,)  # what a damaged archive raises, by where it is damaged


def voc_palette():
    """VOC's colours, uint8 (256, 3): the bits of a class number, dealt to red, green and blue in
    turn.
    """
    number = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((number >> (3 * bit + channel)) & 1).astype(np.uint8) << (
                7 - bit
            )
    return palette


@contextmanager
def atomic(path):
    """A path to write to, which becomes ``path`` if the block ends well and vanishes if not.

    The contents reach the disk before the name does, and the name before this returns.
    """
    here = mirror.place(path)
    here.parent.mkdir(parents=True, exist_ok=True)
    partial = mirror.beside(here)
    try:
        yield partial
        _flush(partial, os.O_RDWR)
        os.replace(partial, here)
        with suppress(PermissionError):  # Windows opens no folders
            _flush(here.parent, os.O_RDONLY)
    finally:
        partial.unlink(missing_ok=True)
    mirror.hand_on(path)


def _flush(path, mode):
    """Have the system write a file, or a folder's names, to the disk now."""
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_partials(folder):
    """Remove what killed processes left half-written in a folder and below: the files whose writer
    is gone, or has the number of this process, which has not begun to write there.

    Returns:
        how many files were removed.
    """
    count = 0
    for path in Path(folder).rglob(".*.partial"):
        named = PARTIAL.fullmatch(path.name)
        if named and (int(named[1]) == os.getpid() or not is_running(int(named[1]))):
            path.unlink(missing_ok=True)
            count += 1
    return count


def is_whole(path):
    """Whether a file is there with all its contents, by the checksums that its format has.

    Args:
        path: of a PNG, or else an archive (``.npz``, or as torch writes it); both have one for each
            part.
    """
    path = mirror.local(path)
    try:
        return _png_whole(path) if path.suffix == ".png" else _archive_whole(path)
    except DAMAGE:  # or not there
        return False


def _archive_whole(path):
    with zipfile.ZipFile(path) as archive:
        return bool(archive.namelist()) and archive.testzip() is None


def _png_whole(path):
    content = path.read_bytes()
    place = 8 if content.startswith(b"\x89PNG\r\n\x1a\n") else len(content)
    while place < len(content):  # chunks: length, kind, content, checksum of these two
        end = place + 12 + int.from_bytes(content[place : place + 4])
        chunk, checksum = content[place + 4 : end - 4], content[end - 4 : end]
        if len(checksum) < 4 or zlib.crc32(chunk) != int.from_bytes(checksum):
            return False
        if chunk.startswith(b"IEND"):
            return True
        place = end
    return False


CHECKSUMMED = {".npz": _archive_whole, ".pt": _archive_whole, ".png": _png_whole}


def save_cams(path, classes, cams):
    """Keep maps (C, h, w) in [0, 1] of the present classes (numbers from 1) as float16."""
    with atomic(path) as partial, partial.open("wb") as file:
        np.savez(
            file,
            classes=np.asarray(classes, np.uint8),
            cams=np.asarray(cams, np.float16),
        )


def load_cams(path):
    """``(classes, cams)``: a list of numbers and float32 (C, h, w), as ``save_cams`` kept them."""
    try:
        found = read_arrays(path, classes=("iu", 1), cams=("f", 3))
        classes, cams = found["classes"].tolist(), found["cams"].astype(np.float32)
        _check_classes(classes, len(cams))
        # a comparison with what is no number is false
        if not ((cams >= 0) & (cams <= 1)).all():
            raise ValueError("maps of values that are not 0 to 1")
        return classes, cams
    except FileNotFoundError:
        raise InputError(
            f"{path}: no activation maps of this photo; run infer_cam on its split"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a file of activation maps ({reason(error)}); delete it and run infer_cam"
        ) from None


def _check_classes(classes, count):
    """Refuse numbers of classes, one for each of so many maps, that no dataset has."""
    if len(classes) != count or not all(0 < number < 255 for number in classes):
        raise ValueError(f"classes {classes} of {count} maps")


def save_labels(path, labels):
    """Write a label map (H, W) of values 0 to 255 as a PNG with VOC's palette."""
    image = Image.fromarray(np.asarray(labels, np.uint8), mode="P")
    image.putpalette(voc_palette().tobytes())
    with atomic(path) as partial:
        image.save(partial, format="PNG")


def save_marginals(path, classes, low, high):
    """Keep the CRF's marginals (1 + C, H, W) at both alphas, in steps of 1/255: some 80 KiB a
    photo of 500 x 375.
    """
    steps = np.rint(255 * np.stack([low, high])).astype(np.uint8)
    with atomic(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, classes=np.asarray(classes, np.uint8), marginals=steps)


def load_marginals(path):
    """``(classes, marginals)``: a list of numbers and uint8 (2, 1 + C, H, W), of 255, as
    ``save_marginals`` kept them.
    """
    try:
        found = read_arrays(path, classes=("iu", 1), marginals=("u", 4))
        classes, marginals = found["classes"].tolist(), found["marginals"]
        if len(marginals) != 2:
            raise ValueError(f"marginals of shape {marginals.shape}")
        _check_classes(classes, marginals.shape[1] - 1)
        return classes, marginals
    except FileNotFoundError:
        raise InputError(
            f"{path}: no CRF probabilities of this photo; run affinity_labels with "
            "affinity_labels.marginals=true"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a file of CRF probabilities ({reason(error)}); delete it and run "
            "affinity_labels"
        ) from None


def save_json(path, value):
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=1, sort_keys=True, default=str) + "\n")


def claim(path, record):
    """Note in ``path`` what makes the files of its folder: those of two networks or settings must
    not get mixed.

    Args:
        record: plain values by name.

    Raises:
        InputError: the file tells of another making.
    """
    record = json.loads(json.dumps(record, default=str))
    try:
        there = json.loads(Path(path).read_text())
    except FileNotFoundError:
        there = record
    except ValueError:
        there = None
    if there != record:
        raise InputError(
            f"{Path(path).parent}: expected files made as they are to be now, but {path.name} "
            "tells of others; give another --out"
        )
    save_json(path, record)


def digest(path):
    """Sixteen hexadecimal digits of a file's contents."""
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=8).hexdigest()


def manifest(folder):
    """``{"files": count, "digest": of names and contents}`` of a folder, hidden files left out."""
    state, count = hashlib.blake2b(digest_size=8), 0
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            state.update(str(path.relative_to(folder)).encode() + path.read_bytes())
            count += 1
    return {"files": count, "digest": state.hexdigest()}
