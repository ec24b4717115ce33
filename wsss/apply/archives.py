"""Tar archives: equal files pack to equal bytes, and what others packed is read with care."""

import gzip
import tarfile
import zlib
from io import BytesIO
from pathlib import Path, PurePosixPath

from wsss.io import atomic

HEADER_BYTES = 2**15  # of one member's headers, or of the padding at the end (10 KiB by default)


def pack(archive, root, names):
    """Write files ``root/<name>`` and the folders above them as a tar.gz, whole or not at all.

    Members are sorted by name, of time 0 and owner 0.

    Args:
        archive: path to write.
        root: folder.
        names: of files, relative to it.
    """
    files = {PurePosixPath(name) for name in names}
    folders = {folder for name in files for folder in name.parents[:-1]}
    with (
        atomic.write(archive) as partial,
        partial.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name in sorted(files | folders):
            member, content = tarfile.TarInfo(str(name)), b""
            if name in folders:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            else:
                content = (Path(root) / name).read_bytes()
            member.size = len(content)
            tar.addfile(member, BytesIO(content))


def members(archive, *, count, size):
    """Read a tar or tar.gz made by anyone, member by member, in bounded memory and time.

    Args:
        archive: its path.
        count: members at most.
        size: bytes of a member at most.

    Yields:
        ``(member, content)``: a ``tarfile.TarInfo`` and the file's bytes (none for a folder), or
        None for what is neither file nor folder.

    Raises:
        tarfile.TarError: damaged, another format, or beyond the bounds.
    """
    try:
        with Path(archive).open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream = _Rationed(gzip.GzipFile(fileobj=file) if zipped else file)
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                while (member := tar.next()) is not None:
                    count -= 1
                    if count < 0:
                        raise tarfile.ReadError("too many members")
                    if member.size > size:
                        raise tarfile.ReadError(f"{member.name!r} has more than {size} bytes")
                    stream.left = size + HEADER_BYTES
                    yield member, _content(tar, member)
                    stream.left = HEADER_BYTES
                while stream.read(tarfile.RECORDSIZE):  # to the end, where gzip has its checksum
                    pass
    except (OSError, EOFError, zlib.error, ValueError) as error:  # of gzip, or a header's numbers
        raise tarfile.ReadError(str(error)) from None


def _content(tar, member):
    if member.isdir():
        return b""
    if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse():
        return tar.extractfile(member).read()
    return None


class _Rationed:
    """A stream of ``left`` bytes and no more: a small archive can unpack to a huge one."""

    def __init__(self, file):
        self._file, self.left = file, HEADER_BYTES

    def read(self, size):
        content = self._file.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise tarfile.ReadError("it unpacks to more than it may hold")
        return content
