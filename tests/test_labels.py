"""Label maps to train on; ``RegionFolder`` is tested beside what writes its files."""

import numpy as np
import pytest

from wsss.errors import InputError
from wsss.io.artifacts import save_labels
from wsss.train.labels import MaskFolder

CLASSES = ("cat", "big dog", "eel", "fox")


def test_shares_are_of_labelled_pixels_only(tmp_path):
    labels = np.zeros((4, 5), np.uint8)
    labels[0] = 255
    labels[1] = 2
    save_labels(tmp_path / "a.png", labels)
    save_labels(tmp_path / "b.png", np.full((1, 5), 3, np.uint8))
    folder = MaskFolder(tmp_path, CLASSES)
    np.testing.assert_allclose(folder.shares(["a", "b"]), [0.5, 0, 0.25, 0.25, 0])


def test_a_corrected_label_map_stands_in_for_the_synthesized_one(tmp_path):
    for id in ("a", "b/c"):
        save_labels(tmp_path / f"{id}.png", np.zeros((30, 40)))
    right = np.zeros((60, 80), np.uint8)
    right[20:, 40:] = 3
    folder = MaskFolder(tmp_path, CLASSES, corrected={"b/c": right})
    np.testing.assert_array_equal(folder("a"), np.zeros((30, 40)))
    np.testing.assert_array_equal(folder("b/c"), right[::2, ::2])
    np.testing.assert_allclose(folder.shares(["b/c"]), [2 / 3, 0, 0, 1 / 3, 0])
    for shape in ((15, 20), (80, 60), (60, 70)):
        folder = MaskFolder(tmp_path, CLASSES, corrected={"a": np.zeros(shape, np.uint8)})
        with pytest.raises(InputError, match="photo a, corrected by hand: the mask is"):
            folder("a")


@pytest.mark.parametrize("place", ["labels/classes.txt", "classes.txt"])
@pytest.mark.parametrize(
    "names", [("big dog", "cat", "eel", "fox"), CLASSES[:3], (*CLASSES, "gnu")]
)
def test_label_maps_of_other_classes_are_refused(tmp_path, place, names):
    (tmp_path / "labels").mkdir()
    (tmp_path / place).write_text("".join(f"{name}\n" for name in CLASSES))
    MaskFolder(tmp_path / "labels", CLASSES)
    (tmp_path / place).write_text("".join(f"{name}\n" for name in names))
    with pytest.raises(InputError, match="the dataset has cat, big dog, eel, fox; give it"):
        MaskFolder(tmp_path / "labels", CLASSES)
