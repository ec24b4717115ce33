"""The segmentation network for other programs: ONNX, and torch's own exported program (.pt2).

Both map ``photos``, uint8 RGB (B, H, W, 3), any number of one size, to ``labels``, uint8 (B, H, W),
and ``probabilities``, float32 (B, classes, H, W), as ``segmentation.segment`` does at scale 1.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import wsss
from wsss import models
from wsss.affinity import STRIDE
from wsss.errors import InputError
from wsss.geometry import upsample
from wsss.io import atomic
from wsss.models.backbones.layers import fold_norms

TOLERANCE = 1e-3  # of a probability: rounding differs by 1e-5, a cell out of place by far more
SHARE = 1e-3  # of the pixels that may get another label, where two classes are as probable
SIZES = ((2, 97, 130), (1, 160, 96), (1, 201, 333))  # (B, H, W) of the photos that are compared


class Labeller(nn.Module):
    """A segmentation network from decoded photos to labels."""

    def __init__(self, network):
        super().__init__()
        if isinstance(network, models.RandomWalkSegmenter):
            raise InputError(
                "export: expected a network that ends with its scores, but this one walks along "
                "affinities; give its train_segmentation, whose labels are those before the walk"
            )
        fold_norms(network)
        self.network = network.requires_grad_(False)
        decoder = isinstance(network, models.DecoderNetwork)
        self.stride = STRIDE if decoder else network.backbone.strides[-1]

    def forward(self, photos):
        scores = self.network(photos.permute(0, 3, 1, 2).contiguous().float() / 255)
        scores = upsample(scores, photos.shape[1:3], stride=self.stride).softmax(1)
        return scores.argmax(1).to(torch.uint8), scores


def export(source: Path, out: Path, *, form: str) -> str:
    """Write a trained network for other programs; returns the difference, see ``compare``. Raises
    InputError if it is not a segmentation network, ONNX is not installed, or the results differ.

    Args:
        source: its weights file, or the folder with it.
        out: the file; it appears once the network's results are computed from it.
        form: ``onnx``, or ``torch``: ``torch.export.load(out).module()(photos)``.
    """
    trained = models.open_network(source, "segmentation")
    labeller = Labeller(trained.network)
    about = {
        "classes": json.dumps(["background", *trained.classes], ensure_ascii=False),
        "network": json.dumps(trained.arguments),
        "input": "photos, uint8 RGB (batch, height, width, 3)",
        "output": "labels, uint8 (batch, height, width), numbers of classes; "
        "probabilities, float32 (batch, classes, height, width)",
        "wsss": wsss.__version__,
    }
    with torch.no_grad():
        program = torch.export.export(
            labeller,
            (torch.from_numpy(photos(2, 97, 130)),),  # one photo would be taken for a constant
            dynamic_shapes={"photos": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC}},
        )
    with atomic.write(out) as partial:
        run = {"onnx": _write_onnx, "torch": _write_torch}[form](program, about, partial)
        return compare(labeller, run, out=out)


def _write_onnx(program, about, path):
    """Write a program as ONNX, weights included; returns it as onnxruntime computes it."""
    try:
        import onnx  # noqa: F401 - torch writes ONNX through it and onnxscript
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as missing:
        raise InputError(
            f"export onnx: expected onnx, onnxscript and onnxruntime but found no {missing.name}; "
            "pip install 'wsss[onnx]'"
        ) from None
    names = ["labels", "probabilities"]
    written: Any = torch.onnx.export(program, output_names=names, verbose=False)
    free = written.model.graph.inputs[0].shape[:3]
    written.rename_axes(dict(zip(free, ("batch", "height", "width"), strict=True)))
    written.model.metadata_props.update(about)
    written.save(path, external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda photos: session.run(None, {"photos": photos})


def _write_torch(program, about, path):
    """Write torch's exported program with a ``description.json``; returns it as torch reads it."""
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={"description.json": json.dumps(about)})
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return lambda photos: module(torch.tensor(photos))


def photos(count: int, height: int, width: int) -> np.ndarray:
    """Generate photos with soft blots and grain, uint8 (count, height, width, 3), seed 0."""
    noise = torch.Generator().manual_seed(0)
    blots = torch.rand(count, 3, 5, 5, generator=noise)
    blots = F.interpolate(blots, (height, width), mode="bilinear", align_corners=True)
    grain = 0.1 * torch.randn(count, 3, height, width, generator=noise)
    return (255 * (blots + grain).clamp(0, 1)).byte().permute(0, 2, 3, 1).contiguous().numpy()


@torch.no_grad()
def compare(labeller: Labeller, run: Callable, *, out: Path) -> str:
    """How far an export is from its network on photos of ``SIZES``, as text; ``run`` computes
    ``(labels, probabilities)`` of photos by the export, as arrays or tensors. InputError if the
    difference is beyond ``TOLERANCE`` or ``SHARE``.
    """
    largest, unequal = 0.0, []
    for size in SIZES:
        given = photos(*size)
        labels, scores = (part.numpy() for part in labeller(torch.from_numpy(given)))
        exported_labels, exported_scores = map(np.asarray, run(given))
        if exported_scores.shape != scores.shape or exported_labels.shape != labels.shape:
            raise InputError(f"{out}: gives maps of another size than the network; not written")
        largest = float(np.maximum(largest, np.abs(exported_scores - scores).max()))  # nan stays
        unequal.append((exported_labels != labels).ravel())
    share, count = np.concatenate(unequal).mean(), sum(size[0] for size in SIZES)
    difference = (
        f"probabilities differ by at most {largest:.1e}, labels at {share:.3%} of the pixels, on "
        f"{count} photos of {len(SIZES)} sizes"
    )
    if largest <= TOLERANCE and share <= SHARE:  # False for nan
        return difference
    raise InputError(
        f"{out}: expected the network's results (within {TOLERANCE:.0e}, {SHARE:.1%} of the "
        f"pixels), but {difference}; not written: export with another version of torch"
    )
