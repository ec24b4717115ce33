"""From image-level labels to pixel labels: AffinityNet (Ahn & Kwak, CVPR 2018), the whole chain."""

import os

# MLflow reports its use to its makers unless it finds these when it is first imported; where it
# cannot reach them, starts and ends of processes wait for it.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
# How often torch's threads (of GNU OpenMP) look whether they may go on before they sleep, unless
# it is told when torch is first imported; by default for milliseconds. Where something else wants a
# core, a loader's worker or another program, the thread that is waited for waits itself for one
# that looks: RESULTS.md has what that costs.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__version__ = "0.1.0"

__all__ = ["__version__", "synthesize"]


def __getattr__(name):
    # torch takes seconds to import, and `wsss --help` needs none of it
    if name == "synthesize":
        from wsss.synthesis import synthesize

        return synthesize
    raise AttributeError(f"module 'wsss' has no attribute {name!r}")
