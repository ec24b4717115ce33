"""The segmentation network as MLflow serves it: photos in, label maps out.

MLflow runs this file by itself (models from code), with the package beside it: nothing is
unpickled, and ``weights.pt`` holds tensors and plain values alone. ``registry`` says what a request
looks like.
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
        trained = models.open_network(
            context.artifacts["weights"], "segmentation", **context.model_config
        )
        self.network, self.classes = ready(trained.network), ("background", *trained.classes)

    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Label maps of photos.

        Args:
            context: MLflow's.
            model_input: one column, the bytes of JPEG, PNG or WebP files, or these as base64.
            params: all of the signature's, which has the defaults: ``long_side``, the pixels that
                a photo's longer side is brought down to for the work (0: never); ``scales``,
                ``flip`` and ``crf_steps`` as in 70_evaluate.

        Returns:
            a data frame, a row a photo: ``labels``, the bytes of a palette PNG of the photo's own
            size (upright, as its EXIF says), whose values are class numbers; ``classes``, the
            names of those that it shows, in their order.

        Raises:
            MlflowException: a row that is no photo, by its number from 0 (HTTP status 400).
        """
        rows = []
        for row, photo in enumerate(model_input.iloc[:, 0]):
            with TemporaryDirectory() as folder:
                place = Path(folder) / f"row {row}"
                try:
                    place.write_bytes(photo_bytes(photo))
                    labels = label_photo(self.network, place, **params)
                except InputError as fault:
                    message = str(fault).replace(str(place), place.name)
                    raise mlflow.MlflowException.invalid_parameter_value(message) from None
                artifacts.save_labels(place, labels)
                found = [self.classes[number] for number in np.unique(labels)]
                rows.append({"labels": place.read_bytes(), "classes": found})
        return pd.DataFrame(rows, columns=["labels", "classes"])


def photo_bytes(given):
    """A photo's bytes, out of base64 where they are in it: MLflow's server takes
    ``dataframe_split`` and ``dataframe_records`` out of it; ``inputs`` come as they were sent.
    """
    given = given.encode() if isinstance(given, str) else bytes(given)
    try:
        return base64.b64decode(b"".join(given.split()), validate=True)
    except ValueError:
        return given


def label_photo(network, path, *, long_side=0, scales=(1.0,), flip=False, crf_steps=0):
    """The label map, uint8 (H, W), of a photo's file at its own size; arguments as the ``params``
    of ``predict``.
    """
    image = read_photo(path, long_side=long_side)
    scores = segment(network, image, scales=scales, flip=flip).cpu().numpy()
    if crf_steps:
        scores = DenseCRF(image, CrfParams()).infer(scores, crf_steps)
    return labels_at(scores, range(1, len(scores)), size=photo_size(path))


mlflow.models.set_model(SegmentationModel())
