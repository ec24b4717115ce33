"""Untrusted tar archives, read in bounded memory and time."""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO

COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}  # by the first bytes
HEADER_BYTES = 2**15  # of one member's headers at most; a long name has up to 4 KiB
PADDING_BYTES = 2**20  # after the end mark at most; tar pads to 10 KiB


def members(
    file: IO[bytes], *, count: int, size: int
) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Read a tar archive, compressed or not, to its end: each member's header, and a file object of
    a plain file's content, to be read before the next member, or None. Raises tarfile.TarError,
    also on reading a content, for an archive that is damaged, cut off, of another format, of more
    than ``count`` members, or with one of more than ``size`` bytes.
    """
    decompress = COMPRESSED.get(file.read(2))
    file.seek(0)
    stream = _Bounded(decompress(file) if decompress else file)
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for number, member in enumerate(tar):
                if number == count:
                    raise tarfile.ReadError("too many members")
                if not 0 <= member.size <= size:
                    raise tarfile.ReadError(f"{member.name!r} has more than {size} bytes")
                plain = member.isreg() and not member.issparse()
                stream.limit = stream.tell() + HEADER_BYTES + (member.size if plain else 0)
                yield member, tar.extractfile(member) if plain else None
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # bounds memory
        if stream.last != bytes(tarfile.BLOCKSIZE):  # tarfile takes a broken header for the end
            raise tarfile.ReadError("no end mark after the last member")
        stream.limit = stream.tell() + PADDING_BYTES
        while stream.read(tarfile.RECORDSIZE):  # to the end, where gzip has its checksum
            pass
    except ValueError as error:  # a header's numbers
        raise tarfile.ReadError(str(error)) from None


class _Bounded(io.RawIOBase):
    """A stream readable up to a moving ``limit``: a small archive can unpack to a huge one."""

    def __init__(self, file):
        self._file, self.limit, self.last = file, HEADER_BYTES, b""

    def tell(self):
        return self._file.tell()

    def seek(self, position):
        self._within(self._file.seek, position, end=position)

    def read(self, size):
        self.last = self._within(self._file.read, size, end=self.tell() + size)
        return self.last

    def _within(self, action, number, *, end):
        if number < 0 or end > self.limit:
            raise tarfile.ReadError("a header, or what follows the end mark, is too long")
        try:
            return action(number)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise tarfile.ReadError(str(error)) from None
