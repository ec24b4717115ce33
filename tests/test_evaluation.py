"""Scores: the sweep against plain thresholding, lists, tables, and a network's probabilities."""

import numpy as np
import pytest
import torch
from test_random_walk import dense_walk

from wsss import models
from wsss.cam import background_score
from wsss.crf import CrfParams, DenseCRF
from wsss.datasets.voc import Devkit, read_mask
from wsss.io import artifacts
from wsss.metrics import ConfusionMatrix, ThresholdSweep, threshold_of
from wsss.photos import evaluation
from wsss.synthesis import affinities


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
        sweep.update(maps, classes, target)
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
    lists = evaluation.scored_lists(data, "train", tuning_photos=5)
    assert list(lists) == ["train", "train_tuning", "train_held_out"]
    assert sorted(lists["train_tuning"] + lists["train_held_out"]) == sorted(lists["train"])
    assert list(evaluation.scored_lists(data, "train")) == ["train"]
    gallery = evaluation.gallery_ids(data, "train", 4)
    assert gallery == evaluation.gallery_ids(data, "train", 4) and len(set(gallery)) == 4


def test_perfect_labels_score_100_and_regions_are_counted(tmp_path, tiny_shapes):
    data = Devkit(tiny_shapes)
    ids = data.ids("val")
    for id in ids:
        mask = data.mask(id)
        artifacts.save_labels(tmp_path / "all" / f"{id}.png", np.where(mask == 255, 0, mask))
        half = mask.copy()
        half[:, ::2] = 255
        artifacts.save_labels(tmp_path / "half" / f"{id}.png", half)
    whole = evaluation.score_labels(data, ids, tmp_path / "all").total(ids)
    assert whole.miou() == 1
    table = evaluation.iou_table(data, {"x": whole})
    assert (
        table["class"].tolist() == ["background", *data.classes, "mean"]
        and (table["x"].dropna() == 100).all()
    )
    regions = evaluation.score_regions(data, ids, tmp_path / "half")
    assert regions["regions_object_precision"] == regions["regions_background_precision"] == 1
    assert regions["regions_coverage"] == pytest.approx(0.5, abs=0.01)


def test_probabilities_have_the_photos_size_and_sum_to_one():
    torch.manual_seed(0)
    network = models.build_segmentation("small", 6, channels=8).eval()
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    plain = evaluation.segment(network, image)
    assert plain.shape == (6, 50, 70)
    torch.testing.assert_close(plain.sum(0), torch.ones(50, 70))
    both = evaluation.segment(network, image, flip=True)
    mirrored = evaluation.segment(network, np.ascontiguousarray(image[:, ::-1])).flip(-1)
    torch.testing.assert_close(both, (plain + mirrored) / 2, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("flip", [False, True])
def test_probabilities_walk_along_affinities(flip):
    torch.manual_seed(0)
    scorer = models.build_segmentation("small", 4, channels=8).eval()
    walker = models.build_affinity("small").eval()
    for network in (scorer, walker):
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):  # torch's own way lets the photo fade away
                torch.nn.init.kaiming_normal_(layer.weight)
    walk = {"beta": 0.5, "steps": 6, "flip": flip}
    image = np.random.default_rng(0).integers(0, 256, (43, 61, 3), dtype=np.uint8)
    before = evaluation.segment(scorer, image, scales=(0.5, 1.0))
    after = evaluation.segment(
        models.WalkedNetwork(scorer, walker, **walk), image, scales=(0.5, 1.0)
    )
    assert after.shape == before.shape == (4, 43, 61)
    torch.testing.assert_close(after.sum(0), torch.ones(43, 61), atol=1e-5, rtol=0)
    affinity = affinities(walker, image, flip=flip)
    wanted = dense_walk(before[:, ::8, ::8], affinity, 0.5, 6, 5)
    assert np.abs(wanted - before[:, ::8, ::8].numpy()).max() > 0.01  # there is something to see
    np.testing.assert_allclose(after[:, ::8, ::8], wanted, atol=1e-5)


def test_predictions_are_the_most_probable_classes_with_and_without_the_crf(tmp_path, tiny_shapes):
    data = Devkit(tiny_shapes)
    torch.manual_seed(0)
    network = models.build_segmentation("small", 6, channels=8).eval()
    for id in data.ids("train")[:4]:
        image = data.image(id)
        for name, crf in (("plain", None), ("crf", CrfParams())):
            job = evaluation.SegmentJob(data, network, tmp_path / name, crf=crf, crf_steps=2)
            job.finish(id, job.forward(id))
            best = evaluation.segment(network, image).cpu().numpy()
            if crf:
                best = DenseCRF(image, crf).infer(best, 2)
            stored = read_mask(tmp_path / name / f"{id}.png", num_classes=5)
            assert (stored == best.argmax(0)).all()
