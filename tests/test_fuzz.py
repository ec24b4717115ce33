"""A few spoilt files of every kind: readers return or raise InputError (see ``tests/fuzz.py``)."""

import pytest

from tests import fuzz

KINDS = fuzz.kinds()
FILES = 60  # of each kind


@pytest.mark.parametrize("name", KINDS)
def test_spoilt_files_never_do_worse_than_an_input_error(tmp_path, name):
    faults = []
    with fuzz.bounds():
        for number in range(FILES):
            _, fault = fuzz.trial(name, KINDS[name], 0, number, tmp_path)
            faults += [f"number {number}: {fault}"] if fault else []
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", KINDS)
def test_sound_files_are_read(tmp_path, name):
    """So that the spoiling, and not the sample, is what readers refuse."""
    kind = KINDS[name]
    for content in kind.sound:
        path = tmp_path / kind.name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        if name in ("tiff", "gif"):
            with pytest.raises(fuzz.InputError, match=f"but it is {name.upper()}"):
                kind.read(path)
        else:
            kind.read(path)


def test_what_readers_do_wrong_is_found(tmp_path):
    """A reader that raises another error, one that forgets the file, one that never ends."""

    def forgets(path):
        raise fuzz.InputError("something is wrong")

    path = tmp_path / "a"
    path.write_bytes(b"x")
    kind = fuzz.Kind("a", [b"x"], lambda path: [][0])
    assert "IndexError" in fuzz.fault_of(kind, path)
    assert "without the file" in fuzz.fault_of(kind._replace(read=forgets), path)
    with fuzz.bounds(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(fuzz, "SECONDS", 0.1)
        assert fuzz.fault_of(kind._replace(read=_sleep), path) == "too slow"


def _sleep(path):
    while True:
        pass
