"""Where the suite works: a folder with a tiny dataset, an experiment of all nine stages, and an
output folder and a tracking store for each chain of runs.
"""

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from wsss.datasets import shapes

ROOT = Path(__file__).parents[2]
EXPERIMENT = "faults"
CHECKPOINT_MINUTES = 0.02  # where the training notebooks have such a parameter
_TRAINED = {"epochs": 3, "batch_size": 4, "crop": 48, "workers": 1}

# The smallest chain that leaves time to be interrupted: some seconds of work in most stages.
STAGES = {
    "dataset": {},
    "train_cam": {**_TRAINED, "soup_size": 2},
    "infer_cam": {"scales": [0.5]},
    "affinity_labels": {"crf_steps": 2},
    "train_affinity": _TRAINED,
    "random_walk": {"steps": 8, "crf_steps": 2},
    "train_segmentation": {**_TRAINED, "channels": 16, "low_level_channels": [4, 8]},
    "evaluate": {"model_name": "faults-network"},
    "report": {},
}


def experiment(data_root):
    """The experiment as a dict; training keeps checkpoints often where its notebooks can."""
    stages = {name: dict(values) for name, values in STAGES.items()}
    for path in (ROOT / "notebooks").glob("[0-9][0-9]_train_*.ipynb"):
        if has_parameter(path, "checkpoint_minutes"):
            stages[path.stem[3:]]["checkpoint_minutes"] = CHECKPOINT_MINUTES
    common = {"dataset": "shapes", "data_root": str(data_root), "processes": 2}
    return {"name": EXPERIMENT, "common": common, "stages": stages}


def has_parameter(notebook, name):
    """Whether the parameters cell of a notebook has a line of that name."""
    for cell in json.loads(Path(notebook).read_text())["cells"]:
        if "parameters" in cell["metadata"].get("tags", ()):
            return any(line.startswith(f"{name}:") for line in cell["source"])
    return False


@dataclass
class Chain:
    """Runs of the experiment into one output folder, until it is complete.

    Attributes:
        folder: of this chain's files.
        sheet: the experiment's file.
        uri: of its tracking store.
        outputs: folder, as the runs know it.
        seen: the same, as the suite can read it.
        prefix: words before the command, such as those that enter a namespace.
        extra: environment variables to add.
    """

    folder: Path
    sheet: Path
    uri: str = ""
    outputs: Path = None
    seen: Path = None
    prefix: tuple = ()
    extra: dict = field(default_factory=dict)

    def __post_init__(self):
        self.folder.mkdir(parents=True)
        self.uri = self.uri or f"sqlite:///{self.folder / 'mlflow.db'}"
        self.outputs = self.outputs or self.folder / "outputs"
        self.seen = self.seen or self.outputs

    def command(self, *arguments):
        return [*self.prefix, sys.executable, "-m", "wsss", "run", str(self.sheet), *arguments]

    def environment(self):
        path = [self.extra.get("PYTHONPATH"), str(ROOT), os.environ.get("PYTHONPATH")]
        return (
            os.environ
            | {"WSSS_OUTPUTS": str(self.outputs), "MLFLOW_TRACKING_URI": self.uri}
            | {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONUNBUFFERED": "1"}
            | self.extra
            | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
        )


class Place:
    """The suite's scratch folder."""

    def __init__(self, root):
        self.root, self._count = Path(root), 0
        data = shapes.generate(self.root / "data", train=24, val=8)
        self.sheet = self.root / f"{EXPERIMENT}.yaml"
        self.sheet.write_text(yaml.safe_dump(experiment(data), sort_keys=False))

    def chain(self, name, **settings):
        return Chain(self.root / name, self.sheet, **settings)
