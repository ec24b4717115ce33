"""Takes what is needed out of an archive or a folder that a person downloaded.

Archives are untrusted: the digest is checked, and a member that is not a plain file in the expected
folder is refused. A file that exists with the same size is skipped, so a second run continues where
the first one stopped.
"""

import hashlib
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from wsss.datasets.prepare import archives
from wsss.errors import InputError
from wsss.io import atomic
from wsss.runtime.progress import progress

MOST_MEMBERS = 1_000_000  # VOC 2012 has some 50,000
MOST_UNPACKED = 1 << 34  # bytes; VOC and SBD have 2 GB each
MEBIBYTE = 1 << 20  # bytes: read at once, and one tick of the progress over an archive


@dataclass(frozen=True)
class Download:
    """An archive that people download by themselves, and what is taken out of it."""

    archive: str  # its file name
    md5: str  # of the archive as published
    top: str  # the folder in it that holds the parts
    parts: tuple[str, ...]  # files and folders below `top`; the rest is not needed
    where: str  # to get it

    def lacking(self, target: Path) -> list[Path]:
        """The paths of the parts that are not in a folder."""
        return [target / part for part in self.parts if not (target / part).exists()]


def fetch(download: Download, given: Path, *, target: Path, any_digest: bool = False) -> None:
    """Take a download's parts out of an archive or a folder into ``target``, except for files that
    exist there with the same size. Each file appears whole or not at all.

    Args:
        download: what is expected.
        given: path of its archive (a tar, compressed or not), or of a folder with its parts, or
            with its top folder, in it.
        target: path of the folder that gets the parts.
        any_digest: accept an archive whose MD5 is not the published one.

    Raises:
        InputError: ``given`` is missing, damaged, has another digest or another layout, or holds a
            member that is refused.
    """
    if given.is_dir():
        _copy(download, _folder_with_parts(download, given), target)
        return
    if not given.is_file():
        raise InputError(
            f"{given}: no such file or folder; expected {download.archive} or a folder with "
            f"{download.top} in it"
        )
    if any_digest:
        print(f"{given}: digest not checked (--any-digest)")
    else:
        _check_digest(download, given)
    ticks = _unpack(download, given, target)
    try:
        for _ in progress(ticks, f"unpack {given.name}", total=_mebibytes(given), unit="MiB"):
            pass
    except tarfile.TarError as error:
        raise InputError(
            f"{given}: expected a whole {download.archive} but it cannot be read to its end "
            f"({error}); download it again"
        ) from error


def _mebibytes(file: Path) -> int:
    return -(-file.stat().st_size // MEBIBYTE)  # rounded up


def _check_digest(download, archive):
    state = hashlib.md5(usedforsecurity=False)
    with archive.open("rb") as file:
        blocks = iter(lambda: file.read(MEBIBYTE), b"")
        total = _mebibytes(archive)
        for block in progress(blocks, f"check {archive.name}", total=total, unit="MiB"):
            state.update(block)
    if state.hexdigest() != download.md5:
        raise InputError(
            f"{archive}: expected MD5 {download.md5} of {download.archive} but found "
            f"{state.hexdigest()}; download it again, or accept a mirror's own packing with "
            "--any-digest"
        )


def _unpack(download: Download, archive: Path, target: Path) -> Iterator[int]:
    """Take the parts out of a tar archive; yields once for each MiB of it that is done."""
    done = unpacked = 0
    with archive.open("rb") as file:
        for member, content in archives.members(file, count=MOST_MEMBERS, size=MOST_UNPACKED):
            unpacked += member.size
            if unpacked > MOST_UNPACKED:
                raise tarfile.ReadError(f"it unpacks to more than {MOST_UNPACKED:,} bytes")
            path = _path_below_top(member, content, download, archive)
            if content and any(path.is_relative_to(part) for part in download.parts):
                _check_destination(member, path, archive, target)
                _write(content, target / path, size=member.size)
            while done * MEBIBYTE < file.tell():
                done += 1
                yield done


def _path_below_top(member, content, download, archive):
    """A member's path below the download's top folder; as it is, where it lies beside that."""
    path, top = PurePosixPath(member.name), PurePosixPath(download.top)
    if member.issparse():
        reason = "a sparse file, which may grow to any size"
    elif not (content or member.isdir()):
        reason = "neither a file nor a folder, but a link or a device"
    elif path.parts[:1] not in ((), top.parts[:1]) or ".." in path.parts:  # () is the folder "."
        reason = f"not in {top.parts[0]}/"
    else:
        return path.relative_to(top) if path.is_relative_to(top) else path
    raise InputError(
        f"{archive}: member {member.name!r} is refused, as it is {reason}; get the archive from "
        "another place"
    )


def _check_destination(member, path, archive, target):
    """Refuse a member that would lie elsewhere, as where one of the target's folders is a link."""
    place = (target / path).resolve()
    if not place.is_relative_to(target.resolve()):
        raise InputError(
            f"{archive}: member {member.name!r} is refused (it would lie outside {target}, at "
            f"{place}); put a plain folder there"
        )


def _folder_with_parts(download, given):
    top = PurePosixPath(download.top).parts
    places = [given.joinpath(*top[start:]) for start in range(len(top) + 1)]
    for place in places:
        if (place / download.parts[0]).exists():
            return place
    raise InputError(
        f"{given}: expected {download.top}/ with {', '.join(download.parts)} but found no "
        f"{download.parts[0]} in it; give that folder, or {download.archive}"
    )


def _copy(download, folder, target):
    for part in download.parts:
        found = [folder / part, *sorted((folder / part).rglob("*"))]
        files = [path for path in found if path.is_file()]
        for path in progress(files, f"copy {part}", unit="file"):
            with path.open("rb") as source:
                _write(source, target / path.relative_to(folder), size=path.stat().st_size)


def _write(source: IO[bytes], path: Path, *, size: int) -> None:
    if path.is_file() and path.stat().st_size == size:
        return
    with atomic.write(path) as partial, partial.open("wb") as file:
        shutil.copyfileobj(source, file, MEBIBYTE)
