"""Reading the pretrained classifier as one of other classes, and averaging with it."""

import pytest
import torch
import torch.nn.functional as F
import torchvision

from wsss import models
from wsss.datasets.voc import Devkit
from wsss.errors import InputError
from wsss.models.imported import imagenet_classifier


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A weight file in torchvision's layout, and torchvision's own network with these weights."""
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v2(weights=None).eval()
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(network.state_dict(), path)
    return path, network


def test_a_class_is_what_its_photos_are_taken_for(tiny_shapes, pretrained):
    path, reference = pretrained
    data = Devkit(tiny_shapes)
    ids = data.ids("train")[:6]
    network = models.build_cam("mobilenet_v2", 5, weights=path, output_stride=32)
    imagenet_classifier.init_from_imagenet(
        network, "mobilenet_v2", weights=path, dataset=data, ids=ids
    )
    guesses = {}
    for id in ids:
        photo = torch.tensor(data.image(id)).permute(2, 0, 1)[None] / 255
        sides = [round(side * 256 / max(photo.shape[-2:])) for side in photo.shape[-2:]]
        photo = F.interpolate(photo, sides, mode="bilinear", align_corners=False)
        normal = torchvision.transforms.functional.normalize(
            photo, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        )
        with torch.no_grad():
            guesses[id] = reference(normal).softmax(1)[0]
    rows = reference.classifier[1].weight.detach()
    for number in range(1, 6):
        on = [guesses[id] for id in ids if number in data.labels(id)]
        off = [guesses[id] for id in ids if number not in data.labels(id)]
        if not on or not off:
            continue
        lift = torch.stack(on).mean(0) - torch.stack(off).mean(0)
        expected = sum(
            max(float(more), 0) * (row - rows.mean(0)) for more, row in zip(lift, rows, strict=True)
        )
        got = network.classifier.weight[number - 1].detach().flatten()
        torch.testing.assert_close(
            got, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max())
        )


def test_without_a_pretrained_classifier_the_mend_is_named(tiny_shapes, pretrained, tmp_path):
    data = Devkit(tiny_shapes)
    network = models.build_cam("small", 5)
    with pytest.raises(InputError, match="set weights, or wise_ft_alpha to 0"):
        imagenet_classifier.init_from_imagenet(
            network, "small", weights="", dataset=data, ids=data.ids("train")
        )
    state = pretrained[1].features.state_dict()
    torch.save({f"features.{name}": tensor for name, tensor in state.items()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth: has no classifier .* set wise_ft_alpha to 0"):
        imagenet_classifier.init_from_imagenet(
            network,
            "mobilenet_v2",
            weights=tmp_path / "w.pth",
            dataset=data,
            ids=data.ids("train"),
        )


def test_the_mean_of_two_networks():
    torch.manual_seed(0)
    trained, start = models.build_cam("small", 5), models.build_cam("small", 5)
    torch.nn.init.normal_(start.classifier.weight, std=9)
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    imagenet_classifier.interpolate(trained, start, alpha=0.25)
    after, begun = trained.state_dict(), start.state_dict()
    name = "backbone.levels.2.0.weight"
    torch.testing.assert_close(after[name], 0.75 * before[name] + 0.25 * begun[name])
    name = "classifier.weight"  # rows of any length: the start's are brought to the trained one's
    scaled = begun[name] * before[name].norm() / begun[name].norm()
    torch.testing.assert_close(after[name], 0.75 * before[name] + 0.25 * scaled)
