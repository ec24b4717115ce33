"""Digests of contents: equal to a plain hash, remembered, and never of what a file was before."""

import hashlib
import os

import pytest

from wsss.io import contents


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    """A memory of its own, in which files count as settled at once; returns its path."""
    monkeypatch.setattr(contents, "MEMORY", tmp_path / "cache" / "contents.sqlite")
    monkeypatch.setattr(contents, "SETTLED", 0)
    return contents.MEMORY


@pytest.fixture
def files(tmp_path):
    found = []
    for number in range(20):
        found.append(tmp_path / f"{number}.bin")
        found[-1].write_bytes(bytes([number]) * 1000 * number)
    return found


@pytest.fixture
def read(monkeypatch):
    """The files that were read, in any order."""
    seen, plain = [], contents._read

    def reading(path):
        seen.append(path)
        return plain(path)

    monkeypatch.setattr(contents, "_read", reading)
    return seen


def test_digests_are_of_the_bytes_in_the_files_order(files):
    plain = [hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest() for path in files]
    assert contents.digests(files) == plain
    assert contents.digests(files[::-1]) == plain[::-1]  # now from memory
    assert contents.digest(files[3]) == plain[3]


def test_unchanged_files_are_read_once(files, read):
    contents.digests(files)
    assert sorted(read) == sorted(files)
    read.clear()
    contents.digests(files)
    assert not read


def test_a_change_is_seen_whatever_size_and_time_say(files, read):
    before = contents.digests(files)
    status = files[7].stat()
    files[7].write_bytes(b"x" * status.st_size)
    os.utime(files[7], ns=(status.st_atime_ns, status.st_mtime_ns))
    read.clear()
    after = contents.digests(files)
    assert read == [files[7]]
    assert [a != b for a, b in zip(before, after, strict=True)] == [k == 7 for k in range(20)]


def test_a_file_that_took_anothers_place_is_read(files, tmp_path):
    contents.digests(files)
    os.replace(files[2], files[1])
    assert contents.digest(files[1]) == hashlib.blake2b(b"\2" * 2000, digest_size=8).hexdigest()


def test_a_file_that_may_change_within_a_tick_is_not_remembered(files, read, monkeypatch):
    monkeypatch.setattr(contents, "SETTLED", 3600 * 10**9)
    contents.digests(files)
    contents.digests(files)
    assert len(read) == 2 * len(files)


@pytest.mark.parametrize("spoil", ["a folder", "no database", "no permission"])
def test_without_memory_every_file_is_read(files, read, memory, spoil):
    if spoil == "a folder":
        memory.mkdir(parents=True)
    elif spoil == "no database":
        memory.parent.mkdir()
        memory.write_text("no database " * 1000)
    else:
        memory.parent.write_text("a file in the folder's place")
    assert contents.digests(files) == contents.digests(files)
    assert len(read) == 2 * len(files)


def test_a_folder_is_its_names_and_contents_links_included(tmp_path):
    folder, other = tmp_path / "folder", tmp_path / "other"
    for place in (folder / "inner", other):
        place.mkdir(parents=True)
    (folder / "inner" / "a").write_text("a")
    (folder / ".hidden").write_text("-")
    (other / "b").write_text("b")
    (folder / "linked").symlink_to(other)
    (other / "back").symlink_to(folder)  # and round again
    found = contents.of_folder(folder)
    assert list(found) == ["inner/a", "linked/b"]
    assert list(contents.of_folder(folder, without=["inner/a"])) == ["linked/b"]
    before = contents.manifest(found)
    (other / "b").write_text("c")
    assert contents.manifest(contents.of_folder(folder)) != before
    (other / "b").write_text("b")
    assert contents.manifest(contents.of_folder(folder)) == before
    (other / "b").rename(other / "c")
    assert contents.manifest(contents.of_folder(folder)) != before
    assert before["files"] == 2


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        contents.digest(tmp_path / "none")
