"""The files that one stage hands to the next: activation maps (.npz), label maps (palette PNG),
JSON.

Every writer writes beside the target and renames, so a reader sees a whole file or none.
"""

import hashlib
import json
import os
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.errors import InputError


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
    """A path to write to, which becomes ``path`` if the block ends well and vanishes if not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays["classes"].tolist(), arrays["cams"].astype(np.float32)
    except FileNotFoundError:
        raise InputError(
            f"{path}: no activation maps of this photo; run infer_cam on its split"
        ) from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: not a file of activation maps ({error}); delete it and run infer_cam"
        ) from None


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
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays["classes"].tolist(), arrays["marginals"]
    except FileNotFoundError:
        raise InputError(
            f"{path}: no CRF probabilities of this photo; run affinity_labels with "
            "affinity_labels.marginals=true"
        ) from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: not a file of CRF probabilities ({error}); delete it and run affinity_labels"
        ) from None


def save_confusions(path, matrices):
    """Keep each photo's ``ConfusionMatrix``, by id, so that scores of any of them can be told."""
    counts = np.stack([matrix.matrix for matrix in matrices.values()]).astype(np.int32)
    with atomic(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, ids=np.array(list(matrices)), counts=counts)


def load_confusions(path):
    """``(ids, counts)``: a list and int32 (photos, C, C), target first, as ``save_confusions`` kept
    them.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays["ids"].tolist(), arrays["counts"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: not a file of confusion counts ({error}); run its stage again with --force"
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
