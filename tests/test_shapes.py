"""The generated dataset: layout, determinism, truth of its labels, and that only badges tell the
class.
"""

import json

import numpy as np
import pytest
from PIL import Image

from wsss import datasets
from wsss.datasets import shapes
from wsss.datasets.voc import Devkit
from wsss.errors import InputError
from wsss.io.artifacts import IGNORE


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return shapes.generate(tmp_path_factory.mktemp("data") / "shapes", train=6, val=2)


def photos(count, seed=7):
    return [shapes.compose(np.random.default_rng([seed, number])) for number in range(count)]


def files(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_is_a_sound_devkit(small):
    data = Devkit(small)
    assert data.classes == tuple(shapes.GLYPHS)
    assert len(data.ids("train")) == 6 and data.ids("train") == data.ids("train_aug")
    assert len(data.ids("val")) == 2 and not set(data.ids("val")) & set(data.ids("train"))
    assert data.check(["train_aug", "val"], masks=["train", "val"]) == []


def test_image_labels_are_the_masks_classes(small):
    data = Devkit(small)
    for id in data.ids("train") + data.ids("val"):
        values = set(np.unique(data.mask(id)).tolist())
        assert values - {0, IGNORE} == set(data.labels(id))
        assert {0, IGNORE} < values


def test_masks_are_kept_with_vocs_palette(small):
    with Image.open(Devkit(small).mask_path("train_0000")) as mask:
        assert mask.mode == "P"
        assert mask.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]


def test_same_seed_same_files(small, tmp_path):
    again = shapes.generate(tmp_path / "resumed", train=6, val=2)
    assert files(again) == files(small)


def test_other_seed_other_photos(small, tmp_path):
    other = files(shapes.generate(tmp_path / "other", train=1, val=1, seed=2))
    for name in ("JPEGImages/train_0000.jpg", "SegmentationClassAug/train_0000.png"):
        assert other[name] != files(small)[name]


def test_a_photo_does_not_depend_on_the_counts(small, tmp_path):
    fewer = files(shapes.generate(tmp_path / "fewer", train=2, val=1))
    for name in ("JPEGImages/train_0001.jpg", "JPEGImages/val_0000.jpg"):
        assert fewer[name] == files(small)[name]
    assert fewer["JPEGImages/train_0000.jpg"] != fewer["JPEGImages/val_0000.jpg"]


def test_only_badges_tell_the_class(monkeypatch):
    before = photos(4)
    names = list(shapes.GLYPHS)
    turned = {
        name: shapes.GLYPHS[other] for name, other in zip(names, names[1:] + names[:1], strict=True)
    }
    monkeypatch.setattr(shapes, "GLYPHS", turned)  # every class wears the next one's glyph
    for (photo, mask, badges), (changed, same_mask, same_badges) in zip(
        before, photos(4), strict=True
    ):
        np.testing.assert_array_equal(mask, same_mask)
        np.testing.assert_array_equal(badges, same_badges)
        differs = (photo != changed).any(-1)
        assert differs.any()
        near = np.zeros_like(differs)  # blur carries a change a few pixels past the badge
        for dy in range(-4, 5):
            for dx in range(-4, 5):
                near |= np.roll(badges > 0, (dy, dx), (0, 1))
        assert not (differs & ~near).any()


def test_badges_are_a_small_part_of_every_class():
    for _, mask, badges in photos(12):
        for value in set(np.unique(mask).tolist()) - {0, IGNORE}:
            creature, badge = (mask == value).sum(), (badges == value).sum()
            assert (
                0.05 < badge / (creature + badge) < 0.3
            )  # of whole ones 0.1 to 0.15; some are half hidden
            assert badge > 130  # pixels: that of a disc 13 across, nearly two cells at stride 8


def test_photos_hold_several_classes_and_creatures_that_touch():
    several = touching = 0
    for photo, mask, _ in photos(12):
        assert photo.dtype == mask.dtype == np.uint8 and photo.shape == (*mask.shape, 3)
        assert all(shapes.SIDES[0] <= side < shapes.SIDES[1] for side in mask.shape)
        assert 0.3 < (mask == 0).mean() < 0.95
        values = set(np.unique(mask).tolist()) - {0, IGNORE}
        assert values and max(values) <= len(shapes.GLYPHS)
        several += len(values) > 1
        left, right = mask[:, :-3], mask[:, 3:]  # two classes with only the border between them
        touching += ((left != right) & (left % IGNORE > 0) & (right % IGNORE > 0)).any()
    assert several >= 3 and touching >= 2


@pytest.mark.parametrize("inside", [True, False])
def test_refuses_a_place_that_is_taken(tmp_path, inside):
    taken = tmp_path / "mine"
    note = taken / "notes.txt" if inside else taken
    note.parent.mkdir(exist_ok=True)
    note.write_text("keep me")
    with pytest.raises(InputError, match="choose another data_root") as error:
        shapes.generate(taken, train=1, val=1)
    assert "\n" not in str(error.value)
    assert files(tmp_path) == {str(note.relative_to(tmp_path)): b"keep me"}


@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": 0}, {"seed": -1}])
def test_refuses_impossible_arguments(tmp_path, wrong):
    with pytest.raises(InputError, match="expected counts"):
        shapes.generate(tmp_path / "shapes", **{"train": 1, "val": 1, **wrong})
    assert not any(tmp_path.iterdir())


def test_fills_an_empty_folder_and_says_how(tmp_path):
    assert shapes.generate(str(tmp_path), train=1, val=1, seed=3) == tmp_path
    made = json.loads((tmp_path / "shapes.json").read_text())
    assert made == {"generator_version": shapes.VERSION, "train": 1, "val": 1, "seed": 3}


def test_a_finished_folder_is_left_as_it_is(small, monkeypatch):
    before = files(small)
    monkeypatch.setattr(shapes, "compose", lambda rng: pytest.fail("drew a photo again"))
    assert shapes.generate(small, train=9, seed=5) == small
    assert files(small) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch, error):
    draw, drawn = shapes.compose, []

    def stop_at_second(rng):
        drawn.append(1)
        if len(drawn) == 2:
            raise error
        return draw(rng)

    monkeypatch.setattr(shapes, "compose", stop_at_second)
    with pytest.raises(error):
        shapes.generate(tmp_path / "shapes", train=3, val=1)
    assert not any(tmp_path.iterdir())


def test_a_quicker_process_wins(tmp_path, monkeypatch):
    root, draw = tmp_path / "shapes", shapes.compose

    def overtaken(rng):
        monkeypatch.setattr(shapes, "compose", draw)
        shapes.generate(root, train=1, val=1, seed=1)
        return draw(rng)

    monkeypatch.setattr(shapes, "compose", overtaken)
    assert shapes.generate(root, train=1, val=1, seed=2) == root
    assert json.loads((root / "shapes.json").read_text())["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_the_few_and_the_many_are_not_taken_for_each_other(tmp_path):
    few = datasets.open("shapes_few", tmp_path / "few")
    assert datasets.open("shapes_few", tmp_path / "few").ids("train") == few.ids("train")
    with pytest.raises(InputError, match=r"expected 240 \+ 60 photos but found 8 \+ 4; give"):
        datasets.open("shapes", tmp_path / "few")
