"""Whole files of others: what they are, that every tensor finds its place, and the commands."""

import pytest
import torch
from test_mxnet_caffe import blob, field, mx_array, mx_list
from test_resnet38 import tensors as resnet38_tensors

from wsss import models
from wsss.cli import main
from wsss.errors import InputError
from wsss.models import load_state
from wsss.models.backbones.catalogue import BACKBONES, build_backbone
from wsss.models.imported import authors


def identify(path):
    return authors.identify(load_state(path), path)


def vgg16_shapes():
    """The authors' names for VGG16 are Caffe's."""
    shapes, inputs = {}, 3
    for level, (width, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1):
        for index in range(1, count + 1):
            shapes[f"conv{level}_{index}.weight"] = (width, inputs, 3, 3)
            shapes[f"conv{level}_{index}.bias"] = (width,)
            inputs = width
    return shapes | {
        "fc6.weight": (1024, 512, 3, 3),
        "fc6.bias": (1024,),
        "fc7.weight": (1024, 1024, 1, 1),
        "fc7.bias": (1024,),
    }


FEATURES = {
    "f8_3.weight": (64, 512, 1, 1),
    "f8_4.weight": (128, 1024, 1, 1),
    "f8_5.weight": (256, 4096, 1, 1),
    "f9.weight": (448, 448, 1, 1),
}
NORMS = {
    f"gn8_{n}.{t}": (width,)
    for n, width in ((3, 64), (4, 128), (5, 256))
    for t in ("weight", "bias")
}
AUTHORS = {
    "res38_cls": resnet38_tensors() | {"fc8.weight": (20, 4096, 1, 1)},
    "res38_aff": resnet38_tensors() | FEATURES,
    "vgg16_cls": vgg16_shapes() | {"fc8.weight": (20, 1024, 1, 1)},
    "vgg16_aff": vgg16_shapes()
    | FEATURES
    | NORMS
    | {"f8_4.weight": (128, 512, 1, 1), "f8_5.weight": (256, 1024, 1, 1)},
}


def filled(shapes):
    """Tensors that differ from one another, each one number that takes no room on disk."""
    return {
        name: torch.tensor(0) if not shape else torch.full((1,), 1.0 + place).expand(shape)
        for place, (name, shape) in enumerate(shapes.items())
    }


@pytest.mark.parametrize("name", AUTHORS)
def test_every_tensor_of_the_authors_checkpoints_finds_its_place(tmp_path, name):
    given = filled(AUTHORS[name])
    # as they were saved, years ago
    torch.save(given, tmp_path / f"{name}.pth", _use_new_zipfile_serialization=False)
    content = identify(tmp_path / f"{name}.pth")
    assert not content.skipped
    convolutions = {n for n, shape in AUTHORS[name].items() if len(shape) == 4}
    kept = sorted(float(t.flatten()[0]) for t in content.state.values() if t.dim() == 4)
    scales = [n for n in content.state if n.endswith(".scale")]
    assert kept == sorted(
        [float(given[n].flatten()[0]) for n in convolutions]
        + [float(content.state[n].flatten()[0]) for n in scales]
    )
    backbone = name.replace("res38", "resnet38")[:-4]
    network = (
        models.build_cam(backbone, 20, output_stride=8)
        if name.endswith("cls")
        else models.build_affinity(backbone, norm_group=8 if backbone == "vgg16" else 0)
    )
    models.fit_state(network, content.state, source=name)
    if backbone == "resnet38":  # a frozen norm is what its four tensors say
        mean, var, weight, bias = (
            float(given[f"b3.bn_branch2b1.{t}"].flatten()[0])
            for t in ("running_mean", "running_var", "weight", "bias")
        )
        folded = network.backbone.body.b3.conv_branch2a
        assert folded.scale.flatten()[0].item() == pytest.approx(weight / (var + 1e-5) ** 0.5)
        expected = bias - mean * weight / (var + 1e-5) ** 0.5
        assert folded.shift[0].item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"conv5_2.weight": None}, "has no 'conv5_2.weight'"),
        ({"extra.weight": (2, 2)}, "has 'extra.weight', which the network does not"),
        ({"f8_4.weight": None}, "has no 'f8_4.weight'"),
        ({"f9.weight": (9, 448, 1, 1)}, r"has 'mix.weight' of shape \(9, 448, 1, 1\)"),
        ({"gn8_5.bias": None}, "has no 'gn8_5.bias'"),
    ],
)
def test_checkpoints_with_a_tensor_too_many_or_too_few_are_refused(tmp_path, change, reason):
    shapes = {k: v for k, v in (AUTHORS["vgg16_aff"] | change).items() if v is not None}
    torch.save(filled(shapes), tmp_path / "a.pth")
    with pytest.raises(InputError, match=reason):
        identify(tmp_path / "a.pth")


