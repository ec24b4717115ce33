"""Archives: what is packed comes back, and a small file cannot make the reader read for long."""

import gzip
import io
import tarfile

import pytest

from wsss.apply import archives


def test_what_is_packed_comes_back(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.txt").write_text("one")
    (tmp_path / "a" / "y.txt").write_text("two")
    archives.pack(tmp_path / "z.tgz", tmp_path, ["a/y.txt", "a/b/x.txt"])
    found = list(archives.members(tmp_path / "z.tgz", count=4, size=3))
    assert [(member.name, content) for member, content in found] == [
        ("a", b""),
        ("a/b", b""),
        ("a/b/x.txt", b"one"),
        ("a/y.txt", b"two"),
    ]
    for bounds in ({"count": 3, "size": 3}, {"count": 4, "size": 2}):
        with pytest.raises(tarfile.ReadError):
            list(archives.members(tmp_path / "z.tgz", **bounds))


def test_a_missing_file_leaves_no_archive(tmp_path):
    with pytest.raises(FileNotFoundError):
        archives.pack(tmp_path / "z.tgz", tmp_path, ["a/x.txt"])
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
def test_bombs_are_left_before_they_go_off(tmp_path, kind, monkeypatch):
    """200 MB behind a header: of what tarfile would read at once, and of what it would skip."""
    size = 200_000_000
    path = tmp_path / "bomb.tgz"
    path.write_bytes(gzip.compress(header("x", kind, size) + b"1" * size, compresslevel=1))
    taken = []
    monkeypatch.setattr(
        archives._Rationed,
        "read",
        lambda self, size, read=archives._Rationed.read: taken.append(size) or read(self, size),
    )
    with pytest.raises(tarfile.TarError):
        list(archives.members(path, count=9, size=10**9 if kind == b"?" else 10**6))
    assert sum(taken) < 2 * 10**6


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
    found = {m.name: c for m, c in archives.members(tmp_path / "z.tar", count=9, size=999)}
    assert found == {"sparse": None, "link": None}
