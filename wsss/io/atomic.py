"""Files written whole or not at all, digests of files, and checks that a file is intact."""

import hashlib
import json
import os
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

from wsss.errors import InputError
from wsss.io import mirror
from wsss.runtime.processes import is_running

PARTIAL = re.compile(r"\..+\.(\d{1,9})\.partial")  # with the number of its writer's process
CHECKSUMMED = {".npz", ".pt", ".png"}  # files with a checksum for each part
END_OF_PNG = b"IEND\xaeB`\x82"


@contextmanager
def write(path: Path | str) -> Iterator[Path]:
    """A path to write to, renamed to ``path`` if the block succeeds and removed if not.

    The contents reach the disk before the name does, and the name before this returns.
    """
    local = mirror.local_path(path)
    local.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{threading.get_native_id()}.{os.getpid()}"  # this thread of this process
    partial = local.with_name(f".{local.name}.{writer}.partial")
    try:
        yield partial
        _flush(partial, os.O_RDWR)
        os.replace(partial, local)
        with suppress(PermissionError):  # Windows opens no folders
            _flush(local.parent, os.O_RDONLY)
    finally:
        partial.unlink(missing_ok=True)
    mirror.upload_file(path)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _flush(path, mode):
    """Flush a file, or a folder's names, to the disk."""
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_partials(folder: Path | str) -> None:
    """Remove partial files of killed processes in a folder and below: files whose writer has ended,
    or has the number of this process, which has not written there yet.
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
    except Exception:  # missing, or one of many kinds, depending on where it is damaged
        return False


def save_json(path: Path, value: object) -> None:
    """Write a value as JSON; values of other types become their ``str``."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, default=str) + "\n")


def claim(path: Path, record: dict) -> None:
    """Record as JSON which network and settings the files of ``path``'s folder come from; raises
    InputError if ``path`` holds another record, so a folder never mixes two of them.
    """
    record = json.loads(json.dumps(record, default=str))
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        found = record
    except ValueError:
        found = None
    if found != record:
        raise InputError(
            f"{path.parent}: expected files of the same network and settings, but {path.name} has "
            "others; give another --out"
        )
    save_json(path, record)


def digest(path: Path | str) -> str:
    """Sixteen hexadecimal digits of a file's contents."""
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=8).hexdigest()


def manifest(folder: Path | str) -> dict:
    """``{"files": count, "digest": of names and contents}`` of a folder, without hidden files."""
    state, count = hashlib.blake2b(digest_size=8), 0
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            state.update(str(path.relative_to(folder)).encode() + path.read_bytes())
            count += 1
    return {"files": count, "digest": state.hexdigest()}
