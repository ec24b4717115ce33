"""Where files are on a machine that works from copies of them; without a mirror, at their path. A
mirror is a module with these functions, which raise ``InputError`` where it does not answer.
"""

from pathlib import Path

from wsss.runtime.engine import handed_in

MIRROR = "WSSS_FILE_MIRROR"  # the environment variable that names the module


def local_path(path: Path | str) -> Path:
    """The path on this machine at which a file is written."""
    mirror = handed_in(MIRROR)
    return mirror.local_path(path) if mirror else Path(path)


def download_file(path: Path | str) -> Path:
    """The path on this machine from which a file is read, once it is downloaded."""
    mirror = handed_in(MIRROR)
    return mirror.download_file(path) if mirror else Path(path)


def upload_file(path: Path | str) -> None:
    """Upload a file that was written at ``local_path(path)``."""
    if mirror := handed_in(MIRROR):
        mirror.upload_file(path)
