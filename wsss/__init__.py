"""From image-level labels to pixel labels: AffinityNet (Ahn & Kwak, CVPR 2018), the whole chain.

The front door: the names in ``__all__`` turn photos with image labels into label maps and score
them. They are imported on first use: torch takes seconds, and ``wsss --help`` does not need it.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsss.cam import background_score, multi_scale_cam
    from wsss.crf import CrfParams, DenseCRF
    from wsss.errors import InputError
    from wsss.metrics import ConfusionMatrix
    from wsss.models import build_affinity, build_cam, build_segmentation, open_network
    from wsss.synthesis import Walk, synthesize

# MLflow reads these when it is first imported. Without them it reports its use to its makers, and
# where these cannot be reached, processes start and end slowly.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
# How often torch's threads (GNU OpenMP) look for work before they sleep; read when torch is first
# imported. The default is milliseconds, in which they hold a core that a loader's worker or another
# program needs: RESULTS.md has the cost.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__version__ = "0.1.0"

_HOMES = {  # name to the module that defines it
    "ConfusionMatrix": "metrics",
    "CrfParams": "crf",
    "DenseCRF": "crf",
    "InputError": "errors",
    "Walk": "synthesis",
    "background_score": "cam",
    "build_affinity": "models",
    "build_cam": "models",
    "build_segmentation": "models",
    "multi_scale_cam": "cam",
    "open_network": "models",
    "synthesize": "synthesis",
}
__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"wsss.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'wsss' has no attribute {name!r}")
