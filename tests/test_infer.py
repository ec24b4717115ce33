"""The map over photos: what exists is skipped, faults are told at the end, files appear whole."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from wsss import storage
from wsss.errors import InputError
from wsss.infer import infer


@dataclass
class Doubling:
    """Writes twice the photo's number; refuses those that are named bad."""

    folder: Path

    def done(self, id):
        return (self.folder / id).exists()

    def forward(self, id):
        if id.startswith("bad"):
            raise InputError(f"{id}: cannot be read; replace it")
        return int(id)

    def finish(self, id, payload):
        with storage.atomic(self.folder / id) as partial:
            partial.write_text(str(2 * payload))


def test_all_photos_are_computed_once(tmp_path):
    ids = [str(n) for n in range(11)]
    assert infer(ids[:4], Doubling(tmp_path), label="t", processes=1) == 4
    (tmp_path / "0").write_text("kept")
    assert infer(ids, Doubling(tmp_path), label="t", processes=2) == 7
    assert (tmp_path / "0").read_text() == "kept"
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"0": "kept"} | {
        n: str(2 * int(n)) for n in ids[1:]
    }
    assert infer(ids, Doubling(tmp_path), label="t") == 0


def test_a_bad_photo_does_not_stop_the_others(tmp_path):
    with pytest.raises(
        InputError, match=r"bad\d: cannot be read; replace it \(and 1 more photos failed\)"
    ):
        infer(["1", "bad1", "2", "bad2", "3"], Doubling(tmp_path), label="t", processes=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2", "3"]


def test_interrupted_writes_leave_nothing(tmp_path):
    with pytest.raises(RuntimeError), storage.atomic(tmp_path / "x.npz") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
