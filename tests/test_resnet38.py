"""ResNet-38 against a plain reading of the paper, and the names of its tensors in two spellings."""

import pytest
import torch
import torch.nn.functional as F

from wsss.models.backbones.catalogue import build_backbone
from wsss.models.backbones.layers import freeze_batch_norm
from wsss.models.backbones.resnet38 import ResNet38

# block: (channels in, of the first convolution, out, stride, dilations of the two 3x3)
BASIC = {
    "b2": (64, 128, 128, 2, 1, 1),
    "b2_1": (128, 128, 128, 1, 1, 1),
    "b2_2": (128, 128, 128, 1, 1, 1),
    "b3": (128, 256, 256, 2, 1, 1),
    "b3_1": (256, 256, 256, 1, 1, 1),
    "b3_2": (256, 256, 256, 1, 1, 1),
    "b4": (256, 512, 512, 2, 1, 1),
    **{f"b4_{i}": (512, 512, 512, 1, 1, 1) for i in range(1, 6)},
    "b5": (512, 512, 1024, 1, 1, 2),
    "b5_1": (1024, 512, 1024, 1, 2, 2),
    "b5_2": (1024, 512, 1024, 1, 2, 2),
}
DEEP = {"b6": (1024, 512, 1024, 2048, 4), "b7": (2048, 1024, 2048, 4096, 4)}


def tensors():
    """The shape of each tensor, by the authors' names."""
    shapes = {"conv1a.weight": (64, 3, 3, 3)}

    def norm(name, channels):
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{tensor}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    for name, (inputs, middle, outputs, stride, _, _) in BASIC.items():
        norm(f"{name}.bn_branch2a", inputs)
        norm(f"{name}.bn_branch2b1", middle)
        shapes[f"{name}.conv_branch2a.weight"] = (middle, inputs, 3, 3)
        shapes[f"{name}.conv_branch2b1.weight"] = (outputs, middle, 3, 3)
        if inputs != outputs or stride != 1:
            shapes[f"{name}.conv_branch1.weight"] = (outputs, inputs, 1, 1)
    for name, (inputs, first, second, outputs, _) in DEEP.items():
        norm(f"{name}.bn_branch2a", inputs)
        norm(f"{name}.bn_branch2b1", first)
        norm(f"{name}.bn_branch2b2", second)
        shapes[f"{name}.conv_branch2a.weight"] = (first, inputs, 1, 1)
        shapes[f"{name}.conv_branch2b1.weight"] = (second, first, 3, 3)
        shapes[f"{name}.conv_branch2b2.weight"] = (outputs, second, 1, 1)
        shapes[f"{name}.conv_branch1.weight"] = (outputs, inputs, 1, 1)
    norm("bn7", 4096)
    return shapes


def random_state():
    """Tensors of a trained net's size: activations neither die nor explode."""
    state = {}
    for name, shape in tensors().items():
        if name.endswith("running_var"):
            state[name] = torch.empty(shape).uniform_(0.5, 1.5)
        elif len(shape) == 4:
            state[name] = torch.randn(shape) / (shape[1] * shape[2] * shape[3]) ** 0.5
        elif shape:
            state[name] = torch.empty(shape).uniform_(0.1, 0.6)
        else:
            state[name] = torch.tensor(0)
    return state


