"""Files written whole or not at all, digests of files, and checks that a file is intact."""

import hashlib
import json
import os
import re
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsss.errors import InputError
from wsss.io import mirror
from wsss.runtime.processes import is_running

PARTIAL = re.compile(r"\..+\.(\d{1,9})\.partial")  # with the number of the process that writes it
# What a damaged archive raises, depending on where it is damaged.
DAMAGE = (OSError, ValueError, KeyError, EOFError, NotImplementedError, zlib.error)
DAMAGE += (zipfile.BadZipFile,)


@contextmanager
def write(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` if the block succeeds and is removed if not.

    The contents reach the disk before the name does, and the name before this returns.
    """
    local = mirror.local_path(path)
    local.parent.mkdir(parents=True, exist_ok=True)
    partial = temp_path(local)
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


def temp_path(path: Path) -> Path:
    """Where this thread of this process writes what then becomes ``path``."""
    return path.with_name(f".{path.name}.{threading.get_native_id()}.{os.getpid()}.partial")


def _flush(path, mode):
    """Flush a file, or a folder's names, to the disk."""
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_partials(folder: Path | str) -> int:
    """Remove what killed processes left half-written in a folder and below: files whose writer has
    ended, or has the number of this process, which has not started to write in that folder.

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


def is_whole(path: Path) -> bool:
    """Whether a file exists and is intact, by the checksums in its format.

    Args:
        path: of a PNG, or else of an archive (``.npz``, or as torch writes it); both have a
            checksum for each part.
    """
    path = mirror.download_file(path)
    try:
        return _png_whole(path) if path.suffix == ".png" else _archive_whole(path)
    except DAMAGE:  # or missing
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


def save_json(path: Path, value: object) -> None:
    """Write a value as JSON; what JSON has no form for is written as its ``str``."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, default=str) + "\n")


def claim(path: Path, record: dict) -> None:
    """Write to ``path`` which network and settings the files of its folder come from, so that files
    of two of them are never mixed.

    Args:
        path: of the JSON file.
        record: plain values by name.

    Raises:
        InputError: the file exists with another record.
    """
    record = json.loads(json.dumps(record, default=str))
    try:
        found = json.loads(path.read_text())
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
