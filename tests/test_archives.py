"""Archives: what is packed is read again, and a small file cannot make the reader read for long."""

import bz2
import gzip
import io
import lzma
import tarfile
from pathlib import PurePosixPath

import pytest

from wsss.apply import voc_server
from wsss.datasets.prepare import archives


def read(path, *, count=9, size=999):
    """What the reader gives: ``[(name, bytes or None)]``."""
    with path.open("rb") as file:
        return [
            (member.name, content and content.read())
            for member, content in archives.members(file, count=count, size=size)
        ]


@pytest.fixture
def packed(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.txt").write_text("one")
    (tmp_path / "a" / "y.txt").write_text("two")
    names = [PurePosixPath("a/y.txt"), PurePosixPath("a/b/x.txt")]
    voc_server.pack(tmp_path / "z.tgz", tmp_path, names=names)
    return tmp_path / "z.tgz"


CONTENTS = [("a", None), ("a/b", None), ("a/b/x.txt", b"one"), ("a/y.txt", b"two")]


def test_what_is_packed_is_read_again(packed):
    assert read(packed, count=4, size=3) == CONTENTS
    for bounds in ({"count": 3, "size": 3}, {"count": 4, "size": 2}):
        with pytest.raises(tarfile.ReadError):
            read(packed, **bounds)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_damage_is_an_error_wherever_it_is(packed, compress):
    plain = gzip.decompress(packed.read_bytes())
    whole = compress(plain)
    packed.write_bytes(whole)
    assert read(packed) == CONTENTS
    # a plain tar is whole from its end mark on, which its padding repeats
    end = 6 * 512 if compress is bytes else len(whole)
    for cut in {*range(0, end, 100), end - 1}:
        packed.write_bytes(whole[:cut])
        with pytest.raises(tarfile.TarError):
            read(packed)


def test_a_missing_file_leaves_no_archive(tmp_path):
    with pytest.raises(FileNotFoundError):
        voc_server.pack(tmp_path / "z.tgz", tmp_path, names=[PurePosixPath("a/x.txt")])
    assert not list(tmp_path.iterdir())


def header(name, kind, size):
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "kind",
    [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE, b"?"],
    ids=["pax", "global pax", "long name", "file", "unknown"],
)
def test_bombs_are_not_read(tmp_path, kind, monkeypatch):
    """200 MB behind a header: of what tarfile would read at once, and of what it would skip."""
    size = 200_000_000
    path = tmp_path / "bomb.tgz"
    path.write_bytes(gzip.compress(header("x", kind, size) + b"1" * size, compresslevel=1))
    opened = []
    monkeypatch.setitem(
        archives.COMPRESSED,
        b"\x1f\x8b",
        lambda file: opened.append(gzip.GzipFile(fileobj=file)) or opened[0],
    )
    with pytest.raises(tarfile.TarError):
        read(path, size=10**9 if kind == b"?" else 10**6)
    assert opened[0].tell() < 2 * 10**6


def test_what_is_no_file_has_no_content(tmp_path):
    """A sparse file too, which is small in the archive and large beside it."""
    sparse = tarfile.TarInfo("sparse")
    sparse.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.size": "900",
        "GNU.sparse.map": "0,1",
    }
    sparse.size = 1
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "sparse"
    with tarfile.open(tmp_path / "z.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(sparse, io.BytesIO(b"x"))
        tar.addfile(link)
    assert read(tmp_path / "z.tar") == [("sparse", None), ("link", None)]
