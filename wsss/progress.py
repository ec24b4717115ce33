"""Progress with an ETA: a line for people, and a file for the driver that watches the kernel."""

import os
import time
from pathlib import Path

from tqdm import tqdm

FILE_VARIABLE = "WSSS_PROGRESS_FILE"


def progress(items, label, *, total=None, initial=0, unit="photo"):
    """Iterate over ``items`` and show how far it is; likewise in the file named by
    WSSS_PROGRESS_FILE.
    """
    path = os.environ.get(FILE_VARIABLE)
    last = 0.0
    with tqdm(
        items,
        desc=label,
        total=total,
        initial=initial,
        unit=unit,
        mininterval=0.5,
        dynamic_ncols=True,
    ) as bar:
        for item in bar:
            yield item
            if path and time.monotonic() - last > 0.5:
                last = time.monotonic()
                _write(path, str(bar))
        if path:
            _write(path, str(bar))


def _write(path, text):
    partial = Path(path + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
