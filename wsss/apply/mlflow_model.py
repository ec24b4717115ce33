"""The segmentation network as MLflow serves it. MLflow runs this file with the package beside it
(models from code) and unpickles nothing. ``model_registry.signature`` describes a request.
"""

import base64
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel

from wsss import models
from wsss.crf import CrfParams, DenseCRF
from wsss.datasets.photos import photo_size, read_photo
from wsss.errors import InputError
from wsss.io import artifacts
from wsss.models.ready import ready
from wsss.photos.segmentation import segment
from wsss.synthesis import labels_at


class SegmentationModel(PythonModel):
    """A segmentation network behind MLflow's ``predict``."""

    def load_context(self, context):
        """Open the network: artifact ``weights``, at the stride that it was evaluated at."""
        weights = context.artifacts["weights"]
        trained = models.open_network(weights, "segmentation", **context.model_config)
        self.network, self.classes = ready(trained.network), ("background", *trained.classes)

    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Label maps of photos, a row each: ``labels``, the bytes of a palette PNG of class
        numbers, of the photo's own size (upright, by its EXIF); ``classes``, the names of those in
        it, in their order.

        ``model_input`` has one column: the bytes of JPEG, PNG or WebP files, or these as base64.
        ``params`` are the signature's; a photo longer than ``long_side`` pixels is reduced (0:
        never). Raises MlflowException (HTTP status 400) for a row that is not a photo, by its
        number from 0.
        """
        rows = []
        for row, photo in enumerate(model_input.iloc[:, 0]):
            with TemporaryDirectory() as folder:
                path = Path(folder) / f"row {row}"
                try:
                    path.write_bytes(_photo_bytes(photo))
                    labels = self._label(path, **(params or {}))
                except InputError as fault:
                    message = str(fault).replace(str(path), path.name)
                    raise mlflow.MlflowException.invalid_parameter_value(message) from None
                artifacts.save_labels(path, labels)
                found = [self.classes[number] for number in np.unique(labels)]
                rows.append({"labels": path.read_bytes(), "classes": found})
        return pd.DataFrame(rows, columns=["labels", "classes"])

    def _label(self, path, *, long_side, scales, flip, crf_steps):
        image = read_photo(path, long_side=long_side)
        scores = segment(self.network, image, scales=scales, flip=flip).cpu().numpy()
        if crf_steps:
            scores = DenseCRF(image, CrfParams()).infer(scores, crf_steps)
        return labels_at(scores, range(1, len(scores)), size=photo_size(path))


def _photo_bytes(given):
    """A photo's bytes, decoded where they are base64: MLflow's server decodes ``dataframe_split``
    and ``dataframe_records``, but not ``inputs``.
    """
    given = given.encode() if isinstance(given, str) else bytes(given)
    try:
        return base64.b64decode(b"".join(given.split()), validate=True)
    except ValueError:
        return given


mlflow.models.set_model(SegmentationModel())
