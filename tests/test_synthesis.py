"""Label synthesis: the stages in turn equal the one call; confident regions mean what they say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import wsss
import wsss.errors
from wsss import models
from wsss.affinity import boundaries
from wsss.crf import CrfParams, DenseCRF
from wsss.datasets.transforms import PAD, Samples, augment
from wsss.datasets.voc import Devkit, read_mask
from wsss.errors import InputError
from wsss.geometry import upsample
from wsss.io import artifacts
from wsss.photos.jobs import affinity_label_job, cam_job, walk_job
from wsss.synthesis import (
    Walk,
    alpha_marginals,
    cell_regions,
    combine_alphas,
    label_map,
    walk_scores,
)
from wsss.train.labels import RegionFolder


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return models.build_cam("small", 5).eval(), models.build_affinity("small").eval()


WALK = Walk(background_alpha=4, beta=2, steps=12, crf_steps=2)


def test_jobs_in_turn_equal_synthesize(tmp_path, tiny_shapes, networks):
    data, (cam, affinity) = Devkit(tiny_shapes), networks
    for id in data.ids("train")[:3]:
        jobs = [
            cam_job(data, cam, folder=tmp_path / "cams", scales=(1.0, 0.5), flip=True),
            walk_job(data, tmp_path / "cams", network=affinity, folder=tmp_path, walk=WALK),
        ]
        for job in jobs:
            assert not job.done(id)
            job.postprocess(id, job.predict(id))
            assert job.done(id)
        whole = wsss.synthesize(
            data.image(id), data.labels(id), cam, affinity, scales=(1.0, 0.5), walk=WALK
        )
        stored = read_mask(tmp_path / "labels" / f"{id}.png", num_classes=5)
        assert whole.dtype == np.uint8 and whole.shape == data.image(id).shape[:2]
        assert (whole == stored).mean() > 0.99  # the stored maps are float16
        assert set(np.unique(whole)) <= {0, *data.labels(id)}


def test_what_a_walk_took_from_a_maps_maximum_is_given_back():
    generator = torch.Generator().manual_seed(0)
    cams = torch.rand((3, 12, 16), generator=generator) ** 4
    cams[2] = 0  # a map that holds nothing
    affinity = torch.rand((34, 6, 8), generator=generator)
    plain = walk_scores(cams, affinity, walk=replace(WALK, steps=(3, 40)))
    peaks = plain[:, 1:].amax((-2, -1))
    assert peaks[1, :2].max() < 0.5 < cams[:2, ::2, ::2].amax((1, 2)).min()
    for share in (0.25, 1.0):
        walk = replace(WALK, steps=(3, 40), restore=share)
        found = walk_scores(cams, affinity, walk=walk)
        assert found.shape == plain.shape and torch.equal(found[:, 0], plain[:, 0])
        for (time, number), peak in np.ndenumerate(peaks.numpy()):
            expected = plain[time, 1 + number] * (peak**-share if peak else 0)
            torch.testing.assert_close(found[time, 1 + number], expected)
    assert found[:, 1:3].amax((-2, -1)).flatten().tolist() == pytest.approx([1] * 4)
    with pytest.raises(InputError, match="restore: expected a number from 0 to 1 but"):
        Walk(restore=1.5)


@pytest.mark.parametrize("width", [41, 44])
def test_with_flip_a_photo_and_its_mirror_image_agree(width):
    torch.manual_seed(0)
    network = models.build_affinity("small").eval()
    with torch.no_grad():
        network.mix.weight *= 300  # distances of about 1
    image = np.random.default_rng(0).integers(0, 256, (33, width, 3), dtype=np.uint8)
    columns = 41  # as many as the grid of 6 cells reaches over
    mirrored = np.concatenate([image[:, columns - 1 :: -1], image[:, columns:]], 1)
    there = boundaries(Walk(flip=True).affinities(network, mirrored))[:, ::-1]
    here = boundaries(Walk(flip=True).affinities(network, image))
    assert here.shape == (5, 6)
    if width == columns:
        np.testing.assert_allclose(here, there, atol=1e-2)  # networks run in bfloat16 where native
        plain = boundaries(Walk().affinities(network, image))
        assert np.abs(plain - here).max() > 5e-2


def test_a_photo_smaller_than_the_stride_is_labelled(networks):
    image = np.random.default_rng(0).integers(0, 256, (9, 5, 3), dtype=np.uint8)
    image.flags.writeable = False
    assert wsss.synthesize(image, [2], *networks, walk=WALK).shape == (9, 5)


def test_confident_regions_follow_the_two_alphas():
    """Straight from the definition, with the CRF called once for each alpha."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    cams = rng.random((2, 6, 8), dtype=np.float32) ** 2
    marginals = alpha_marginals(image, cams, alphas=(2, 9), crf_steps=3)
    regions = combine_alphas(*marginals, classes=[3, 7])
    maps = upsample(cams, (24, 32)).numpy()
    labels = []
    for alpha in (2, 9):
        scores = np.concatenate([(1 - maps.max(0, keepdims=True)) ** alpha, maps])
        labels.append(np.array([0, 3, 7])[DenseCRF(image).infer(scores, 3).argmax(0)])
    for y in range(24):
        for x in range(32):
            low, high = labels[0][y, x], labels[1][y, x]
            says_object, says_background = low != 0, high == 0
            if says_object == says_background:
                assert regions[y, x] == 255
            else:
                assert regions[y, x] == (low if says_object else 0)
    assert len(set(np.unique(regions)) & {0, 3, 7, 255}) >= 3


