"""The files that one stage hands to the next: activation maps (.npz), label maps (palette PNG),
JSON.

Every writer writes beside the target and renames, so a reader sees a whole file or none, also after
a loss of power; ``is_whole`` tells a file that was damaged later.
"""

import numpy as np
from PIL import Image

from wsss.errors import InputError, reason
from wsss.io import atomic
from wsss.io.npz import read_arrays

IGNORE = 255  # the value of a label map that no score and no loss counts


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


def save_cams(path, classes, cams):
    """Keep maps (C, h, w) in [0, 1] of the present classes (numbers from 1) as float16."""
    with atomic.write(path) as partial, partial.open("wb") as file:
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
    with atomic.write(path) as partial:
        image.save(partial, format="PNG")


def save_marginals(path, classes, low, high):
    """Keep the CRF's marginals (1 + C, H, W) at both alphas, in steps of 1/255: some 80 KiB a
    photo of 500 x 375.
    """
    steps = np.rint(255 * np.stack([low, high])).astype(np.uint8)
    with atomic.write(path) as partial, partial.open("wb") as file:
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
