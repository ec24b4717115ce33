"""Scores: the sweep against plain thresholding, lists, tables, and counts of each photo."""

import numpy as np
import pytest

from wsss.cam import background_score
from wsss.datasets.voc import Devkit
from wsss.errors import InputError
from wsss.io import artifacts
from wsss.metrics import ConfusionMatrix, ThresholdSweep, threshold_of
from wsss.photos import evaluation


@pytest.mark.parametrize("seed", range(3))
def test_sweep_equals_thresholding_at_each_value(seed):
    rng = np.random.default_rng(seed)
    thresholds = (0.1, 0.25, 0.5, 0.75)
    sweep = ThresholdSweep(5, thresholds)
    matrices = [ConfusionMatrix(5) for _ in thresholds]
    for classes in ([1, 3], [2], [1, 2, 4]):
        maps = rng.random((len(classes), 9, 11))
        maps[0, 0, :4] = thresholds  # exactly on the threshold is an object
        target = rng.choice([0, 1, 2, 3, 4, 255], (9, 11)).astype(np.uint8)
        sweep.update(maps, classes, target=target)
        for threshold, matrix in zip(thresholds, matrices, strict=True):
            best = np.array(classes)[maps.argmax(0)]
            matrix.update(np.where(maps.max(0) >= threshold, best, 0), target)
    for index, matrix in enumerate(matrices):
        assert (sweep.confusion(index).matrix == matrix.matrix).all()
    np.testing.assert_allclose(sweep.miou(), [matrix.miou() for matrix in matrices])


@pytest.mark.parametrize("alpha", [1.0, 2.0, 4.0, 16.0, 24.0])
def test_a_threshold_stands_for_an_alpha(alpha):
    m = np.linspace(0, 1, 1001)[None, None]  # one map
    wins = background_score(m, alpha) > m[0]
    assert (wins == (m[0] < threshold_of(alpha))).all()


def test_lists_part_the_split_and_gallery_is_fixed(tiny_shapes):
    data = Devkit(tiny_shapes)
    lists = evaluation.eval_splits(data, "train", tuning_photos=5)
    assert list(lists) == ["train", "train_tuning", "train_held_out"]
    assert sorted(lists["train_tuning"] + lists["train_held_out"]) == sorted(lists["train"])
    assert list(evaluation.eval_splits(data, "train")) == ["train"]
    gallery = evaluation.gallery_ids(data, "train", count=4)
    assert gallery == evaluation.gallery_ids(data, "train", count=4) and len(set(gallery)) == 4


def test_perfect_labels_score_100_and_regions_are_counted(tmp_path, tiny_shapes):
    data = Devkit(tiny_shapes)
    ids = data.ids("val")
    for id in ids:
        mask = data.mask(id)
        artifacts.save_labels(tmp_path / "all" / f"{id}.png", np.where(mask == 255, 0, mask))
        half = mask.copy()
        half[:, ::2] = 255
        artifacts.save_labels(tmp_path / "half" / f"{id}.png", half)
    whole = evaluation.score_labels(data, ids, folder=tmp_path / "all").total(ids)
    assert whole.miou() == 1
    table = evaluation.iou_table(data, {"x": whole})
    assert (
        table["class"].tolist() == ["background", *data.classes, "mean"]
        and (table["x"].dropna() == 100).all()
    )
    regions = evaluation.score_regions(data, ids, folder=tmp_path / "half")
    assert regions["regions_object_precision"] == regions["regions_background_precision"] == 1
    assert regions["regions_coverage"] == pytest.approx(0.5, abs=0.01)


def test_confusions_come_back_and_damaged_files_are_named(tmp_path):
    photos, matrices = [], []
    for number, id in enumerate(("2007_000032", "b")):
        photo = np.full((2, 2), number), np.array([[0, 1], [2, 255]])
        matrices.append(ConfusionMatrix(3))
        matrices[-1].update(*photo)
        photos.append((id, *photo))
    kept = evaluation.count_labels(photos, num_classes=3)
    path = tmp_path / "deep" / "c.npz"
    evaluation.save_confusions(path, kept)
    found = evaluation.load_confusions(path)
    assert found.ids == ["2007_000032", "b"] and "b" in found and "c" not in found
    counts = np.stack([matrix.matrix for matrix in matrices])
    np.testing.assert_array_equal(found.counts.toarray(), counts.reshape(2, -1))
    np.testing.assert_array_equal(found["b"].matrix, matrices[1].matrix)
    np.testing.assert_array_equal(found.total(found.ids).matrix, counts.sum(0))
    assert not found.total([]).matrix.any()
    assert evaluation.count_labels([], num_classes=3).counts.shape == (0, 9)
    (tmp_path / "c.npz").write_bytes(b"PK nothing")
    for path in (tmp_path / "c.npz", tmp_path / "none.npz"):
        with pytest.raises(InputError, match="not a file of confusion counts"):
            evaluation.load_confusions(path)
