"""The format "Segmentation mask 1.1" of CVAT, a server for annotating photos together: a colour per
label, listed in ``labelmap.txt``.
"""

from collections.abc import Sequence

import numpy as np

from wsss.datasets.annotations.labelme import IGNORE_NAME
from wsss.datasets.tags import normal
from wsss.errors import InputError
from wsss.io.artifacts import IGNORE, voc_palette

BACKGROUND_NAME = "background"  # CVAT's own name for pixels without a label


def label_lines(classes: Sequence[str]) -> str:
    """The text of ``labelmap.txt``: names with VOC's colours, in the order of their numbers, and
    ``__ignore__`` for 255.

    Raises:
        InputError: a name that the format cannot represent.
    """
    names = {0: BACKGROUND_NAME} | dict(enumerate(classes, 1)) | {IGNORE: IGNORE_NAME}
    for name in names.values():
        if ":" in name or name.startswith("#") or len(name.splitlines()) != 1:
            raise InputError(f"class {name!r}: CVAT wants names without ':' and '#'; rename it")
    palette = voc_palette()
    lines = [f"{name}:{','.join(map(str, palette[number]))}::\n" for number, name in names.items()]
    return "# label:color_rgb:parts:actions\n" + "".join(lines)


def label_map(picture: np.ndarray, lines: str, *, classes: Sequence[str]) -> np.ndarray:
    """The label map, uint8 (H, W), of a picture, uint8 (H, W, 3), in the colours of ``lines``, the
    text of a ``labelmap.txt``. These may list more names than the ``classes``, numbered from 1.

    Raises:
        InputError: the text has another format, or a pixel's colour is not that of a class.
    """
    numbers = {normal(name): number for number, name in enumerate(classes, 1)}
    numbers |= {BACKGROUND_NAME: 0, IGNORE_NAME: IGNORE}
    names = {0: BACKGROUND_NAME}  # black, unless the text says otherwise
    for line in lines.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, colour, _, _ = line.strip().split(":")
            red, green, blue = bytes(int(value) for value in colour.split(","))
        except ValueError:
            raise InputError(
                f"labelmap.txt: expected 'name:red,green,blue::' but got {line!r}; fix it"
            ) from None
        names[red << 16 | green << 8 | blue] = normal(name)
    red, green, blue = np.moveaxis(picture.astype(np.int32), 2, 0)
    found, place = np.unique(red << 16 | green << 8 | blue, return_inverse=True)
    for code in found.tolist():
        if names.get(code) not in numbers:
            where = f"{names[code]!r} in labelmap.txt" if code in names else "not in labelmap.txt"
            raise InputError(
                f"the colour {code >> 16},{code >> 8 & 255},{code & 255} is {where}; expected one "
                f"of: {', '.join(numbers)}"
            )
    values = np.array([numbers[names[code]] for code in found.tolist()], np.uint8)
    return values[place].reshape(picture.shape[:2])
