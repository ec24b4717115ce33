"""From image-level labels to pixel labels: AffinityNet (Ahn & Kwak, CVPR 2018), the whole chain.

``__all__`` names what turns photos with image labels into label maps and scores them, imported on
first use: torch takes seconds, and ``wsss --help`` does not need it.
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

_NAMES = {  # of each module
    "cam": ("background_score", "multi_scale_cam"),
    "crf": ("CrfParams", "DenseCRF"),
    "errors": ("InputError",),
    "metrics": ("ConfusionMatrix",),
    "models": ("build_affinity", "build_cam", "build_segmentation", "open_network"),
    "synthesis": ("Walk", "synthesize"),
}
__all__ = [name for names in _NAMES.values() for name in names]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"wsss.{module}"), name)
    raise AttributeError(f"module 'wsss' has no attribute {name!r}")
