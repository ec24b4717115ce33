"""Files written whole or not at all, and checks that a file is intact."""

import errno
import json
import os
import re
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

from wsss.errors import InputError, raise_if_out_of_files
from wsss.io import mirror
from wsss.runtime.processes import is_running

PARTIAL = re.compile(r"\..+\.(\d{1,9})\.partial")  # with the number of its writer's process
CHECKSUMMED = {".npz", ".pt", ".png"}  # files with a checksum for each part
END_OF_PNG = b"IEND\xaeB`\x82"


@contextmanager
def write(path: Path | str) -> Iterator[Path]:
    """A path to write to, renamed to ``path`` if the block succeeds and removed if not.

    The contents reach the disk before the name does, and the name before this returns. Raises
    InputError if the disk takes no name of this length.
    """
    local = mirror.local_path(path)
    writer = f"{threading.get_native_id()}.{os.getpid()}"  # this thread of this process
    name = os.fsencode(local.name)[-128:].decode(errors="ignore")  # of 255 bytes that a name has
    partial = local.with_name(f".{name}.{writer}.partial")
    try:
        local.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        _flush(partial, os.O_RDWR)
        os.replace(partial, local)
        with suppress(PermissionError):  # Windows opens no folders
            _flush(local.parent, os.O_RDONLY)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise InputError(f"{path}: the name is too long for a file; shorten it") from None
    finally:
        if os.path.lexists(partial):
            partial.unlink()
    mirror.upload_file(path)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _flush(path, mode):
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_partials(folder: Path | str) -> None:
    """Remove partial files below a folder whose writer has ended, or has the number of this
    process, which has not written there yet.
    """
    for path in Path(folder).rglob(".*.partial"):
        named = PARTIAL.fullmatch(path.name)
        if named and (int(named[1]) == os.getpid() or not is_running(int(named[1]))):
            path.unlink(missing_ok=True)


def is_whole(path: Path | str) -> bool:
    """Whether a file exists and is intact, by the checksums in its format, one of CHECKSUMMED."""
    path = mirror.download_file(path)
    try:
        if path.suffix == ".png":
            from PIL.PngImagePlugin import PngImageFile  # not needed for text files

            content = path.read_bytes()
            PngImageFile(BytesIO(content)).verify()  # all but the last checksum
            return content.endswith(END_OF_PNG)
        with zipfile.ZipFile(path) as archive:
            return bool(archive.namelist()) and archive.testzip() is None
    except Exception as error:  # missing, or one of many kinds, depending on where it is damaged
        raise_if_out_of_files(error)
        return False


def save_json(path: Path, value: object) -> None:
    """Write a value as JSON; values of other types become their ``str``."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, default=str) + "\n")


def refuse_foreign(path: Path) -> None:
    """InputError if the folder of ``path`` is a file, or has files that no ``claim`` recorded."""
    folder = path.parent
    if not folder.is_dir() and os.path.lexists(folder):
        raise InputError(f"{folder}: expected a folder for the results; give another --out")
    if not path.exists() and any(not each.name.startswith(".") for each in folder.glob("*")):
        fault = f"its files are not of this command, as there is no {path.name}"
        raise InputError(f"{folder}: {fault}; give another --out")


def claim(path: Path, making: Mapping, *, made_from: Mapping[str, object]) -> list[str]:
    """Take a folder for files of one making; remove and return those made from something else.
    Raises InputError for no folder, another making, or files that would be replaced unrecorded.

    Args:
        path: of the record, a JSON file in the folder, without which it may have no files.
        making: networks and settings, the same for all files.
        made_from: file in the folder to what it is about to be made from, such as a photo's digest
            and tags; None if it is not to be made.
    """
    folder = path.parent
    refuse_foreign(path)
    record = json.loads(json.dumps({"making": making, "made_from": made_from}, default=str))
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = found["made_from"] if found["making"] == record["making"] else None
    except FileNotFoundError:
        known = {}
    except (ValueError, LookupError, TypeError):
        known = None
    if not isinstance(known, dict):
        raise InputError(
            f"{folder}: expected files of the same network and settings, but {path.name} has "
            "others; give another --out"
        )
    there = {name for name in made_from if os.path.lexists(folder / name)}
    new = {name: source for name, source in record["made_from"].items() if source is not None}
    for name in sorted((there & new.keys()) - known.keys()):
        raise InputError(f"{folder / name}: not made by this command; move it away")
    stale = [name for name in there & known.keys() if new.get(name) != known[name]]
    for name in stale:
        (folder / name).unlink()
    others = {name: source for name, source in known.items() if name not in made_from}
    save_json(path, {"making": record["making"], "made_from": others | new})
    return stale