def caffemodel(path, *, more=b""):
    """DeepLab's file: V1 layers, biases of four dimensions."""
    torch.manual_seed(0)
    state = {n: torch.randn(s) for n, s in vgg16_shapes().items()}
    layers = [n.removesuffix(".weight") for n in state if n.endswith(".weight")]
    net = b"".join(
        field(
            2,
            field(4, layer.encode())
            + field(6, blob(state[f"{layer}.weight"].numpy(), old=True))
            + field(6, blob(state[f"{layer}.bias"].numpy(), old=True)),
        )
        for layer in layers
    )
    path.write_bytes(net + more)
    return state


def test_a_caffemodel_serves_as_weights_and_converts(tmp_path, capsys):
    last = field(6, blob(torch.zeros(21, 3).numpy())) + field(6, blob(torch.zeros(21).numpy()))
    fc8 = field(2, field(4, b"fc8") + last)
    state = caffemodel(tmp_path / "vgg16_20M.caffemodel", more=fc8)
    network = models.build_cam(
        "vgg16", 3, weights=tmp_path / "vgg16_20M.caffemodel", output_stride=8
    )
    printed = capsys.readouterr().out
    assert "took 30 tensors, left out fc8.weight (ImageNet's classifier), fc8.bias (" in printed
    for name, tensor in network.backbone.body.state_dict().items():
        assert torch.equal(tensor, state[name])
    target = tmp_path / "out" / "vgg16.pt"
    command = ["weights", "convert", str(tmp_path / "vgg16_20M.caffemodel"), str(target)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert (
        "ImageNet weights of vgg16" in printed
        and "left out: fc8.weight (ImageNet's classifier)" in printed
    )
    again = models.build_cam("vgg16", 3, weights=target, output_stride=8)
    assert torch.equal(again.backbone.body.fc6.weight, state["fc6.weight"])
    assert main(command) == 2 and "exists already" in capsys.readouterr().err


def test_show_lists_tensors_and_says_what_they_are(tmp_path, capsys):
    caffemodel(tmp_path / "a.caffemodel")
    assert main(["weights", "show", str(tmp_path / "a.caffemodel")]) == 0
    printed = capsys.readouterr().out
    assert "fc6.weight" in printed and "1024x512x3x3" in printed and "float32" in printed
    assert "a.caffemodel: ImageNet weights of vgg16" in printed


def test_mxnet_names_of_another_network_are_refused_with_what_is_known(tmp_path, capsys):
    array = torch.zeros(3).numpy()
    (tmp_path / "a.params").write_bytes(mx_list([mx_array(array, 2)], ["arg:fc1_weight"]))
    assert main(["weights", "show", str(tmp_path / "a.params")]) == 2
    printed = capsys.readouterr()
    assert "arg:fc1_weight" in printed.out
    assert "1 tensors (arg:fc1_weight, ...) of an unknown network" in printed.err


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet50", "resnet38"])
def test_imagenet_weights_are_recognised_by_their_names(tmp_path, backbone):
    built = build_backbone(backbone, output_stride=8)
    shapes = {n: tuple(t.shape) for n, t in built.body.state_dict().items()}
    torch.save(filled(shapes), tmp_path / "a.pth")
    assert identify(tmp_path / "a.pth").what == f"ImageNet weights of {backbone}"
    wrong = next(n for n, shape in shapes.items() if len(shape) == 4)
    torch.save(filled(shapes | {wrong: (9, 9)}), tmp_path / "a.pth")
    with pytest.raises(InputError, match=rf"'{wrong}' of shape \(9, 9\), expected"):
        identify(tmp_path / "a.pth")


def test_download_says_where_weights_come_from_that_torchvision_lacks():
    for backbone in ("resnet38", "vgg16"):
        with pytest.raises(InputError, match="give a file: ") as raised:
            models.build_cam(backbone, 4, weights="download", output_stride=8)
        assert BACKBONES[backbone].origin in str(raised.value)
