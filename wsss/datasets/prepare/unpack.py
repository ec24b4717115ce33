"""Take what is needed out of a downloaded archive, which is untrusted, or a folder."""

import hashlib
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wsss.datasets.prepare import archives
from wsss.errors import InputError
from wsss.io import atomic
from wsss.runtime.progress import progress

MOST_MEMBERS = 1_000_000  # VOC 2012 has about 50,000
MOST_UNPACKED = 1 << 34  # bytes; VOC and SBD have 2 GB each


@dataclass(frozen=True)
class Download:
    """An archive that people download themselves, and what is taken out of it."""

    archive: str  # its file name
    md5: str  # of the archive as published
    top: str  # the folder in it that contains the parts
    parts: tuple[str, ...]  # files and folders below `top`; the rest is not needed
    where: str  # to get it


def fetch(download: Download, given: Path, *, target: Path, any_digest: bool = False) -> None:
    """Take a download's parts into ``target``. Each file appears whole or not at all; those that
    exist with the same size are skipped, so a second run continues an interrupted one.

    ``given`` is its archive, a tar, compressed or not; or a folder with its parts or its top
    folder. ``any_digest`` accepts an archive whose MD5 is not the published one. Raises InputError
    if ``given`` is missing, damaged, of another digest or layout, or has a member that is not a
    plain file in the expected folder.
    """
    if given.is_dir():
        files = _in_folder(download, given)
    elif given.is_file():
        _check_digest(download, given, any_digest)
        files = _in_archive(download, given, target)
    else:
        raise InputError(
            f"{given}: no such file or folder; expected {download.archive} or a folder with "
            f"{download.top} in it"
        )
    try:
        for name, size, source in files:
            path = target / name
            if not path.is_file() or path.stat().st_size != size:
                with atomic.write(path) as partial, partial.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
    except tarfile.TarError as error:
        raise InputError(
            f"{given}: expected a whole {download.archive} but it cannot be read to its end "
            f"({error}); download it again"
        ) from error


def _check_digest(download, archive, any_digest):
    if any_digest:
        print(f"{archive}: digest not checked (--any-digest)")
        return
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != download.md5:
        raise InputError(
            f"{archive}: expected MD5 {download.md5} of {download.archive} but found {found}; "
            "download it again, or accept a mirror's own packing with --any-digest"
        )


def _in_archive(download, archive, target):
    """``(path below the top folder, size, open file)`` of each file of the parts."""
    unpacked, top = 0, PurePosixPath(download.top)
    with archive.open("rb") as file:
        members = archives.members(file, count=MOST_MEMBERS, size=MOST_UNPACKED)
        for member, content in progress(members, f"unpack {archive.name}", unit="file"):
            unpacked += member.size
            if unpacked > MOST_UNPACKED:
                raise tarfile.ReadError(f"it unpacks to more than {MOST_UNPACKED:,} bytes")
            path, fault = PurePosixPath(member.name), ""
            wanted = content and any(path.is_relative_to(top / part) for part in download.parts)
            name = path.relative_to(top) if wanted else path
            if member.issparse():
                fault = "it is a sparse file, which may grow to any size"
            elif not (content or member.isdir()):
                fault = "it is neither a file nor a folder, but a link or a device"
            elif path.parts[:1] not in ((), top.parts[:1]) or ".." in path.parts:  # () is "."
                fault = f"it is not in {top.parts[0]}/"
            elif wanted and not (target / name).resolve().is_relative_to(target.resolve()):
                fault = f"a link leads it outside {target}; put a plain folder there"
            if fault:
                fix = "get the archive from another source"
                raise InputError(f"{archive}: member {member.name!r} is refused, as {fault}; {fix}")
            if wanted:
                yield name, member.size, content


def _in_folder(download, given):
    """The same of the files of the parts in a folder."""
    top = PurePosixPath(download.top).parts
    places = [given.joinpath(*top[start:]) for start in range(len(top) + 1)]
    folder = next((each for each in places if (each / download.parts[0]).exists()), None)
    if folder is None:
        raise InputError(
            f"{given}: expected {download.top}/ with {', '.join(download.parts)} but found no "
            f"{download.parts[0]} in it; give that folder, or {download.archive}"
        )
    for part in download.parts:
        found = [folder / part, *sorted((folder / part).rglob("*"))]
        files = [path for path in found if path.is_file()]
        for path in progress(files, f"copy {part}", unit="file"):
            with path.open("rb") as source:
                yield path.relative_to(folder), path.stat().st_size, source