def reference(state, images):
    """Features of the last three levels by plain functions, straight from the table."""

    def norm_relu(x, name):
        mean, var, weight, bias = (
            state[f"{name}.{t}"].view(-1, 1, 1)
            for t in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * weight + bias).relu()

    def conv(x, name, stride=1, dilation=1):
        weight = state[f"{name}.weight"]
        reach = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, stride=stride, padding=reach, dilation=dilation)

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = conv((images - mean.view(-1, 1, 1)) / std.view(-1, 1, 1), "conv1a")
    kept = {}
    for name, (inputs, _, outputs, stride, first, second) in BASIC.items():
        active = kept[name] = norm_relu(x, f"{name}.bn_branch2a")
        changes = inputs != outputs or stride != 1
        side = conv(active, f"{name}.conv_branch1", stride) if changes else x
        y = conv(active, f"{name}.conv_branch2a", stride, first)
        y = norm_relu(y, f"{name}.bn_branch2b1")
        x = side + conv(y, f"{name}.conv_branch2b1", 1, second)
    for name, (*_, dilation) in DEEP.items():
        active = kept[name] = norm_relu(x, f"{name}.bn_branch2a")
        y = norm_relu(conv(active, f"{name}.conv_branch2a"), f"{name}.bn_branch2b1")
        y = norm_relu(conv(y, f"{name}.conv_branch2b1", 1, dilation), f"{name}.bn_branch2b2")
        x = conv(active, f"{name}.conv_branch1") + conv(y, f"{name}.conv_branch2b2")
    return kept["b3"], kept["b4"], kept["b5"], kept["b6"], norm_relu(x, "bn7")


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return random_state()


def test_the_trunk_holds_the_authors_228_tensors_and_105_million_parameters(state):
    backbone = build_backbone("resnet38", output_stride=8)
    own = {name: tuple(tensor.shape) for name, tensor in backbone.body.state_dict().items()}
    assert own == tensors() and len(own) == 228
    assert sum(p.numel() for p in backbone.parameters()) == 105_070_912
    assert backbone.strides[-3:] == (8, 8, 8) and backbone.channels[-3:] == (512, 1024, 4096)


def test_features_equal_the_plain_reference_before_and_after_norms_are_frozen(state):
    backbone = build_backbone("resnet38", output_stride=8)
    backbone.body.load_state_dict(state)
    backbone.eval()
    images = torch.rand(1, 3, 37, 52)
    with torch.inference_mode():
        expected = reference(state, images)
        assert expected[-1].std() > 0.01  # alive
        for frozen in (False, True):
            if frozen:
                freeze_batch_norm(backbone)
            for level, wanted in zip(backbone(images), expected, strict=True):
                torch.testing.assert_close(level, wanted, rtol=1e-3, atol=1e-4)


def mxnet_names():
    """Each tensor of the MXNet file and its name here, spelt out from the block's number."""
    names = {"arg:conv1a_weight": "conv1a.weight"}

    def norm(theirs, ours):
        names[f"arg:{theirs}_gamma"] = f"{ours}.weight"
        names[f"arg:{theirs}_beta"] = f"{ours}.bias"
        names[f"aux:{theirs}_moving_mean"] = f"{ours}.running_mean"
        names[f"aux:{theirs}_moving_var"] = f"{ours}.running_var"

    for name in (*BASIC, *DEEP):
        level, _, block = name[1:].partition("_")
        theirs = f"{level}b{block}" if block else f"{level}a"
        for branch in ("branch2a", "branch2b1", "branch2b2", "branch1"):
            if f"{name}.conv_{branch}.weight" in tensors():
                names[f"arg:res{theirs}_{branch}_weight"] = f"{name}.conv_{branch}.weight"
            if f"{name}.bn_{branch}.weight" in tensors():
                norm(f"bn{theirs}_{branch}", f"{name}.bn_{branch}")
    norm("bn7", "bn7")
    return names


def test_every_name_of_the_mxnet_file_finds_its_tensor():
    names = mxnet_names()
    given = {theirs: ours for theirs, ours in names.items()}
    given |= {"arg:linear1000_weight": "x", "arg:linear1000_bias": "x"}
    found, skipped = ResNet38.adapt(given)
    assert found == {ours: ours for ours in names.values()}
    assert len(found) == 191  # 228 less torch's 37 counters of batches
    assert set(skipped) == {"arg:linear1000_weight", "arg:linear1000_bias"}


def test_names_of_no_layer_are_kept_and_refused_later():
    found, _ = ResNet38.adapt({"arg:res9a_branch2a_weight": 1, "arg:bn7_delta": 2})
    assert found == {"b9.conv_branch2a.weight": 1, "bn7_delta": 2}
