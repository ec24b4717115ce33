"""Exports of the segmentation network: what other programs get is what the network gives."""

import builtins
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from wsss import cli, models
from wsss.apply import onnx_export
from wsss.errors import InputError
from wsss.photos.segmentation import segment

SIZES = ((1, 64, 96), (3, 75, 50), (1, 121, 200))  # none of them those of the export's own check
CLASSES = ["ant", "bee", "wäsp"]


def network_file(folder, backbone="small", fine=()):
    """A network of random weights whose pixels differ in class, in a file."""
    torch.manual_seed(0)
    arguments = {
        "backbone": backbone,
        "output_stride": 16,
        "channels": 8,
        "low_level_channels": list(fine),
    }
    network = models.build_segmentation(num_classes=4, **arguments).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):  # torch's own way lets the photo fade from layer to layer
            nn.init.kaiming_normal_(layer.weight)
    with torch.no_grad():  # so that no class wins everywhere
        given = [
            torch.from_numpy(onnx_export.photos(*size)).permute(0, 3, 1, 2) / 255 for size in SIZES
        ]
        scores = torch.cat([network(pixels).flatten(2).mean(2) for pixels in given])
        network.classifier.bias -= scores.mean(0)
    models.save_network(
        folder / "weights.pt", network, kind="segmentation", classes=CLASSES, **arguments
    )
    return folder / "weights.pt"


def answers(file, photos):
    """``(labels, probabilities)`` by the evaluation, in float32 whatever the processor."""
    network = models.open_network(file, "segmentation").network
    with torch.autocast("cpu", enabled=False), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "wsss.runtime.devices.precision", lambda device, training=False: torch.float32
        )
        scores = torch.stack([segment(network, photo) for photo in photos])
    return scores.argmax(1).numpy(), scores.numpy()


@pytest.mark.parametrize(
    ("backbone", "fine"), [("small", ()), ("small", (4, 8)), ("mobilenet_v2", (4, 8))]
)
def test_onnx_and_torch_answer_as_the_network(tmp_path, backbone, fine, capsys):
    file = network_file(tmp_path, backbone, fine)
    onnx_file, torch_file = tmp_path / "a.onnx", tmp_path / "a.pt2"
    for format, out in (("onnx", onnx_file), ("torch", torch_file)):
        assert cli.main(["export", format, "--run", str(file), "--out", str(out)]) == 0
        assert f"{out}: probabilities differ by at most " in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(onnx_file))
    kept = {"description.json": ""}
    module = torch.export.load(torch_file, extra_files=kept).module()
    seen = set()
    for size in SIZES:
        photos = onnx_export.photos(*size)
        labels, scores = answers(file, photos)
        seen |= {*labels.ravel().tolist()}
        for theirs in (
            session.run(["labels", "probabilities"], {"photos": photos}),
            [part.numpy() for part in module(torch.from_numpy(photos))],
        ):
            assert theirs[0].dtype == np.uint8
            np.testing.assert_allclose(theirs[1], scores, atol=1e-4)
            assert (theirs[0] != labels).mean() < 1e-3
    assert len(seen) > 1
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata == json.loads(kept["description.json"])
    assert json.loads(metadata["classes"]) == ["background", *CLASSES]
    assert [value.shape for value in (*session.get_inputs(), *session.get_outputs())] == [
        ["batch", "height", "width", 3],
        ["batch", "height", "width"],
        ["batch", 4, "height", "width"],
    ]
    onnx.checker.check_model(str(onnx_file), full_check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.pt2", "weights.pt"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda labels, scores: [labels, scores + 0.01], "differ by at most 1.0e-02"),
        (lambda labels, scores: [3 - labels, scores], "labels at 100.000% of the pixels"),
        (lambda labels, scores: [labels, scores * np.nan], "at most nan"),
        (lambda labels, scores: [labels, scores[..., 1:]], "another size than the network"),
    ],
)
def test_an_export_with_other_answers_is_refused(tmp_path, change, reason):
    network = models.open_network(network_file(tmp_path), "segmentation").network
    labeller = onnx_export.Labeller(network)

    def export(photos):
        with torch.no_grad():
            labels, scores = labeller(torch.from_numpy(photos))
        return change(np.where(labels == 0, 1, labels).astype(np.uint8), scores.numpy())

    with pytest.raises(InputError, match=reason) as raised:
        onnx_export.compare(labeller, export, out=tmp_path / "a.onnx")
    assert "\n" not in str(raised.value)


def test_a_refused_file_is_not_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    out = tmp_path / "a.pt2"
    given = ["--run", str(network_file(tmp_path)), "--out", str(out)]
    assert cli.main(["export", "torch", *given]) == 2
    assert "a.pt2: expected the network's results" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_without_onnx_the_mend_is_reported(tmp_path, monkeypatch, capsys, missing):
    real = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == missing:
            raise ImportError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    given = ["--run", str(network_file(tmp_path)), "--out", str(tmp_path / "a.onnx")]
    assert cli.main(["export", "onnx", *given]) == 2
    error = capsys.readouterr().err
    assert f"found no {missing}; pip install 'wsss[onnx]'" in error and error.count("\n") == 1


def test_another_network_is_refused(tmp_path, capsys):
    network = models.build_cam("small", 3, output_stride=8)
    file = tmp_path / "w.pt"
    models.save_network(
        file, network, kind="cam", classes=CLASSES, backbone="small", output_stride=8
    )
    given = ["--run", str(file), "--out", str(tmp_path / "a.pt2")]
    assert cli.main(["export", "torch", *given]) == 2
    assert "expected: segmentation network, found: CAM network" in capsys.readouterr().err


def test_a_network_with_a_walk_is_refused(tmp_path, capsys):
    """Rather than exported without it, which would be another protocol."""
    network = models.build_affinity("small", output_stride=8)
    affinity, file = tmp_path / "a.pt", tmp_path / "w.pt"
    models.save_network(
        affinity, network, kind="affinity", classes=CLASSES, backbone="small", output_stride=8
    )
    models.add_walk(file, network_file(tmp_path), affinity=affinity, beta=1.0, steps=2, flip=False)
    for format in ("onnx", "torch"):
        out = tmp_path / f"x.{format}"
        assert cli.main(["export", format, "--run", str(file), "--out", str(out)]) == 2
        assert "give its train_segmentation" in capsys.readouterr().err and not out.exists()