@pytest.fixture
def labelled(tmp_path, tiny_shapes, networks):
    """``(dataset, id, folder)``: a photo whose affinity labels and marginals are in the folder."""
    data = Devkit(tiny_shapes)
    id = next(id for id in data.ids("train") if len(data.labels(id)) > 1)
    settings = {"alpha_low": 1.5, "alpha_high": 9.0, "crf": CrfParams(), "crf_steps": 2}
    folders = {"folder": tmp_path / "affinity_labels", "marginals": tmp_path / "marginals"}
    cams = tmp_path / "cams"
    for job in (
        cam_job(data, networks[0], folder=cams, scales=(1.0,), flip=False),
        affinity_label_job(data, cams, **folders, **settings),
    ):
        job.postprocess(id, job.predict(id))
    return data, id, tmp_path


def test_affinity_label_job_writes_the_regions_of_the_maps(labelled):
    data, id, folder = labelled
    classes, cams = artifacts.load_cams(folder / "cams" / f"{id}.npz")
    again = alpha_marginals(data.image(id), cams, alphas=(1.5, 9.0), crf_steps=2)
    expected = combine_alphas(*again, classes=classes)
    assert (read_mask(folder / "affinity_labels" / f"{id}.png", num_classes=5) == expected).all()
    kept, marginals = artifacts.load_marginals(folder / "marginals" / f"{id}.npz")
    assert kept == classes
    np.testing.assert_allclose(marginals / 255, np.stack(again), atol=1 / 500)


def test_cells_decide_by_the_means_of_their_pixels():
    """Block by block, ragged edges included, and no label where there is no photo."""
    rng = np.random.default_rng(3)
    low, high = rng.random((2, 3, 13, 20), dtype=np.float32)
    low[:, :, 16:], high[:, :, 16:] = 0, 0
    cells = cell_regions(low, high, classes=[3, 7], stride=8)
    assert cells.shape == (2, 3) and (cells[:, 2] == 255).all()
    for y, x in np.ndindex(2, 2):
        block = np.s_[:, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
        lows, highs = low[block].mean((1, 2)), high[block].mean((1, 2))
        if lows.argmax() and highs.argmax():
            assert cells[y, x] == [0, 3, 7][lows.argmax()]
        elif not lows.argmax() and not highs.argmax():
            assert cells[y, x] == 0
        else:
            assert cells[y, x] == 255


@pytest.mark.parametrize("how", ["pixel", "majority", "probabilities"])
def test_crops_bring_the_labels_of_their_cells(labelled, how):
    """A crop larger than the photo: what lies outside is neutral; inside, labels lie on cells."""
    data, id, folder = labelled
    regions = RegionFolder(data, folder, how=how)
    transform = augment(200, jitter=0.0, mask_fill=regions.fill)
    samples = Samples(data, [id], transform=transform, target=regions, reduce=regions.reduce)
    image, cells = samples[0, 0]
    assert cells.shape == (25, 25) and cells.dtype == torch.int64
    assert set(cells.unique().tolist()) <= {0, 255, *data.labels(id)}
    padding = ((image - torch.tensor(PAD).view(3, 1, 1) / 255).abs() < 1e-3).all(0)
    outside = padding.unfold(0, 8, 8).unfold(1, 8, 8).flatten(2).all(2)
    assert outside.any() and (cells[outside] == 255).all()
    height, width = data.mask(id).shape
    inner = cells[cells != 255]
    assert len(inner) > 0.2 * height * width / 64
    if how == "pixel":
        whole = read_mask(folder / "affinity_labels" / f"{id}.png", num_classes=5)
        assert abs((cells == 0).sum().item() * 64 - (whole == 0).sum()) < 0.1 * whole.size


def test_missing_probabilities_and_unknown_ways_say_what_to_do(tmp_path, tiny_shapes):
    data = Devkit(tiny_shapes)
    with pytest.raises(InputError, match=r"affinity_labels\.marginals=true"):
        RegionFolder(data, tmp_path, how="probabilities")(data.ids("train")[0])
    with pytest.raises(InputError, match="cell_labels 'vote': expected one of pixel, majority"):
        RegionFolder(data, tmp_path, how="vote")


def test_label_map_names_the_present_classes():
    scores = np.zeros((3, 2, 2))
    scores[1, 0, 0] = scores[2, 0, 1] = scores[0, 1] = 1
    assert label_map(scores, [4, 9]).tolist() == [[4, 9], [0, 0]]


def test_kept_maps_come_back_and_damaged_files_are_refused(tmp_path):
    cams = np.random.default_rng(0).random((2, 5, 6), dtype=np.float32)
    artifacts.save_cams(tmp_path / "a.npz", [3, 20], cams=cams)
    classes, again = artifacts.load_cams(tmp_path / "a.npz")
    assert classes == [3, 20] and again.dtype == np.float32
    np.testing.assert_allclose(again, cams, atol=5e-4)
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:150])
    with pytest.raises(wsss.errors.InputError, match=r"b\.npz: not a file of activation maps"):
        artifacts.load_cams(tmp_path / "b.npz")
    with pytest.raises(wsss.errors.InputError, match="run infer_cam"):
        artifacts.load_cams(tmp_path / "c.npz")


def test_palette_is_vocs():
    assert artifacts.voc_palette()[[0, 1, 2, 8, 15, 20]].tolist() == [
        *([0, 0, 0], [128, 0, 0], [0, 128, 0], [64, 0, 0], [192, 128, 128], [0, 64, 128])
    ]
