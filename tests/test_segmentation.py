"""Class probabilities of photos, with and without a walk, and the labels made from them."""

import numpy as np
import pytest
import torch
from test_random_walk import dense_walk

from wsss import models
from wsss.crf import CrfParams, DenseCRF
from wsss.datasets.voc import Devkit, read_mask
from wsss.photos.segmentation import segment, segment_job
from wsss.synthesis import Walk


def test_probabilities_have_the_photos_size_and_sum_to_one():
    torch.manual_seed(0)
    network = models.build_segmentation("small", 6, channels=8).eval()
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    plain = segment(network, image)
    assert plain.shape == (6, 50, 70)
    torch.testing.assert_close(plain.sum(0), torch.ones(50, 70))
    both = segment(network, image, flip=True)
    mirrored = segment(network, np.ascontiguousarray(image[:, ::-1])).flip(-1)
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
    before = segment(scorer, image, scales=(0.5, 1.0))
    after = segment(models.RandomWalkSegmenter(scorer, walker, **walk), image, scales=(0.5, 1.0))
    assert after.shape == before.shape == (4, 43, 61)
    torch.testing.assert_close(after.sum(0), torch.ones(43, 61), atol=1e-5, rtol=0)
    affinity = Walk(flip=flip).affinities(walker, image)
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
            job = segment_job(data, network, folder=tmp_path / name, crf=crf, crf_steps=2)
            job.postprocess(id, job.predict(id))
            best = segment(network, image).cpu().numpy()
            if crf:
                best = DenseCRF(image, crf).infer(best, 2)
            stored = read_mask(tmp_path / name / f"{id}.png", num_classes=5)
            assert (stored == best.argmax(0)).all()
